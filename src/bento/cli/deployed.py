"""`bento deploy`, `invoke`, `ls`, `inspect`, `renew`, `stop`, `share`, `accept`: functions that outlive a command."""

import argparse
import contextlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bento.cli import printable, progress
from bento.cli.running import talk, until_done
from bento.cli.sessions import detach
from bento.cli.users import parse_argument, parse_seconds
from bento.client import Client, Deployed
from bento.client.conversation import ending
from bento.errors import NoSuchInstance
from bento.protocol.messages import State
from bento.ticket import MAX_TICKET_CHARS
from bento.tor.box_list import ListedBox


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the commands."""

    def command(name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        parser: argparse.ArgumentParser = subparsers.add_parser(name, help=text)
        parser.add_argument("--net", type=Path, metavar="DIR", help="a private network's directory (else BENTO_NET)")
        parser.set_defaults(run=run)
        return parser

    deploy = command("deploy", _deploy, "spawn a function and let it run")
    deploy.add_argument("file", type=Path, metavar="FILE")
    deploy.add_argument("--name", required=True, metavar="NAME", help="what it is called here")
    deploy.add_argument("--box", metavar="FP", help="the fingerprint of the box to ask")
    invoke = command("invoke", _invoke, "call a function that was deployed or accepted")
    ls = command("ls", _ls, "list what was deployed and accepted; asks nobody")
    inspect = command("inspect", _inspect, "ask a function's box how it is")
    renew = command("renew", _renew, "let a function run on")
    stop = command("stop", _stop, "end a function")
    share = command("share", _share, "print a ticket, which lets another user invoke the function")
    accept = command("accept", _accept, "take in a ticket from stdin")
    accept.add_argument("--name", required=True, metavar="NAME", help="what it is to be called here")
    for parser in (invoke, inspect, renew, stop, share):
        parser.add_argument("name", metavar="NAME")
    invoke.add_argument("words", nargs="+", metavar="ENTRY ARG", help="the function to call, and arguments as for run")
    invoke.add_argument("--detach", action="store_true", help="leave it running, and print an id for `bento attach`")
    for parser in (deploy, renew):
        parser.add_argument("--lease", type=parse_seconds, metavar="S", help="seconds until it ends, unless renewed")
    for parser in (deploy, ls, inspect):
        parser.add_argument("--json", action="store_true", help="one JSON value on stdout")


def _deploy(args: argparse.Namespace) -> int:
    client = _client(args)

    async def work() -> None:
        deployed = await client.deploy(args.file, name=args.name, box=args.box, lease_s=args.lease)
        progress.clear()
        if args.json:
            print(json.dumps(_object(deployed)))
        else:
            print(f"{deployed.name} runs at {deployed.box} until {_moment(deployed.expires_s)}")

    return until_done(work())


def _invoke(args: argparse.Namespace) -> int:
    entry, *words = args.words
    arguments = [parse_argument(text) for text in words]
    client = _client(args)

    async def work() -> None:
        async with client.function(args.name) as instance:
            await talk(instance, entry, arguments)

    return until_done(detach(client, args.name, entry, arguments) if args.detach else work())


def _ls(args: argparse.Namespace) -> int:
    found, damaged = _client(args).functions()
    if args.json:
        rows = [_object(record) | {"own": record.is_own, "state": _state(record)} for record in found]
        print(json.dumps(rows, indent=2))
    elif found:
        width = max(4, *(len(record.name) for record in found))
        print(f"{'NAME':{width}}  {'BOX':40}  {'STATE':8}  {'UNTIL':19}  FROM")
        for record in found:
            origin = "here" if record.is_own else "a ticket"
            until = _moment(record.expires_s)
            print(f"{record.name:{width}}  {record.box}  {_state(record):8}  {until:19}  {origin}")
    for error in damaged:
        print(f"bento: left out: {error.message} ({error.hint})", file=sys.stderr)
    return 0


def _inspect(args: argparse.Namespace) -> int:
    client = _client(args)

    async def work() -> None:
        state: State | None = None
        async with client.function(args.name) as instance:
            box = instance.box
            with contextlib.suppress(NoSuchInstance):  # an answer as others: it ended long ago
                state = await instance.status()
        progress.clear()
        record = client.find(args.name)
        sessions = client.sessions(args.name).ids
        if args.json:
            print(json.dumps(_inspected(record, box, state) | {"sessions": sessions}))
        else:
            _print_inspected(record, box, state)
            if sessions:
                print(f"  sessions  {' '.join(sessions)}")

    return until_done(work())


def _renew(args: argparse.Namespace) -> int:
    client = _client(args)

    async def work() -> None:
        renewed = await client.renew(args.name, args.lease)
        progress.clear()
        print(f"{renewed.name} runs until {_moment(renewed.expires_s)}")

    return until_done(work())


def _stop(args: argparse.Namespace) -> int:
    client = _client(args)

    async def work() -> None:
        how = await client.stop(args.name)
        progress.clear()
        print(f"{args.name} has ended: {printable(how)}")

    return until_done(work())


def _share(args: argparse.Namespace) -> int:
    print(_client(args).share(args.name))
    return 0


def _accept(args: argparse.Namespace) -> int:
    client = _client(args)
    if sys.stdin.isatty():
        print("bento: paste the ticket, then press Enter and Ctrl-D", file=sys.stderr)
    ticket = sys.stdin.buffer.read(MAX_TICKET_CHARS).decode(errors="replace")

    async def work() -> None:
        accepted = await client.accept(ticket, args.name)
        print(f"{accepted.name} can be invoked; it runs at {accepted.box}", file=sys.stderr)

    return until_done(work())


def _client(args: argparse.Namespace) -> Client:
    return Client(net=args.net, report=progress.report)


def _object(record: Deployed) -> dict[str, Any]:
    """The fields that all commands share; `expires` in Unix seconds, null if its box was never asked."""
    expires = record.expires_s and round(record.expires_s)
    return {"name": record.name, "box": record.box, "instance": record.instance, "expires": expires}


def _state(record: Deployed) -> str:
    """By the record alone."""
    if record.is_expired:
        return "expired"
    if record.is_starting:
        return "starting"
    return "unknown" if record.expires_s is None else "leased"


def _inspected(record: Deployed, box: ListedBox, state: State | None) -> dict[str, Any]:
    return _object(record) | {
        "nickname": box.nickname,
        "own": record.is_own,
        "running": state is not None and state.running,
        "lease_s": state.lease_s if state is not None and state.running else 0,
        "cause": state and state.cause,
        "rule": state.rule if state else "",
        "limit": state.limit if state else 0,
    }


def _print_inspected(record: Deployed, box: ListedBox, state: State | None) -> None:
    if state is None:
        text = "has ended: its box does not know it (any more)"
    elif state.running:
        text = f"runs; its lease ends in {state.lease_s} s, at {_moment(record.expires_s)}"
    else:
        text = f"has ended: {printable(ending(state))}"
    print(f"{record.name} {text}")
    print(f"  box       {box.fingerprint} {box.nickname}")
    print(f"  instance  {record.instance}")
    print(f"  from      {'here' if record.is_own else 'a ticket: it can be invoked, neither renewed nor stopped'}")


def _moment(unix_s: float | None) -> str:
    """Local time, to the second; - if it is not known."""
    return "-" if unix_s is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(unix_s))
