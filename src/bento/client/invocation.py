"""One call of one entry, as its caller sees it: output as it comes, input, its end. It survives lost circuits."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable
from types import TracebackType
from typing import Any, Final, Protocol, Self

from bento.client.conversation import StreamLost
from bento.client.stream import Stream
from bento.config import CHUNK_BYTES, MIN_BUFFER_BYTES
from bento.errors import (
    BadToken,
    BentoError,
    BoxUnreachable,
    FunctionRaised,
    LimitReached,
    NoSuchInstance,
    Replaced,
)
from bento.protocol.inner import InvocationSide
from bento.protocol.messages import InnerReply, Output, Raise, Resumed, Return

REATTACH_DELAYS_S: Final = (0.0, 0.2, 1.0, 3.0)
"""Tries to come back after a lost stream: at once for a broken circuit, later for a box's server that restarts."""

MAX_LOSSES: Final = 10
"""Streams lost in a row: a circuit lives for minutes, so this is a box that hangs up."""

GIVE_UP_LIMIT_S: Final = 2.0
"""For what is on its way when a call is given up. Past it the word has long left, whatever comes back."""


class Instance(Protocol):
    """What an invocation needs of its function."""

    @property
    def deadline_s(self) -> float: ...

    async def attach(self, side: InvocationSide, inner: bytes) -> tuple[Stream, list[InnerReply]]: ...

    async def verify_running(self) -> None: ...

    async def reason(self, error: NoSuchInstance) -> NoSuchInstance: ...


