"""The inner conversation, client and loader: which message may come when.

    NEW --Load--> LOADED --Invoke, Resume--> ATTACHED --Input, Acknowledge--> ATTACHED
    NEW --Invoke, Resume--> ATTACHED

One stream is one session: one attachment to one invocation. `Pad` may come anywhere and changes nothing.
"""

from enum import Enum, auto
from typing import Any

from bento.config import CHUNK_BYTES, INVOCATION_ID_BYTES, MAX_INNER_BYTES, MIB
from bento.errors import ProtocolError
from bento.protocol.framing import FrameReader, decode_inner_reply, decode_inner_request, encode_frame
from bento.protocol.messages import (
    Acknowledge,
    InnerReply,
    InnerRequest,
    Input,
    Invoke,
    Load,
    Message,
    Output,
    Pad,
    Raise,
    Refused,
    Resume,
    Resumed,
    Return,
)
from bento.protocol.offsets import Inbox, Outbox
from bento.protocol.outer import refusal_error

INPUT_WINDOW_BYTES = 4 * MIB
"""Input that a client may send ahead of the function's `recv`. With a window the loader can always read on, so an
Acknowledge is never stuck behind Input; 4 MiB is what Tor itself would hold, so it slows no upload."""

ACKNOWLEDGE_BYTES = 32 * 1024
"""Acknowledge at least this often: half of the smallest buffer that a manifest may name, so that it never fills up
with what nobody would acknowledge. In full flow more comes at once, and one Acknowledge stands for all of it."""


class InnerState(Enum):
    NEW = auto()
    LOADED = auto()
    ATTACHED = auto()


_NEXT: dict[InnerState, dict[type[Message], InnerState]] = {
    InnerState.NEW: {Load: InnerState.LOADED, Invoke: InnerState.ATTACHED, Resume: InnerState.ATTACHED},
    InnerState.LOADED: {Invoke: InnerState.ATTACHED, Resume: InnerState.ATTACHED},
    InnerState.ATTACHED: {Input: InnerState.ATTACHED, Acknowledge: InnerState.ATTACHED},
}


class LoaderSide:
    """The loader's end of one session: bytes in, messages out."""

    def __init__(self) -> None:
        self._state = InnerState.NEW
        self._reader = FrameReader(MAX_INNER_BYTES)

    def receive(self, data: bytes) -> list[InnerRequest]:
        """The messages that are now complete, Pads left out.

        Raises: ProtocolError for no message, or one that may not come now.
        """
        messages: list[InnerRequest] = []
        for payload in self._reader.feed(data):
            message = decode_inner_request(payload)
            if isinstance(message, Pad):
                continue
            try:
                self._state = _NEXT[self._state][type(message)]
            except KeyError:
                name = type(message).__name__
                raise ProtocolError(f"{name} may not come when the session is {self._state.name}") from None
            messages.append(message)
        return messages


class InvocationSide:
    """The client's end of one invocation, over all its sessions: which bytes have come, which input is not there yet.

    A session begins with `begin_session`; after a lost circuit call it again and send `resume()`.

    Args:
        attachment: names this client among those that attach to the invocation.
        received, sent: where its output and input stand, for an invocation that another client began.
    """

    def __init__(
        self,
        invoke: bytes,
        invocation: bytes,
        attachment: bytes = bytes(INVOCATION_ID_BYTES),
        *,
        received: int = 0,
        sent: int = 0,
    ) -> None:
        self._invoke = invoke
        self._invocation = invocation
        self._attachment = attachment
        self._inbox = Inbox(received)
        self._outbox = Outbox(sent)
        self._reader = FrameReader(MAX_INNER_BYTES)
        self._acknowledged = 0
        self._sent = sent
        self._ended_input = False
        self.is_input_there = False
        """Whether the loader has all input, to its end."""
        self.outcome: Return | Raise | None = None
        """How it ended, once it has."""

    @property
    def received(self) -> int:
        """The bytes of output that have come so far."""
        return self._inbox.position

    def begin_session(self) -> None:
        """Forget half a frame of the stream before, and what was acknowledged there: it may not have arrived."""
        self._reader = FrameReader(MAX_INNER_BYTES)
        self._acknowledged = 0

    def invoke(self, entry: str, args: tuple[Any, ...]) -> bytes:
        return encode_frame(Invoke(self._invoke, self._invocation, entry, args, self._attachment))

    def resume(self) -> bytes:
        return encode_frame(Resume(self._invoke, self._invocation, self._inbox.position, self._attachment))

    @property
    def input_room_bytes(self) -> int:
        """How many bytes of input may be added now."""
        return INPUT_WINDOW_BYTES - self._outbox.held_bytes

    def input(self, data: bytes) -> bytes:
        """The bytes to send for this input, which is kept until acknowledged; b"" as data ends the input."""
        if self._ended_input:
            raise ProtocolError("the input has ended already")
        self._outbox.append(data)
        self._ended_input = not data
        return self._unsent()

    def receive(self, data: bytes) -> list[InnerReply]:
        """What the loader says, with bytes of output that came before left out.

        Raises: the error that a Refused stands for, ProtocolError for what may not come.
        """
        events: list[InnerReply] = []
        for payload in self._reader.feed(data):
            event = self._accept(decode_inner_reply(payload))
            if event is not None:
                events.append(event)
        return events

    def acknowledge(self, safe: int) -> bytes:
        """What to send once the output before offset `safe` is: an Acknowledge if one is due, else nothing."""
        if safe - self._acknowledged < ACKNOWLEDGE_BYTES:
            return b""
        self._acknowledged = safe
        return encode_frame(Acknowledge(safe))

    def acknowledge_end(self) -> bytes:
        """What to send once all output and the outcome are safe, or nobody will come for them."""
        return encode_frame(Acknowledge(self._inbox.position, end=True))

    def resend(self, resumed: Resumed) -> bytes:
        """The input that the loader has not got, after it answered a `resume()`.

        What has arrived there is not taken yet: only an Acknowledge makes room for more.

        Raises: ProtocolError if it lacks what is here no longer, or has what was never sent.
        """
        if not self._outbox.start <= resumed.received <= self._outbox.end:
            raise ProtocolError(
                f"{resumed.received} bytes of the input have arrived, {self._outbox.end} were sent",
                hint="its sender was ended before all had left; invoke again",
            )
        self._sent = resumed.received
        return self._unsent()

    def _accept(self, message: InnerReply) -> InnerReply | None:
        if isinstance(message, Pad):
            return None
        if isinstance(message, Refused):
            raise refusal_error(message)
        if isinstance(message, Acknowledge):
            self._outbox.acknowledge(message.offset)
            self.is_input_there |= message.end
        if isinstance(message, Return | Raise):
            self._inbox.accept(message.offset, b"")
            self.outcome = message
        if isinstance(message, Output):
            if len(message.data) > CHUNK_BYTES:
                raise ProtocolError(f"{len(message.data)} bytes of output at once, the limit is {CHUNK_BYTES}")
            fresh = self._inbox.accept(message.offset, message.data)
            return Output(self._inbox.position - len(fresh), fresh) if fresh else None
        return message

    def _unsent(self) -> bytes:
        frames = []
        while self._sent < self._outbox.end:
            piece = self._outbox.read(self._sent, CHUNK_BYTES)
            frames.append(encode_frame(Input(self._sent, piece)))
            self._sent += len(piece)
        if self._ended_input:
            frames.append(encode_frame(Input(self._sent, b"", end=True)))
        return b"".join(frames)
