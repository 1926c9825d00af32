"""What a command and its user's agent say to each other: one JSON message a packet, on a unix socket of the user's.

A connection holds at most one circuit, which ends with it. Requests are answered in order; each answer names its
request by number, and `Progress` may come before.
"""

import asyncio
import os
import socket
import struct
from typing import Final, TypeVar

import msgspec

T = TypeVar("T")

MAX_PACKET_BYTES: Final = 64 * 1024
"""The longest message is an error with the end of tor's log: a few KB."""


class Target(msgspec.Struct, frozen=True):
    """A box, as its descriptor gives it. `is_open`: its relay lets circuits end at the box."""

    fingerprint: str
    address: str
    port: int
    onion: str | None
    is_open: bool


class Hop(msgspec.Struct, frozen=True):
    nickname: str
    fingerprint: str
    address: str


class Build(msgspec.Struct, frozen=True, tag="build"):
    """Have a circuit to this box ready; `by_onion` to go by its onion service, whatever its relay allows."""

    id: int
    target: Target
    by_onion: bool = False


class Dial(msgspec.Struct, frozen=True, tag="dial"):
    """Open a stream on the circuit. `host` and `port` default to the box's."""

    id: int
    host: str = ""
    port: int = 0


class Progress(msgspec.Struct, frozen=True, tag="progress"):
    """Tor is still starting."""

    percent: int
    text: str


class Built(msgspec.Struct, frozen=True, tag="built"):
    """The circuit's relays, the box's last; none when tor chooses them, for an onion service."""

    id: int
    path: tuple[Hop, ...]


class Dialled(msgspec.Struct, frozen=True, tag="dialled"):
    """A descriptor comes beside it, connected to tor's SOCKS port. Write `prefix` first."""

    id: int
    prefix: bytes


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """An error of `bento.errors`, by its wire code."""

    id: int
    code: str
    message: str
    hint: str


Request = Build | Dial
Reply = Progress | Built | Dialled | Failed

_encoder = msgspec.json.Encoder()
_requests = msgspec.json.Decoder(Request)
_replies = msgspec.json.Decoder(Reply)


def encode(message: Request | Reply) -> bytes:
    return _encoder.encode(message)


def decode_request(data: bytes) -> Request:
    request: Request = _requests.decode(data)
    return request


def decode_reply(data: bytes) -> Reply:
    reply: Reply = _replies.decode(data)
    return reply


def new_socket() -> socket.socket:
    return socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def peer_user(connection: socket.socket) -> int:
    """The uid of the other end."""
    size = struct.calcsize("3i")
    uid: int = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))[1]
    return uid


async def receive(connection: socket.socket) -> tuple[bytes, int | None]:
    """A packet of a non-blocking socket, with the descriptor beside it; (b"", None) at the end."""
    while True:
        try:
            data, descriptors, _, _ = socket.recv_fds(connection, MAX_PACKET_BYTES, 1)
        except BlockingIOError:
            await _wait_readable(connection)
            continue
        for descriptor in descriptors:
            os.set_inheritable(descriptor, False)
        return data, descriptors[0] if descriptors else None


async def _wait_readable(connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(connection, readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(connection)
