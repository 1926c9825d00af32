"""Packets between server, reaper and zygote: sizes, descriptors, and what does not fit."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from bento.config import MIB
from bento.sandbox import messages
from bento.sandbox.spec import MAX_BEGIN_BYTES, MAX_PACKET_BYTES, MAX_RECORD_BYTES, Limits

LIMITS = Limits(memory_bytes=64 * MIB, cpu_s=30, storage_bytes=16 * MIB)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield ours, theirs


def start(**changes: object) -> messages.Start:
    whole = messages.Start(1, b"name", b"begin", LIMITS, lease_s=60, wall_s=0, record=b"record")
    return msgspec.structs.replace(whole, **changes)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_the_largest_start_fits_a_packet(pair: tuple[socket.socket, socket.socket]) -> None:
    largest = start(begin=bytes(MAX_BEGIN_BYTES), record=bytes(MAX_RECORD_BYTES), instance=bytes(64))
    messages.send(pair[0], largest)
    assert messages.receive(pair[1], messages.TO_REAPER) == (largest, [])


def test_descriptors_travel_with_their_packet(pair: tuple[socket.socket, socket.socket]) -> None:
    messages.send(pair[0], start(), (0, 1))
    _, received = messages.receive(pair[1], messages.TO_REAPER)
    assert len(received) == 2
    assert not any(os.get_inheritable(descriptor) for descriptor in received)
    messages.close_all(received)


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(b"\xc1", id="no msgpack"),
        pytest.param(messages.encode(["Unknown", 1]), id="no such message"),
        pytest.param(messages.encode(start(begin=bytes(MAX_BEGIN_BYTES + 1))), id="begin too long"),
        pytest.param(messages.encode(start(record=bytes(MAX_RECORD_BYTES + 1))), id="record too long"),
        pytest.param(messages.encode(start(instance=b"")), id="no name"),
        pytest.param(messages.encode(start(lease_s=-1)), id="a lease before now"),
        pytest.param(messages.encode(messages.End(b"x", "whim")), id="no such cause"),  # type: ignore[arg-type]
        pytest.param(bytes(MAX_PACKET_BYTES + 1), id="too long"),
    ],
)
def test_a_packet_that_does_not_fit_is_refused_whole(pair: tuple[socket.socket, socket.socket], packet: bytes) -> None:
    before = descriptors()
    messages.send_packet(pair[0], packet, (0,))
    with pytest.raises(msgspec.MsgspecError):
        messages.receive(pair[1], messages.TO_REAPER)
    assert descriptors() == before


@pytest.mark.parametrize(
    ("packet", "request_number"),
    [
        (messages.encode(start(record=bytes(MAX_RECORD_BYTES + 1))), 1),
        (messages.encode(messages.Measure(7, b"")), 7),
        (messages.encode(messages.Renew(b"name", -1)), None),
        (messages.encode(["Start", "one"]), None),
        (messages.encode(["Start"]), None),
        (messages.encode(3), None),
        (b"\xc1", None),
    ],
)
def test_a_misfit_is_answered_by_its_number_if_it_has_one(
    pair: tuple[socket.socket, socket.socket], packet: bytes, request_number: int | None
) -> None:
    messages.send_packet(pair[0], packet)
    with pytest.raises(messages.Misfit) as caught:
        messages.receive(pair[1], messages.TO_REAPER)
    assert caught.value.request == request_number


def test_more_descriptors_than_allowed_are_refused_and_closed(pair: tuple[socket.socket, socket.socket]) -> None:
    before = descriptors()
    messages.send(pair[0], start(), (0,) * 20)
    with pytest.raises(msgspec.MsgspecError):
        messages.receive(pair[1], messages.TO_REAPER)
    assert descriptors() == before


def test_nothing_there_is_told_from_the_end(pair: tuple[socket.socket, socket.socket]) -> None:
    with pytest.raises(BlockingIOError):
        messages.receive(pair[1], messages.TO_REAPER)
    pair[0].close()
    with pytest.raises(ConnectionError):
        messages.receive(pair[1], messages.TO_REAPER)
