"""Frames: a length of four bytes, big-endian, then that many bytes of msgpack.

>>> from bento.protocol.messages import Acknowledge
>>> frame = encode_frame(Acknowledge(7))
>>> reader = FrameReader(1024)
>>> [bytes(payload) for payload in reader.feed(frame[:5])]
[]
>>> [decode_inner_reply(payload) for payload in reader.feed(frame[5:])]
[Acknowledge(offset=7, end=False)]
"""

from collections.abc import Iterator
from typing import Final, TypeVar

import msgspec

from bento.config import FLIGHT_BYTES, KIB
from bento.errors import ProtocolError
from bento.protocol.messages import (
    InnerReply,
    InnerRequest,
    Message,
    OuterReply,
    OuterRequest,
)

T = TypeVar("T")

HEADER_BYTES = 4
_PAD_START = b"\x82\xa1t\xa3pad\xa4data\xc6"
_PAD_OVERHEAD = HEADER_BYTES + len(_PAD_START) + 4

PAD_BYTES: Final = 32 * KIB
"""The largest of a flight's Pads, but for the last, which may have an overhead more. A flight does not know which
conversation its end is in, so this is within the smaller limit, the outer one's; a flight of 32 MiB has a thousand."""


def _to_base(value: object) -> object:
    """A value of a subclass, which msgspec does not take, as its base: by the base's methods, not by its own."""
    match value:
        case str():
            return str.__str__(value)
        case int():
            return int.__int__(value)
        case float():
            return float.__float__(value)
        case bytes():
            return b"".join((value,))
    raise TypeError(f"a {type(value).__name__}")


_encoder = msgspec.msgpack.Encoder(enc_hook=_to_base)


def encode_frame(message: Message) -> bytes:
    """One message as it travels.

    Raises: ProtocolError for a value that msgpack can't carry, such as an integer of more than 64 bits.
    """
    try:
        payload = _encoder.encode(message)
    except (OverflowError, TypeError, ValueError, RecursionError, msgspec.EncodeError) as error:
        hint = "send None, bool, int, float, str, bytes, list or dict"
        raise ProtocolError(f"can't be sent: {error}", hint=hint) from None
    return len(payload).to_bytes(HEADER_BYTES, "big") + payload


def encode_pad(total_bytes: int) -> bytes:
    """A whole Pad frame of exactly `total_bytes`, at least `_PAD_OVERHEAD`: always with a bin 32 header, so that
    every length can be made."""
    size = total_bytes - _PAD_OVERHEAD
    header = (total_bytes - HEADER_BYTES).to_bytes(HEADER_BYTES, "big")
    return header + _PAD_START + size.to_bytes(4, "big") + bytes(size)


def pad_flight(flight: bytes) -> bytes:
    """The flight with Pads behind it, up to the next of the fixed sizes; ProtocolError above the largest."""
    for size in FLIGHT_BYTES:
        if len(flight) + _PAD_OVERHEAD <= size:
            return flight + _encode_pads(size - len(flight))
    raise ProtocolError(
        f"the request has {len(flight)} bytes, at most {FLIGHT_BYTES[-1] - _PAD_OVERHEAD} can be sent at once",
        hint="send large data as input, from stdin",
    )


def _encode_pads(total_bytes: int) -> bytes:
    count = (total_bytes - _PAD_OVERHEAD) // PAD_BYTES
    return encode_pad(PAD_BYTES) * count + encode_pad(total_bytes - count * PAD_BYTES)


def parse_length(header: bytes, limit_bytes: int) -> int:
    """The length in a frame's first four bytes; ProtocolError if it is 0 or over the limit."""
    size = int.from_bytes(header, "big")
    if not 0 < size <= limit_bytes:
        raise ProtocolError(f"a message of {size} bytes, the limit is {limit_bytes}")
    return size


class FrameReader:
    """Bytes in, whole frames' payloads out. Holds at most one frame's bytes."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit = limit_bytes
        self._held = bytearray()

    def feed(self, data: bytes) -> Iterator[memoryview]:
        """Each payload that is now complete. Take them all before the next call; stop early with `rest`.

        Raises: ProtocolError at a length over the limit.
        """
        self._held += data
        while len(self._held) >= HEADER_BYTES:
            end = HEADER_BYTES + parse_length(bytes(self._held[:HEADER_BYTES]), self._limit)
            if len(self._held) < end:
                return
            payload = bytes(self._held[HEADER_BYTES:end])
            del self._held[:end]
            yield memoryview(payload)

    @property
    def rest(self) -> bytes:
        """What came after the last payload taken: another conversation's, where this one ends."""
        return bytes(self._held)


def _refuse_extension(code: int, data: memoryview) -> object:
    raise msgspec.ValidationError(f"extension type {code}")


_outer_request: msgspec.msgpack.Decoder[OuterRequest] = msgspec.msgpack.Decoder(
    OuterRequest, ext_hook=_refuse_extension
)
_outer_reply: msgspec.msgpack.Decoder[OuterReply] = msgspec.msgpack.Decoder(OuterReply, ext_hook=_refuse_extension)
_inner_request: msgspec.msgpack.Decoder[InnerRequest] = msgspec.msgpack.Decoder(
    InnerRequest, ext_hook=_refuse_extension
)
_inner_reply: msgspec.msgpack.Decoder[InnerReply] = msgspec.msgpack.Decoder(InnerReply, ext_hook=_refuse_extension)


def decode_outer_request(payload: bytes | memoryview) -> OuterRequest:
    """A message that a box gets; ProtocolError if it is not one."""
    return _decode(_outer_request, payload)


def decode_outer_reply(payload: bytes | memoryview) -> OuterReply:
    return _decode(_outer_reply, payload)


def decode_inner_request(payload: bytes | memoryview) -> InnerRequest:
    """A message that a loader gets; ProtocolError if it is not one."""
    return _decode(_inner_request, payload)


def decode_inner_reply(payload: bytes | memoryview) -> InnerReply:
    return _decode(_inner_reply, payload)


def _decode(decoder: "msgspec.msgpack.Decoder[T]", payload: bytes | memoryview) -> T:
    try:
        return decoder.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise ProtocolError(f"not a message: {error}") from None
