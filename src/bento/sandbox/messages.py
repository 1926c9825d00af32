"""The packets between server, reaper and zygote: one msgpack-encoded struct each, descriptors beside it.

server -> reaper    Start (+ the connection), Renew, End, Measure, Stop
reaper -> server    Welcome, Adopted (+ control socket), Started (+ control socket), Failed, Measured, Ended, Notice
reaper -> zygote    Prepare, Make (+ control socket, storage, cgroup.procs ...)
zygote -> reaper    Ready, Born, Stillborn, Unconfined
"""

import os
import socket
from array import array
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta

from bento.sandbox.spec import (
    MAX_BEGIN_BYTES,
    MAX_INSTANCE_ID_BYTES,
    MAX_PACKET_BYTES,
    MAX_RECORD_BYTES,
    Cause,
    Limits,
    Seconds,
    Tombstone,
)

InstanceId = Annotated[bytes, Meta(min_length=1, max_length=MAX_INSTANCE_ID_BYTES)]


class Misfit(msgspec.MsgspecError):
    """A packet that is none of the expected messages."""

    def __init__(self, reason: str, packet: bytes) -> None:
        super().__init__(reason)
        self.request = _request_of(packet)
        """The number it can be answered by, if one can be made out."""


READY_PACKET = b"ready"
"""A child's first and only packet before its hand-off: it is confined now."""


class _Packet(msgspec.Struct, frozen=True, tag=True, array_like=True):
    pass


class Start(_Packet, frozen=True):
    request: int
    instance: InstanceId
    begin: Annotated[bytes, Meta(min_length=1, max_length=MAX_BEGIN_BYTES)]
    limits: Limits
    lease_s: Seconds
    wall_s: Seconds
    record: Annotated[bytes, Meta(max_length=MAX_RECORD_BYTES)]


class Renew(_Packet, frozen=True):
    instance: InstanceId
    lease_s: Seconds


class End(_Packet, frozen=True):
    instance: InstanceId
    cause: Cause
    rule: str = ""
    limit: float = 0
    asked: float = 0


class Measure(_Packet, frozen=True):
    request: int
    instance: InstanceId


class Stop(_Packet, frozen=True):
    pass


ToReaper = Start | Renew | End | Measure | Stop


class Welcome(_Packet, frozen=True):
    """First to a new server: as many Adopted and Ended as it says follow at once."""

    tier: str
    adopted: int
    tombstones: int
    idle: int


class Adopted(_Packet, frozen=True):
    instance: InstanceId
    record: bytes
    lease_left_s: float


class Started(_Packet, frozen=True):
    request: int
    idle: int


class Failed(_Packet, frozen=True):
    request: int
    reason: Literal["full", "known", "unknown", "broken"]
    """No child free; the name is taken; no such instance; the sandbox can't."""
    message: str


class Measured(_Packet, frozen=True):
    request: int
    memory_bytes: int
    cpu_s: float


class Ended(_Packet, frozen=True):
    tombstone: Tombstone
    idle: int


class Notice(_Packet, frozen=True):
    """Something the operator should read: a zygote died, a limit could not be set."""

    text: str


ToServer = Welcome | Adopted | Started | Failed | Measured | Ended | Notice


class Prepare(_Packet, frozen=True):
    """First to a new zygote."""

    filter: bytes
    preload: tuple[str, ...]
    entry: str
    rehearsal: str


class Make(_Packet, frozen=True):
    slot: int
    uid: int
    """The uid and gid to run under; -1: a user namespace of its own."""


ToZygote = Prepare | Make


class Ready(_Packet, frozen=True):
    pass


class Born(_Packet, frozen=True):
    slot: int
    pid: int


class Stillborn(_Packet, frozen=True):
    """There is no child: the fork failed."""

    slot: int
    reason: str


class Unconfined(_Packet, frozen=True):
    """The child could not confine itself, and is about to end."""

    slot: int
    reason: str


FromZygote = Ready | Born | Stillborn | Unconfined

Message = TypeVar("Message")
encode = msgspec.msgpack.Encoder().encode
TO_REAPER: msgspec.msgpack.Decoder[ToReaper] = msgspec.msgpack.Decoder(ToReaper)
TO_SERVER: msgspec.msgpack.Decoder[ToServer] = msgspec.msgpack.Decoder(ToServer)
TO_ZYGOTE: msgspec.msgpack.Decoder[ToZygote] = msgspec.msgpack.Decoder(ToZygote)
FROM_ZYGOTE: msgspec.msgpack.Decoder[FromZygote] = msgspec.msgpack.Decoder(FromZygote)

_MAX_DESCRIPTORS = 8
"""A Make carries the most: control socket, storage and one cgroup.procs for each v1 controller."""

_ANCILLARY_BYTES = socket.CMSG_SPACE(_MAX_DESCRIPTORS * array("i").itemsize)


def send(
    channel: socket.socket, message: msgspec.Struct, descriptors: tuple[int, ...] = (), *, wait: bool = False
) -> None:
    """Send one packet; without `wait`, BlockingIOError if the peer does not read."""
    send_packet(channel, encode(message), descriptors, wait=wait)


def send_packet(
    channel: socket.socket, packet: bytes, descriptors: tuple[int, ...] = (), *, wait: bool = False
) -> None:
    """The same for bytes. (`socket.send_fds` ignores its flags.)"""
    flags = socket.MSG_NOSIGNAL | (0 if wait else socket.MSG_DONTWAIT)
    rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, _numbers(descriptors))] if descriptors else []
    channel.sendmsg([packet], rights, flags)


def receive(
    channel: socket.socket, decoder: msgspec.msgpack.Decoder[Message], *, wait: bool = False
) -> tuple[Message, list[int]]:
    """Read one packet and its descriptors.

    Raises: BlockingIOError if nothing is there and `wait` is false; ConnectionError at the end of the stream;
    Misfit for a packet that does not fit, whose descriptors are closed.
    """
    flags = socket.MSG_CMSG_CLOEXEC | (0 if wait else socket.MSG_DONTWAIT)
    packet, ancillary, received, _ = channel.recvmsg(MAX_PACKET_BYTES, _ANCILLARY_BYTES, flags)
    descriptors = [number for _, _, data in ancillary for number in array("i", data)]
    if not packet:
        close_all(descriptors)
        raise ConnectionError("the other side is gone")
    try:
        if received & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            raise msgspec.DecodeError("the packet is too large")
        return decoder.decode(packet), descriptors
    except msgspec.MsgspecError as error:
        close_all(descriptors)
        raise Misfit(str(error), packet) from None


def close_all(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


def _request_of(packet: bytes) -> int | None:
    """The second item of a Start or Measure, whatever is wrong with the others."""
    try:
        match msgspec.msgpack.decode(packet):
            case [Start.__name__ | Measure.__name__, int(request), *_]:
                return request
    except msgspec.MsgspecError:
        pass
    return None


def _numbers(descriptors: tuple[int, ...]) -> bytes:
    return array("i", descriptors).tobytes()
