"""Bento's own tor, as the agent gets it: started here for the live network, lent by a private network's supervisor."""

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import msgspec

from bento.client.profile import Profile
from bento.errors import NetworkDown, TorUnavailable
from bento.tor.circuits import ANSWER_LIMIT_S, allow_exit_to_self
from bento.tor.control import Control
from bento.tor.process import client_lines, log_tail, start_tor

READY_LIMIT_S: Final = 180.0
"""For tor's first start on a slow line: it fetches some 10 MB of directory. Later starts take seconds."""

_LEND_LIMIT_S: Final = 15.0
"""A supervisor that is still starting, or still ending this user's last tor, may be asked again for so long."""

_RETRY_S: Final = 0.2
_POLL_S: Final = 0.05
_MAX_REPLY_BYTES: Final = 64 * 1024

Watch = Callable[[], Coroutine[Any, Any, Any]]


class Lent(msgspec.Struct, frozen=True):
    """Paths of a tor that runs."""

    control: str
    socks: str
    data: str
    cookie: str


@dataclass(frozen=True)
class Tor:
    """`watch` waits until this tor is no longer lent, and raises then.

    `can_exit_to_self`: what `allow_exit_to_self` found.
    """

    control: Control
    socks: Path
    data: Path
    can_exit_to_self: bool
    watch: Watch


@contextlib.asynccontextmanager
async def own_tor(profile: Profile, run: Path) -> AsyncIterator[Tor]:
    """A tor for the block, ended behind it. `run` is a short private directory for its sockets."""
    source = _private_tor(profile.net, profile.state) if profile.net else _live_tor(profile, run)
    async with source as (lent, watch):
        with await _connect(lent) as control:
            can_exit_to_self = await asyncio.to_thread(allow_exit_to_self, control)
            yield Tor(control, Path(lent.socks), Path(lent.data), can_exit_to_self, watch)


async def _connect(lent: Lent) -> Control:
    try:
        async with asyncio.timeout(ANSWER_LIMIT_S):
            return await asyncio.to_thread(Control.connect, Path(lent.control), Path(lent.cookie))
    except TimeoutError:
        raise TorUnavailable(f"tor's control port did not answer within {ANSWER_LIMIT_S} s", hint="try again") from None


async def wait_until_ready(tor: Tor, report: Callable[[int, str], None]) -> None:
    """Wait until tor has built its first circuit; `report` gets the percentage and tor's words for it.

    Raises: TorUnavailable at READY_LIMIT_S; its hint has the end of tor's log.
    """
    percent, text = 0, "starting"
    try:
        async with asyncio.timeout(READY_LIMIT_S):
            while True:
                phase = await asyncio.to_thread(tor.control.get_info, "status/bootstrap-phase")
                percent, text = _parse_phase(phase)
                report(percent, text)
                if percent == 100:
                    return
                await asyncio.sleep(_POLL_S)
    except TimeoutError:
        raise TorUnavailable(
            f"tor did not reach its network within {READY_LIMIT_S:g} s; it is at {percent} %: {text}",
            hint=f"is there a network connection?\n{log_tail(tor.data / 'notice.log')}",
        ) from None


def _parse_phase(phase: str) -> tuple[int, str]:
    """The percentage and summary of `GETINFO status/bootstrap-phase`."""
    words = dict(word.partition("=")[::2] for word in phase.split())
    return int(words.get("PROGRESS", "0")), phase.partition('SUMMARY="')[2].partition('"')[0] or "starting"


@contextlib.asynccontextmanager
async def _live_tor(profile: Profile, run: Path) -> AsyncIterator[tuple[Lent, Watch]]:
    sockets = run / "tor"
    # Should this process be killed, tor notices and ends by itself.
    lines = [*client_lines(sockets / "socks"), f"__OwningControllerProcess {os.getpid()}"]
    tor = await asyncio.to_thread(lambda: start_tor(lines, data=profile.tor_data, sockets=sockets))
    try:
        await asyncio.to_thread(tor.wait_for_control)
        # Its end is seen at its control connection; there is nothing else to watch.
        yield Lent(str(tor.control), str(tor.socks), str(tor.data), str(tor.cookie)), asyncio.Event().wait
    finally:
        await asyncio.to_thread(tor.stop)


@contextlib.asynccontextmanager
async def _private_tor(net: Path, state: Path) -> AsyncIterator[tuple[Lent, Watch]]:
    """The supervisor keeps the tor for as long as this connection stays open."""
    reader, writer, lent = await _borrow(net, state)

    async def watch() -> None:
        await reader.read()
        raise NetworkDown(f"the network of {net} has ended")

    try:
        yield lent, watch
    finally:
        writer.close()


async def _borrow(net: Path, state: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, Lent]:
    loop = asyncio.get_running_loop()
    end_s = loop.time() + _LEND_LIMIT_S
    while True:
        try:
            async with asyncio.timeout_at(end_s):
                return await _ask_supervisor(net, state)
        except TimeoutError:
            raise NetworkDown(f"the supervisor of {net} did not answer within {_LEND_LIMIT_S:g} s") from None
        except _NotYet as error:
            if loop.time() > end_s:
                raise NetworkDown(error.message, hint=error.hint) from None
            await asyncio.sleep(_RETRY_S)


class _NotYet(NetworkDown):
    """The supervisor says no for now."""


async def _ask_supervisor(net: Path, state: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter, Lent]:
    try:
        run = Path(json.loads((net / "instance.json").read_bytes())["run"])
        reader, writer = await asyncio.open_unix_connection(str(run / "supervisor"), limit=_MAX_REPLY_BYTES)
    except (OSError, ValueError, KeyError):
        raise NetworkDown(f"no network is up in {net}", hint=f"bento net up --detach --dir {net}") from None
    try:
        writer.write(json.dumps({"op": "agent_tor", "state": str(state)}).encode() + b"\n")
        reply = json.loads(await reader.readline() or b"{}")
        if "error" in reply or not reply:
            raise _NotYet(reply.get("error", "the network's supervisor has ended"), hint=reply.get("hint", ""))
        return reader, writer, msgspec.convert(reply, Lent, strict=False)
    except (OSError, ValueError) as error:
        writer.close()
        raise NetworkDown(f"the network's supervisor does not answer: {error}") from None
    except BaseException:
        writer.close()
        raise
