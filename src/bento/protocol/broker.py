"""What a box and one of its instances say to each other over the instance's control socket: one message a packet,
some with a descriptor beside it (SCM_RIGHTS). Local to a host, so not part of the wire; the box trusts none of it.
"""

from typing import Literal

import msgspec

from bento.config import KIB
from bento.errors import ProtocolError

MAX_PACKET_BYTES = 80 * KIB
"""What a box may say at once: an answer of the outer conversation, whose limit this is, goes with a connection."""

MAX_REQUEST_BYTES = 4 * KIB
"""What an instance may say at once: a host name has at most 255 bytes, and nothing longer is said."""

MAX_REQUESTS = 32
"""Requests of one instance under way at once: a page's resources, not a scan."""

MAX_ADDRESSES = 8
"""Of one name: large services answer with 8 at most; a function that tries them one by one has tried enough."""


class Packet(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="t"):
    """What all of them are."""


class Begin(Packet, frozen=True, tag="begin"):
    """Box to instance, first and once, with the spawning client's connection beside it.

    `answer` is the last thing the box has to say on the connection: the loader sends it before its own first word, so
    that nothing is promised before there is a process to keep it.
    """

    answer: bytes
    buffer_bytes: int


class Attach(Packet, frozen=True, tag="attach"):
    """Box to instance, with a further client's connection beside it; `answer` as in Begin.

    `may_load`: it is the spawner's, come again, perhaps before its source had arrived.
    """

    answer: bytes
    may_load: bool = False


class Resolve(Packet, frozen=True, tag="resolve"):
    """Instance to box: the addresses of a host name. `port` is where it will connect, 0 if it does not say."""

    id: int
    host: str
    port: int = 0
    family: Literal["any", "4", "6"] = "any"


class Resolved(Packet, frozen=True, tag="resolved"):
    """Box to instance: addresses that it may dial, MAX_ADDRESSES at most, in the resolver's order."""

    id: int
    addresses: tuple[str, ...]


class Dial(Packet, frozen=True, tag="dial"):
    """Instance to box: connect to an address."""

    id: int
    address: str
    port: int


class Dialled(Packet, frozen=True, tag="dialled"):
    """Box to instance, with the connected descriptor beside it."""

    id: int


class Failed(Packet, frozen=True, tag="failed"):
    """Box to instance. `error` says which of Python's exceptions people expect."""

    id: int
    error: Literal["denied", "refused", "timeout", "unreachable", "name", "busy"]
    message: str


class Unavailable(Packet, frozen=True, tag="unavailable"):
    """Whatever was asked has failed. Reaper to instance, in the box's place while its server is gone; box to instance,
    first by a new server, and as the last answer to one that says what no loader says."""


FromBox = Begin | Attach | Resolved | Dialled | Failed | Unavailable
FromInstance = Resolve | Dial

_encoder = msgspec.msgpack.Encoder()
_from_box: msgspec.msgpack.Decoder[FromBox] = msgspec.msgpack.Decoder(FromBox)
_from_instance: msgspec.msgpack.Decoder[FromInstance] = msgspec.msgpack.Decoder(FromInstance)


def encode_packet(packet: Packet) -> bytes:
    return _encoder.encode(packet)


def decode_from_box(data: bytes) -> FromBox:
    return _from_box.decode(data)


def decode_from_instance(data: bytes) -> FromInstance:
    """ProtocolError for anything but a request: what an instance sends is hostile."""
    try:
        return _from_instance.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise ProtocolError(f"not a request of an instance: {error}") from None
