"""The outer conversation, client and box: which message may come when.

    GREETING --Hello--> OPEN --Describe, Status, Renew, Shutdown--> OPEN      (each has its answer, in order)
                        OPEN --Spawn, Connect--> SETTLED                      (from there on the loader speaks)

`Pad` may come anywhere and changes nothing. A client need not wait: it may send everything in one flight.
"""

from enum import Enum, auto

from bento.config import MAX_OUTER_BYTES, PROTOCOL_VERSION
from bento.errors import BentoError, ProtocolError, VersionMismatch, from_wire
from bento.errors import Refused as RefusedError
from bento.protocol.framing import FrameReader, decode_outer_reply, decode_outer_request, encode_frame
from bento.protocol.messages import (
    Connect,
    Connected,
    Describe,
    Description,
    Ended,
    Hello,
    Message,
    OuterReply,
    OuterRequest,
    Pad,
    Refused,
    Renew,
    Renewed,
    Shutdown,
    Spawn,
    Spawned,
    State,
    Status,
)


class OuterState(Enum):
    GREETING = auto()
    OPEN = auto()
    SETTLED = auto()
    REFUSED = auto()


_NEXT: dict[OuterState, dict[type[Message], OuterState]] = {
    OuterState.GREETING: {Hello: OuterState.OPEN},
    OuterState.OPEN: {
        Describe: OuterState.OPEN,
        Status: OuterState.OPEN,
        Renew: OuterState.OPEN,
        Shutdown: OuterState.OPEN,
        Spawn: OuterState.SETTLED,
        Connect: OuterState.SETTLED,
    },
    OuterState.SETTLED: {},
    OuterState.REFUSED: {},
}

_ANSWERS: dict[type[Message], type[Message]] = {
    Describe: Description,
    Status: State,
    Renew: Renewed,
    Shutdown: Ended,
    Spawn: Spawned,
    Connect: Connected,
}


class BoxSide:
    """The box's end. It takes one payload at a time, since the box may not read a byte past the settling message."""

    def __init__(self) -> None:
        self.state = OuterState.GREETING

    def receive(self, payload: bytes) -> OuterRequest:
        """The message in a frame.

        Raises:
            VersionMismatch: a Hello of another version.
            ProtocolError: no message, or one that may not come now.
        """
        message = decode_outer_request(payload)
        if isinstance(message, Pad):
            return message
        self.state = _step(self.state, message)
        if isinstance(message, Hello) and message.version != PROTOCOL_VERSION:
            raise VersionMismatch(f"this box speaks version {PROTOCOL_VERSION}, not {message.version}")
        return message


class ClientSide:
    """The client's end: messages in, bytes out; bytes in, answers out."""

    def __init__(self) -> None:
        self._state = OuterState.GREETING
        self._expected: list[type[Message]] = []
        self._reader = FrameReader(MAX_OUTER_BYTES)

    @property
    def is_settled(self) -> bool:
        """Whether the box has handed over; `rest` is then the loader's."""
        return self._state is OuterState.SETTLED and not self._expected

    @property
    def rest(self) -> bytes:
        """What came behind the answer that settled; b"" before it has come."""
        return self._reader.rest if self.is_settled else b""

    def send(self, request: Message) -> bytes:
        """The bytes of a request, with the Hello before the first."""
        greeting = b""
        if self._state is OuterState.GREETING:
            hello = Hello(PROTOCOL_VERSION)
            self._state = _step(self._state, hello)
            greeting = encode_frame(hello)
        self._state = _step(self._state, request)
        self._expected.append(_ANSWERS[type(request)])
        return greeting + encode_frame(request)

    def receive(self, data: bytes) -> list[OuterReply]:
        """The answers that are now complete, in the order of their requests.

        Raises:
            Refused, NoSuchInstance, BadToken, VersionMismatch: what the box said.
            ProtocolError: it answered what was not asked.
        """
        answers: list[OuterReply] = []
        for payload in self._reader.feed(data):
            answer = decode_outer_reply(payload)
            if isinstance(answer, Pad):
                continue
            if isinstance(answer, Refused):
                self._state = OuterState.REFUSED
                raise refusal_error(answer)
            if not self._expected or type(answer) is not self._expected[0]:
                raise ProtocolError(f"the box answered {type(answer).__name__} out of turn")
            answers.append(answer)
            del self._expected[0]
            if self.is_settled:
                break
        return answers


def refusal_error(message: Refused) -> BentoError:
    """The error that a Refused message stands for; a refusal by policy keeps each broken rule."""
    if message.refusals:
        return RefusedError(message.refusals, hint=message.hint)
    return from_wire(message.code, message.message, message.hint)


def _step(state: OuterState, message: Message) -> OuterState:
    try:
        return _NEXT[state][type(message)]
    except KeyError:
        raise ProtocolError(f"{type(message).__name__} may not come when the conversation is {state.name}") from None
