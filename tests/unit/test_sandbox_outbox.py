"""Packets that a full socket does not take at once."""

import asyncio
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from bento.sandbox.outbox import MAX_WAITING_BYTES, Outbox

COUNT = 3000  # of 1 KiB: several times what a socket holds


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.setblocking(False)
    theirs.setblocking(False)
    with ours, theirs:
        yield ours, theirs


def packet(number: int) -> bytes:
    return number.to_bytes(4, "big") + bytes(1020)


def fill(outbox: Outbox, count: int) -> None:
    for number in range(count):
        outbox.send(packet(number), (0,) if number % 100 == 0 else ())


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_every_packet_arrives_in_order(pair: tuple[socket.socket, socket.socket]) -> None:
    async def scenario() -> list[bytes]:
        outbox = Outbox(pair[0])
        for number in range(COUNT):
            outbox.send(packet(number))
        loop = asyncio.get_running_loop()
        return [await asyncio.wait_for(loop.sock_recv(pair[1], 2000), 5) for _ in range(COUNT)]

    assert asyncio.run(scenario()) == [packet(number) for number in range(COUNT)]


def test_a_descriptor_that_waits_may_be_closed_by_its_owner(pair: tuple[socket.socket, socket.socket]) -> None:
    async def scenario() -> bytes:
        outbox = Outbox(pair[0])
        for number in range(COUNT):
            outbox.send(packet(number))
        reading, writing = os.pipe()
        outbox.send(b"last", (writing,))
        os.close(writing)
        pair[1].setblocking(True)
        for _ in range(COUNT):
            await asyncio.to_thread(pair[1].recv, 2000)
        _, (received,), _, _ = await asyncio.to_thread(socket.recv_fds, pair[1], 100, 1)
        os.write(received, b"through")
        os.close(received)
        try:
            return os.read(reading, 100)
        finally:
            os.close(reading)

    before = descriptors()
    assert asyncio.run(scenario()) == b"through"
    assert descriptors() == before


def test_who_reads_nothing_is_stuck_at_last(pair: tuple[socket.socket, socket.socket]) -> None:
    async def scenario() -> None:
        outbox = Outbox(pair[0])
        with pytest.raises(BlockingIOError, match=f"the limit is {MAX_WAITING_BYTES}"):
            fill(outbox, 2 * MAX_WAITING_BYTES // 1024)
        outbox.clear()
        pair[0].close()

    before = descriptors()
    asyncio.run(scenario())
    assert descriptors() == before - 1  # the socket's own


def test_what_waits_for_a_peer_that_goes_is_dropped(pair: tuple[socket.socket, socket.socket]) -> None:
    async def scenario() -> None:
        outbox = Outbox(pair[0])
        fill(outbox, COUNT)
        pair[1].close()
        for _ in range(1000):
            await asyncio.sleep(0.001 if outbox._waiting else 0)
        assert not outbox._waiting

    before = descriptors()
    asyncio.run(scenario())
    assert descriptors() == before - 1
