"""The outer conversation over a link: a question and its answer, or the way to the loader; and how instances end."""

import asyncio
from typing import Final, TypeVar

from bento.client.link import Link
from bento.client.stream import Stream
from bento.errors import BentoError, BoxUnreachable, FunctionRaised, LimitReached, NoSuchInstance, ProtocolError
from bento.protocol.framing import pad_flight
from bento.protocol.messages import Connected, Message, Spawned, State
from bento.protocol.outer import ClientSide

T = TypeVar("T", bound=Message)

ANSWER_LIMIT_S: Final = 60.0
"""For a box to answer once the stream is open: a spawn takes milliseconds, a slow circuit some seconds."""


async def ask(link: Link, request: Message, kind: type[T]) -> T:
    """Ask on a stream of its own, again if that one is lost: a question may come twice.

    Raises: what the box said; BoxUnreachable if it does not answer.
    """
    try:
        return await _ask_once(link, request, kind)
    except StreamLost:
        return await _ask_once(link, request, kind)


async def _ask_once(link: Link, request: Message, kind: type[T]) -> T:
    side = ClientSide()
    stream = await link.open(pad_flight(side.send(request)))
    try:
        async with asyncio.timeout(ANSWER_LIMIT_S):
            while True:
                for answer in side.receive(await read_some(stream)):
                    if isinstance(answer, kind):
                        return answer
    except TimeoutError:
        raise no_answer() from None
    finally:
        stream.close()


async def settle(link: Link, request: Message, inner: bytes) -> tuple[Stream, bytes, Spawned | Connected]:
    """Send a Spawn or Connect with the inner conversation's first bytes right behind.

    Returns: the stream, which is now the loader's; what came from the loader already; the box's answer.
    Raises: what the box said; StreamLost if the stream ended before.
    """
    side = ClientSide()
    stream = await link.open(pad_flight(side.send(request) + inner))
    try:
        async with asyncio.timeout(ANSWER_LIMIT_S):
            while True:
                for answer in side.receive(await read_some(stream)):
                    if isinstance(answer, Spawned | Connected):
                        return stream, side.rest, answer
    except TimeoutError:
        stream.close()
        raise no_answer() from None
    except BaseException:
        stream.close()
        raise


def no_answer() -> BoxUnreachable:
    return BoxUnreachable(f"the box did not answer within {ANSWER_LIMIT_S:g} s")


async def read_some(stream: Stream) -> bytes:
    """The next bytes; StreamLost at the stream's end."""
    data = await stream.read()
    if not data:
        raise StreamLost("the stream to the box ended before it answered")
    return data


class StreamLost(BoxUnreachable):
    """A stream ended early: its circuit broke, or the box cut it."""


_ENDINGS: Final = {
    "lease": "its lease is over",
    "shutdown": "it was stopped with its shutdown token",
    "box": "its box shut down",
    "crash": "its process was ended by a signal",
    "exit": "its process ended by itself",
}


def ending(state: State) -> str:
    """How an instance ended, for people; from its tombstone."""
    if state.cause == "limit":
        return f"it reached its limit {state.rule} = {state.limit}"
    return _ENDINGS.get(state.cause or "", "its box does not say how")


def gone_error(state: State) -> NoSuchInstance:
    """Why an instance can't be used any more, for one who comes after its end."""
    return NoSuchInstance(f"the function has ended: {ending(state)}", hint="deploy it again, or ask for a new ticket")


def ended_error(state: State, wall_s: int, lease_s: int) -> BentoError:
    """Why an instance is gone, from its tombstone.

    Args:
        wall_s, lease_s: what it was spawned with; a lease as long as the wall time stands for it.
    """
    if state.cause == "limit":
        return LimitReached(state.rule, f"the function reached its limit: {state.rule} = {state.limit}")
    if state.cause == "lease" and lease_s >= wall_s:
        return LimitReached("wall_s", f"the function reached its limit: wall_s = {wall_s}")
    if state.cause == "lease":
        return NoSuchInstance("the instance's lease is over", hint="renew it in time, or spawn again")
    if state.cause == "shutdown":
        return NoSuchInstance("the instance was ended by its shutdown token")
    if state.cause == "box":
        return BoxUnreachable("the box ended the instance: it is shutting down")
    if state.cause == "crash":
        return FunctionRaised("crash", "the function's process was ended by a signal")
    if state.cause == "exit":
        return FunctionRaised("exit", "the function's process ended without returning")
    return ProtocolError("the box does not say how the instance ended")
