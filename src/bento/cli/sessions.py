"""`bento invoke --detach` and `bento attach`: a call goes on without its command, and its output is taken up later."""

import argparse
import asyncio
import sys
from pathlib import Path
from typing import Any

from bento.cli import progress, tell
from bento.cli.running import read_input, show, until_done
from bento.client import Client
from bento.client.sessions import attach, begin
from bento.errors import BentoError, BoxUnreachable, FunctionRaised, LimitReached, Unreachable
from bento.protocol.inner import INPUT_WINDOW_BYTES


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `attach`."""
    parser: argparse.ArgumentParser = subparsers.add_parser("attach", help="take up the output of a detached call")
    parser.add_argument("name", metavar="NAME")
    parser.add_argument("session", metavar="SESSION", help="what `bento invoke --detach` printed")
    parser.add_argument("--net", type=Path, metavar="DIR", help="a private network's directory (else BENTO_NET)")
    parser.set_defaults(run=_attach)


async def detach(client: Client, name: str, entry: str, arguments: list[Any]) -> None:
    """Call an entry with stdin as its input, leave it running, and print the session's id."""
    sessions = client.sessions(name)
    data = await read_input(INPUT_WINDOW_BYTES)
    async with client.function(name) as instance:
        session = await sessions.create(entry, data)
        try:
            await begin(instance, session, tuple(arguments), data)
        except (asyncio.CancelledError, Unreachable):
            _say(f"the call may have begun; see with: bento attach {name} {session.id}")
            raise
        except BentoError:
            await sessions.remove(session)
            raise
        progress.clear()
        print(session.id, flush=True)


def _attach(args: argparse.Namespace) -> int:
    client = Client(net=args.net, report=progress.report)
    again = f"bento attach {args.name} {args.session}"
    status = 0

    async def work() -> None:
        nonlocal status
        try:
            status = await _show(client, args.name, args.session.lower())
        except (asyncio.CancelledError, BrokenPipeError):
            _say(f"detached; the call goes on. Attach again with: {again}")
            raise
        except BoxUnreachable as error:
            error.hint = f"the call may go on; try again with: {again}"
            raise

    return until_done(work()) or status


async def _show(client: Client, name: str, session: str) -> int:
    """Show a session from where it stands to its end. Returns: the exit status that its end stands for."""
    sessions = client.sessions(name)
    sessions.verify(session)
    async with client.function(name) as instance, attach(instance, sessions, session) as attachment:
        _say(f"output from byte {attachment.start} on")
        try:
            await show(attachment)
        except (FunctionRaised, LimitReached) as error:
            if not attachment.is_over:
                raise
            return tell(error)  # now, since behind this block nobody could tell it again
    return 0


def _say(text: str) -> None:
    progress.clear()
    print(f"bento: {text}", file=sys.stderr, flush=True)