class Invocation:
    """Use it in `async with`; iterate for the output, then `await result()`.

    A piece counts as safe with the caller, and is forgotten at the box, once the next is asked for; the result once
    the block is left with it. Leaving the block early leaves the call running until the instance ends: its output
    waits at the box, within the instance's memory, unless `give_up` says that nobody will come back for it.

    Args:
        entry: None for a call that another client began, of which `side` says where it stands.
    """

    def __init__(
        self, instance: Instance, side: InvocationSide, entry: str | None, args: tuple[Any, ...], *, has_input: bool
    ) -> None:
        self._instance = instance
        self._side = side
        self._entry, self._args = entry, args
        self._stream: Stream | None = None
        self._reading = asyncio.Lock()
        self._chunks: deque[bytes] = deque()
        self._held_bytes = 0
        self._taken = asyncio.Event()
        self._position = self._safe = side.received
        self._end: BentoError | StopAsyncIteration | None = None
        self.is_done = False
        """Whether its caller has left with the end, so that all may be forgotten."""
        self._was_attached = False
        self._losses = 0
        self._has_started = entry is None
        self._may_send = False
        self._ended_input = not has_input
        if not has_input:
            side.input(b"")

    async def __aenter__(self) -> Self:
        async with self._reading:
            await self._attach()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._end is not None and error in (None, self._end):
            self.is_done = True
            if self._stream is not None:
                self._stream.write(self._side.acknowledge_end())
        self._drop_stream()

    @property
    def position(self) -> int:
        """The offset behind the last piece of output that was given."""
        return self._position

    @property
    def is_over(self) -> bool:
        """Whether how it ended has been told to the caller."""
        return self._end is not None

    async def give_up(self) -> None:
        """Before leaving the block early: end the call, as far as the function lets itself be ended.

        Its input ends, and its next output raises BrokenPipeError there. What it does without either goes on.
        """
        if self._stream is None:
            return
        self._stream.write(self._side.acknowledge_end())
        if self._end is None:
            # Tor drops what it has not read of a stream that no longer takes output; the loader ends this one.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(GIVE_UP_LIMIT_S):
                    while await self._stream.read():
                        pass

    async def arrive(self) -> None:
        """Wait until the loader has the call, and all its input, which must have ended.

        Raises: why there is no such call; Unreachable if nobody knows.
        """
        side = self._side
        await self._pump_until(lambda: side.outcome is not None or (self._has_started and side.is_input_there))
        if isinstance(side.outcome, Raise) and not self._has_started:
            raise outcome_error(side.outcome)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        """The next piece of output. Raises: as `result` does, once all output has been given."""
        self._safe = self._position
        await self._pump_until(lambda: bool(self._chunks) or self._side.outcome is not None)
        if self._chunks:
            chunk = self._chunks.popleft()
            self._position += len(chunk)
            self._held_bytes -= len(chunk)
            self._taken.set()
            return chunk
        outcome = self._side.outcome
        self._end = outcome_error(outcome) if isinstance(outcome, Raise) else StopAsyncIteration()
        raise self._end

    async def result(self) -> Any:
        """Wait for the end; the returned value. Output that nobody has iterated over is dropped.

        Raises: FunctionRaised; LimitReached; NoSuchInstance if it was ended; BoxUnreachable.
        """
        async for _ in self:
            pass
        assert isinstance(self._side.outcome, Return)
        return self._side.outcome.value

    async def send(self, data: bytes) -> None:
        """Give the function input; waits while too much of it has not been read. Nothing happens after the end."""
        view = memoryview(data)
        while view and self._side.outcome is None:
            # Whole chunks: to fill each small gap at once would end in as many messages as bytes.
            await self._wait_for_room(min(len(view), CHUNK_BYTES))
            piece = view[: self._side.input_room_bytes]
            view = view[len(piece) :]
            if self._side.outcome is None:
                self._send_input(bytes(piece))

    async def end_input(self) -> None:
        """Let `api.recv()` give b"" behind the input sent so far."""
        if not self._ended_input:
            self._ended_input = True
            self._send_input(b"")

    def _send_input(self, data: bytes) -> None:
        frames = self._side.input(data)
        # Before it may be sent it is kept by the side, and goes with the session's start.
        if self._stream is not None and self._may_send:
            self._stream.write(frames)

    async def _wait_for_room(self, least_bytes: int) -> None:
        """Read, since acknowledgements come there, until input may be sent; output is kept meanwhile, up to a limit."""

        def has_room() -> bool:
            return self._side.input_room_bytes >= least_bytes or self._side.outcome is not None

        while not has_room():
            if self._held_bytes > MIN_BUFFER_BYTES:
                await self._wait_until_taken()
            else:
                await self._pump_until(lambda: has_room() or self._held_bytes > MIN_BUFFER_BYTES)

    async def _wait_until_taken(self) -> None:
        self._taken.clear()
        try:
            async with asyncio.timeout_at(self._instance.deadline_s):
                await self._taken.wait()
        except TimeoutError:
            await self._verify_renewed("nobody took the function's output until its lease was over")

    async def _verify_renewed(self, otherwise: str) -> None:
        """At the deadline: go on if another command has renewed the lease. Raises: how it ended; BoxUnreachable."""
        await self._instance.verify_running()
        if asyncio.get_running_loop().time() >= self._instance.deadline_s:
            raise BoxUnreachable(otherwise)

    async def _pump_until(self, is_done: Callable[[], bool]) -> None:
        while not is_done():
            async with self._reading:
                if not is_done():  # another task may have read it
                    await self._pump()

    async def _pump(self) -> None:
        """Take in what comes next; on a new stream if the one before is lost."""
        if self._stream is None:
            if self._losses > 1:  # the streams break, not the circuit
                await self._instance.verify_running()
            await self._attach()
            return
        self._stream.write(self._side.acknowledge(self._safe))
        try:
            async with asyncio.timeout_at(self._instance.deadline_s):
                data = await self._stream.read()
        except TimeoutError:
            self._drop_stream()
            await self._verify_renewed("the function says nothing, though its lease is over")
            return
        if data:
            self._take(self._side.receive(data))
            return
        self._drop_stream()
        self._losses += 1
        if self._losses > MAX_LOSSES:
            raise BoxUnreachable(f"the stream was lost {self._losses} times without a byte of output between")

    async def _attach(self) -> None:
        """Begin a session: with the Invoke, or where that has arrived with a Resume."""
        failure: BentoError | None = None
        for delay_s in REATTACH_DELAYS_S:
            await asyncio.sleep(delay_s)
            if failure is not None:
                await self._instance.verify_running()
            try:
                self._side.begin_session()
                self._may_send = not self._has_started
                self._stream, events = await self._instance.attach(self._side, self._opening())
                self._was_attached = True
                self._take(events)
                return
            except NoSuchInstance as error:
                self._drop_stream()
                if isinstance(error, BadToken | Replaced):
                    raise
                if self._was_attached:
                    await self._instance.verify_running()
                raise await self._instance.reason(error) from None
            except BoxUnreachable as error:
                self._drop_stream()
                failure = error
                if not (self._has_started or isinstance(error, StreamLost)):
                    raise
        assert failure is not None
        raise failure

    def _opening(self) -> bytes:
        if self._has_started or self._entry is None:
            return self._side.resume()
        return self._side.invoke(self._entry, self._args) + self._side.resend(Resumed(0))

    def _take(self, events: list[InnerReply]) -> None:
        for event in events:
            if isinstance(event, Output):
                self._losses = 0
                self._chunks.append(event.data)
                self._held_bytes += len(event.data)
            elif isinstance(event, Resumed):
                self._begin_sending(event)
            elif isinstance(event, Return | Raise):
                self._taken.set()

    def _begin_sending(self, event: Resumed) -> None:
        self._has_started = True
        if not self._may_send and self._stream is not None:
            self._may_send = True
            self._stream.write(self._side.resend(event))

    def _drop_stream(self) -> None:
        if self._stream is not None:
            self._stream.close()
            self._stream = None


def outcome_error(outcome: Raise) -> BentoError:
    """The error that a Raise stands for: a limit that the function met, or what it raised."""
    if outcome.rule:
        what = f"{outcome.type}: {outcome.message}" if outcome.message else outcome.type
        # No manifest asks for threads: each call has one for as long as it runs, or waits for its output to be taken.
        hint = "take up calls that wait, or make fewer at once" if outcome.rule == "threads" else ""
        return LimitReached(outcome.rule, f"the function met its limit {outcome.rule}: {what}", hint=hint)
    return FunctionRaised(outcome.type, outcome.message)
