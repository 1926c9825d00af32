"""A client and its invocation, both directions at once: whatever is cut, and whoever is killed, each byte arrives once.

The wire may break between any two bytes, so also in a frame; a client may be killed at any moment, and the next goes on
where its record says.
"""

from collections.abc import Iterable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bento.errors import Replaced
from bento.guest import invocation as guest
from bento.guest.invocation import Invocation, returned
from bento.protocol import inner
from bento.protocol.framing import encode_frame
from bento.protocol.inner import InvocationSide, LoaderSide
from bento.protocol.messages import Acknowledge, Input, Output, Resume, Resumed, Return

_BUFFER_BYTES, _WINDOW_BYTES, _ACKNOWLEDGE_BYTES, _CHUNK_BYTES = 100, 64, 16, 24
_EVERYTHING = 10**9


class Call:
    """One invocation, the bytes under way, and a caller that records what it has got."""

    def __init__(self) -> None:
        self.invocation = Invocation(_BUFFER_BYTES)
        self.written = self.shown = self.fed = self.taken = b""
        self.safe = self.attachments = 0
        self.client = self._new_client()
        self.connect()

    def connect(self, _: int = 0) -> None:
        """A new stream; what the one before still held is lost."""
        self.client.begin_session()
        self.loader = LoaderSide()
        self.session: object = None
        self.to_client, self.to_loader = b"", self.client.resume()

    def kill(self, _: int = 0) -> None:
        """The client ends, once its input is with the loader; the next knows the record alone."""
        if self.client.is_input_there:
            self.client = self._new_client()
            self.client.input(b"")
            self.connect()

    def write(self, size: int) -> None:
        data = bytes(len(self.written) + number & 255 for number in range(size))
        data = data[: _BUFFER_BYTES - self.invocation._outbox.held_bytes]
        if data and not self.invocation.is_finished:
            self.written += data
            self.invocation.send(data)

    def feed(self, size: int) -> None:
        data = bytes(len(self.fed) + number & 255 for number in range(min(size, self.client.input_room_bytes)))
        if data and not self.client._ended_input:
            self.fed += data
            self._send(self.client.input(data))

    def end_input(self, _: int = 0) -> None:
        if not self.client._ended_input:
            self._send(self.client.input(b""))

    def take(self, _: int = 0) -> None:
        if self.invocation.poll(0):
            self.taken += self.invocation.recv()

    def to_the_loader(self, size: int) -> None:
        data, self.to_loader = self.to_loader[:size], self.to_loader[size:]
        for message in self.loader.receive(data):
            if isinstance(message, Resume):
                self.session, self.sent = object(), message.received
                position = self.invocation.attach(self.session, message.attachment, message.received, lambda: None)
                self.to_client += encode_frame(Resumed(position))
            else:
                assert isinstance(message, Input | Acknowledge)
                self.invocation.accept(self.session, message)

    def to_the_client(self, size: int) -> None:
        if self.session is not None and not self.invocation.is_done:
            self._let_the_loader_speak()
        data, self.to_client = self.to_client[:size], self.to_client[size:]
        for event in self.client.receive(data):
            if isinstance(event, Resumed):
                self.to_loader += self.client.resend(event)
            elif isinstance(event, Output):
                assert event.offset <= len(self.shown)
                assert self.shown[event.offset :] == event.data[: len(self.shown) - event.offset]
                self.shown = self.shown[: event.offset] + event.data

    def record(self, _: int = 0) -> None:
        """What was shown is safe from now on, and said to be."""
        self.safe = self.client.received
        self.to_loader += self.client.acknowledge(self.safe)

    def _let_the_loader_speak(self) -> None:
        while self.invocation._is_due(self.session, self.sent):
            message = self.invocation.next_message(self.session, self.sent)
            assert message is not None
            if isinstance(message, Output):
                self.sent += len(message.data)
            self.to_client += message if isinstance(message, bytes) else encode_frame(message)
            if isinstance(message, bytes):
                return

    def _new_client(self) -> InvocationSide:
        self.attachments += 1
        name = self.attachments.to_bytes(16, "big")
        return InvocationSide(bytes(32), bytes(16), name, received=self.safe, sent=len(self.fed))

    def _send(self, frames: bytes) -> None:
        # As the client does: before the loader has said where it stands, the side keeps them.
        if self.session is not None and not self.to_client:
            self.to_loader += frames


def _run(call: Call, steps: Iterable[tuple[str, int]]) -> None:
    for step, size in steps:
        getattr(call, step)(size)


def _small(patch: pytest.MonkeyPatch) -> None:
    for module in (inner, guest):
        patch.setattr(module, "INPUT_WINDOW_BYTES", _WINDOW_BYTES)
        patch.setattr(module, "ACKNOWLEDGE_BYTES", _ACKNOWLEDGE_BYTES)
        patch.setattr(module, "CHUNK_BYTES", _CHUNK_BYTES)


_COMMON = ["write", "feed", "take", "record", "to_the_loader", "to_the_client", "to_the_client"]
_STEPS = st.sampled_from([*_COMMON, "end_input", "connect", "kill"])


@given(st.lists(st.tuples(_STEPS, st.integers(1, 120)), max_size=60))
@example([("write", 30), ("to_the_loader", 99), ("to_the_client", 50), ("connect", 1), ("to_the_loader", 9)])
@example([("end_input", 1), ("write", 60), ("to_the_loader", 999), ("to_the_client", 999), ("record", 1), ("kill", 1)])
def test_both_directions_are_whole_whatever_breaks_and_whoever_is_killed(steps: list[tuple[str, int]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        _small(patch)
        call = Call()
        _run(call, steps)
        call.connect()
        call.end_input()
        call.invocation.finish(returned("over"))
        whole = [("to_the_loader", _EVERYTHING), ("to_the_client", _EVERYTHING), ("record", 1), ("take", 1)]
        _run(call, whole * 3)
        assert isinstance(call.client.outcome, Return)
        assert call.shown == call.written
        assert call.taken == call.fed
        assert call.invocation._outbox.held_bytes < _ACKNOWLEDGE_BYTES  # so the function may always write


@given(st.lists(st.integers(0, 3), max_size=30))
def test_of_several_attachments_the_newest_stays_whoever_comes_back(comers: list[int]) -> None:
    invocation, newest, seen = Invocation(_BUFFER_BYTES), 0, set()
    for comer in comers:
        name = comer.to_bytes(16, "big")
        if comer in seen and comer != newest:
            with pytest.raises(Replaced):
                invocation.attach(object(), name, 0, lambda: None)
        else:
            invocation.attach(object(), name, 0, lambda: None)
            newest = comer
            seen.add(comer)
