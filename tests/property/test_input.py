"""Input of a correct client is never refused, never lost and never stuck, wherever its streams break."""

from collections.abc import Iterable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bento.config import MAX_INNER_BYTES
from bento.guest import invocation as guest
from bento.guest.invocation import Invocation
from bento.protocol import inner
from bento.protocol.framing import FrameReader, decode_inner_request, encode_frame
from bento.protocol.inner import InvocationSide
from bento.protocol.messages import Acknowledge, Input, Resumed

_WINDOW_BYTES, _ACKNOWLEDGE_BYTES = 64, 16


class Wire:
    """A client and its invocation; what was sent and has not arrived is lost with the stream."""

    def __init__(self) -> None:
        self.client = InvocationSide(bytes(32), bytes(16))
        self.invocation = Invocation(1024)
        self.sent = self.taken = b""
        self.attach()

    def attach(self) -> None:
        self.session = object()
        self.to_loader = b""
        position = self.invocation.attach(self.session, bytes(16), 0, lambda: None)
        self.client.begin_session()
        self.to_loader = self.client.resend(Resumed(position))

    def send(self, size: int) -> None:
        data = bytes(len(self.sent) + number & 255 for number in range(min(size, self.client.input_room_bytes)))
        if data:
            self.sent += data
            self.to_loader += self.client.input(data)

    def arrive(self) -> None:
        for payload in FrameReader(MAX_INNER_BYTES).feed(self.to_loader):
            message = decode_inner_request(payload)
            assert isinstance(message, Input)
            self.invocation.accept(self.session, message)
        self.to_loader = b""

    def take(self) -> None:
        if self.invocation.poll(0):
            self.taken += self.invocation.recv()

    def say(self, is_lost: bool) -> None:
        """What the loader has to say, which may be lost on the way."""
        while self.invocation._is_due(self.session, 0):
            message = self.invocation.next_message(self.session, 0)
            assert isinstance(message, Acknowledge)
            if not is_lost:
                self.client.receive(encode_frame(message))


def _run(wire: Wire, steps: Iterable[tuple[str, int]]) -> None:
    for step, size in steps:
        match step:
            case "send":
                wire.send(size)
            case "arrive":
                wire.arrive()
            case "take":
                wire.take()
            case "say":
                wire.say(is_lost=False)
            case "break":
                wire.say(is_lost=bool(size % 2))
                wire.attach()


@given(
    st.lists(st.tuples(st.sampled_from(["send", "arrive", "take", "say", "break"]), st.integers(1, 80)), max_size=40)
)
@example([("send", 64), ("arrive", 1), ("take", 1), ("break", 1)])  # the last Acknowledge is lost
def test_input_arrives_whole_whatever_breaks(steps: list[tuple[str, int]]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inner, "INPUT_WINDOW_BYTES", _WINDOW_BYTES)
        patch.setattr(guest, "INPUT_WINDOW_BYTES", _WINDOW_BYTES)
        patch.setattr(guest, "ACKNOWLEDGE_BYTES", _ACKNOWLEDGE_BYTES)
        wire = Wire()
        _run(wire, steps)
        _run(wire, [("arrive", 1), ("take", 1), ("say", 1)])
        assert wire.taken == wire.sent
        assert wire.client.input_room_bytes == _WINDOW_BYTES  # and the next may come
