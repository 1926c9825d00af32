"""An invocation and its start against boxes that do what no honest one does; no Tor, no box."""

import asyncio
from typing import Any, cast

import pytest

from bento.client import function
from bento.client.client import DEFAULT_LEASE_S
from bento.client.conversation import StreamLost
from bento.client.function import Function, Plan
from bento.client.invocation import Invocation, outcome_error
from bento.client.link import Link
from bento.client.source import parse_source
from bento.client.stream import Stream
from bento.config import CHUNK_BYTES, MIN_BUFFER_BYTES
from bento.errors import BoxUnreachable, NoSuchInstance, ProtocolError
from bento.policy import Grant
from bento.protocol.framing import encode_frame
from bento.protocol.inner import INPUT_WINDOW_BYTES, InvocationSide
from bento.protocol.messages import Acknowledge, InnerReply, Message, Output, Raise, Resumed, Return, Spawned
from bento.tor.socks import SocksRefused

WAIT_S = 0.05


class FakeStream:
    """Gives the frames that it was made of, then nothing more for ever."""

    def __init__(self, *messages: Message) -> None:
        self.messages = list(messages)
        self.is_closed = False

    async def read(self) -> bytes:
        if not self.messages:
            await asyncio.Event().wait()
        return encode_frame(self.messages.pop(0))

    def write(self, data: bytes) -> None:
        return

    def close(self) -> None:
        self.is_closed = True


class Flood(FakeStream):
    """Output without an end, and never a byte of input taken."""

    def __init__(self) -> None:
        super().__init__()
        self.sent_bytes = 0

    async def read(self) -> bytes:
        await asyncio.sleep(0)
        self.sent_bytes += CHUNK_BYTES
        return encode_frame(Output(self.sent_bytes - CHUNK_BYTES, bytes(CHUNK_BYTES)))


class FakeInstance:
    """An instance whose lease ends soon after its stream has filled its client's memory, unless it is renewed."""

    def __init__(self, stream: Flood, *, is_renewed: bool = False) -> None:
        self.stream = stream
        self.is_renewed = is_renewed
        self.was_asked = asyncio.Event()
        self.end_s: float | None = None

    @property
    def deadline_s(self) -> float:
        now_s = asyncio.get_running_loop().time()
        if self.end_s is None and self.stream.sent_bytes > MIN_BUFFER_BYTES:
            self.end_s = now_s + WAIT_S
        return self.end_s or now_s + 60

    async def attach(self, side: InvocationSide, inner: bytes) -> tuple[Stream, list[InnerReply]]:
        return cast(Stream, self.stream), [Resumed(0)]

    async def verify_running(self) -> None:
        self.was_asked.set()
        if self.is_renewed:
            self.end_s = asyncio.get_running_loop().time() + 60

    async def reason(self, error: NoSuchInstance) -> NoSuchInstance:
        return error


def invocation_of(instance: FakeInstance) -> Invocation:
    side = InvocationSide(bytes(32), bytes(16))
    return Invocation(instance, side, "entry", (), has_input=True)


def test_output_that_nobody_takes_while_input_waits_is_bounded() -> None:
    async def work() -> int:
        stream = Flood()
        async with invocation_of(FakeInstance(stream)) as invocation:
            with pytest.raises(BoxUnreachable, match="nobody took"):
                await invocation.send(bytes(INPUT_WINDOW_BYTES + 1))
        return stream.sent_bytes

    assert asyncio.run(work()) <= MIN_BUFFER_BYTES + CHUNK_BYTES


def test_input_waits_on_under_a_lease_that_was_renewed_meanwhile() -> None:
    async def work() -> None:
        instance = FakeInstance(Flood(), is_renewed=True)
        async with invocation_of(instance) as invocation, asyncio.TaskGroup() as group:
            group.create_task(invocation.send(bytes(INPUT_WINDOW_BYTES + 1)))
            await instance.was_asked.wait()
            invocation._stream = cast(Stream, FakeStream(Acknowledge(INPUT_WINDOW_BYTES), Return(0)))
            async for _ in invocation:
                pass

    asyncio.run(work())


def test_who_can_make_no_further_call_is_not_sent_to_the_manifest() -> None:
    error = outcome_error(Raise(0, "RuntimeError", "64 invocations run already", "threads"))
    assert (error.exit_status, "manifest" in error.hint) == (7, False)


def start(monkeypatch: pytest.MonkeyPatch, *answers: Any) -> Function:
    """Load a function whose Spawns get these answers in turn: an error, or the loader's messages."""
    left = list(answers)

    async def settle(link: Link, request: Message, inner: bytes) -> tuple[FakeStream, bytes, Spawned]:
        answer = left.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return FakeStream(*answer), b"", Spawned(Grant("python", 1, 1, 1, 1, 1), 60)

    async def verify_running(self: Function) -> None:
        return

    monkeypatch.setattr(function, "settle", settle)
    monkeypatch.setattr(Function, "verify_running", verify_running)
    monkeypatch.setattr(Link, "build", verify_running)
    source = parse_source("f", b"def f(): pass\n")
    links = tuple(Link(cast(Any, None), cast(Any, None), lambda text: None) for _ in range(2))
    fresh = Function(lambda: asyncio.sleep(0, Plan(source, source.manifest, DEFAULT_LEASE_S, links)))

    async def work() -> None:
        await fresh.__aenter__()
        await fresh.load()

    try:
        asyncio.run(work())
    finally:
        assert len(left) == 0
    return fresh


def test_a_loader_that_sends_output_before_it_has_loaded_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ProtocolError, match="before it had loaded"):
        start(monkeypatch, [Output(0, b"x")])


def test_after_a_spawn_that_may_have_arrived_no_other_box_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SocksRefused):
        start(monkeypatch, StreamLost("lost"), SocksRefused(5))
