"""What functions have dialled: counted, cut when the grant's bytes are used up, and ended with whoever had it."""

import asyncio
import contextlib
import fcntl
import hashlib
import itertools
import os
import random
import socket
import stat
import struct
import termios
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from msgspec.structs import replace

from bento.box import dialled
from bento.box.dialled import MAX_INSTANCE_DIALLED
from bento.box.egress import _BUFFER_BYTES
from bento.exit_policy import RelayFacts
from bento.protocol.broker import Dial, Failed
from tests.asking import GRANT, WAIT_S, Instance, serve

_MIB = 2**20
_GRANT = replace(GRANT, egress=("*:*",))


@dataclass
class Peer:
    """A server that does with each connection what `serve_one` does; `port` is where. It keeps what it accepts."""

    port: int = 0
    serve_one: Callable[[socket.socket], None] = lambda connection: None
    accepted: list[socket.socket] = field(default_factory=list)


@pytest.fixture
def peer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Peer]:
    """A peer on loopback, which these tests may dial."""
    monkeypatch.setattr("bento.box.reach.why_not_dialled", lambda *_, **__: None)
    peer = Peer()
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        peer.port = listener.getsockname()[1]

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listener.accept()
                    peer.accepted.append(connection)
                    threading.Thread(target=_quietly, args=(peer, connection), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield peer
        listener.shutdown(socket.SHUT_RDWR)
    for connection in peer.accepted:
        connection.close()


def _quietly(peer: Peer, connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        peer.serve_one(connection)


async def _dialled(instance: Instance, peer: Peer) -> socket.socket:
    answer, connection = await instance.dial("127.0.0.1", peer.port)
    assert connection is not None, answer
    return connection


async def _until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not is_so():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


def _read_all(connection: socket.socket) -> bytes:
    return b"".join(iter(lambda: connection.recv(65536), b""))


def test_a_connection_blocks_and_its_buffers_are_the_box_s(peer: Peer) -> None:
    async def scenario(instance: Instance) -> None:
        with await _dialled(instance, peer) as connection:
            assert os.get_blocking(connection.fileno())
            assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) <= _MIB
            assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) <= _MIB

    serve(scenario, grant=_GRANT)


def test_connections_leave_from_the_relay_s_address_and_need_no_port_of_their_own(peer: Peer) -> None:
    async def scenario(instance: Instance) -> None:
        with await _dialled(instance, peer) as connection:
            assert connection.getsockname()[0] == "127.0.0.7"
            assert connection.getsockopt(socket.IPPROTO_IP, 24) == 1

    serve(scenario, grant=_GRANT, facts=lambda: RelayFacts("accept *:*", outbound="127.0.0.7"))


def test_bytes_both_ways_are_counted(peer: Peer) -> None:
    def serve_one(connection: socket.socket) -> None:
        connection.sendall(bytes(300_000))
        while connection.recv(65536):
            pass

    async def scenario(instance: Instance) -> None:
        connection = await _dialled(instance, peer)
        await asyncio.to_thread(connection.recv, 300_000, socket.MSG_WAITALL)
        await asyncio.to_thread(connection.sendall, bytes(200_000))
        assert 500_000 <= dialled.carried_bytes(connection) <= 500_004
        connection.close()

    peer.serve_one = serve_one
    serve(scenario, grant=_GRANT)


@pytest.mark.parametrize("is_pouring", [True, False])
def test_used_up_bytes_break_all_connections_and_name_the_rule(peer: Peer, is_pouring: bool) -> None:
    def serve_one(connection: socket.socket) -> None:
        while True:
            connection.sendall(bytes(65536)) if is_pouring else connection.recv(65536)

    def use(connection: socket.socket) -> int:
        size = 0
        while size < 2**40:
            size += len(connection.recv(65536)) if is_pouring else connection.send(bytes(65536))
        return size

    async def scenario(instance: Instance, other: Instance) -> None:
        idle, busy = await _dialled(instance, peer), await _dialled(instance, peer)
        others = await _dialled(other, peer)
        with pytest.raises(ConnectionError):  # and no b"", which would look like the end of the answer
            await asyncio.to_thread(use, busy)
        await _until(lambda: idle.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0 or not _is_connected(idle))
        says = f"egress_bytes: the function's connections have carried the {_MIB} bytes granted"
        assert await instance.dial("127.0.0.1", peer.port) == (Failed(1, "denied", says), None)
        assert await instance.resolve("127.0.0.1") == Failed(1, "denied", says)
        assert _is_connected(others)
        assert busy.connect_ex(("127.0.0.1", peer.port)) == 0  # no instance may; if it could, it would be of no use
        with pytest.raises(BrokenPipeError):
            busy.send(b"x")
        for connection in (idle, busy, others):
            connection.close()

    peer.serve_one = serve_one
    serve(scenario, instances=2, grant=replace(_GRANT, egress_bytes=_MIB))


def _is_connected(connection: socket.socket) -> bool:
    with contextlib.suppress(OSError):
        return bool(connection.getpeername())
    return False


def test_many_short_connections_use_up_the_bytes_too(peer: Peer) -> None:
    def serve_one(connection: socket.socket) -> None:
        with connection:
            connection.sendall(bytes(100_000))

    async def scenario(instance: Instance) -> None:
        answers = []
        for _ in range(200):
            answer, connection = await instance.dial("127.0.0.1", peer.port)
            if connection is None:
                answers.append(answer)
                break
            with connection, contextlib.suppress(ConnectionError):
                await asyncio.to_thread(_read_all, connection)
            await asyncio.sleep(0.01)
        assert "egress_bytes" in str(answers)

    peer.serve_one = serve_one
    serve(scenario, grant=replace(_GRANT, egress_bytes=_MIB))


def test_a_peer_s_end_ends_the_connection_and_loses_nothing_of_what_it_said(peer: Peer) -> None:
    def serve_one(connection: socket.socket) -> None:
        with connection:
            connection.sendall(bytes(100_000))

    async def scenario(instance: Instance) -> None:
        before = _descriptors()
        for _ in range(3):
            connections = [await _dialled(instance, peer) for _ in range(MAX_INSTANCE_DIALLED)]
            for connection in connections:
                assert len(await asyncio.to_thread(_read_all, connection)) == 100_000
            await _until(lambda: _descriptors() <= before + MAX_INSTANCE_DIALLED)  # the box has let go
            for connection in connections:
                connection.close()

    peer.serve_one = serve_one
    serve(scenario, grant=_GRANT)


def test_what_has_ended_keeps_its_place_until_it_is_read(peer: Peer) -> None:
    def serve_one(connection: socket.socket) -> None:
        with connection:
            connection.sendall(bytes(1000))

    async def scenario(instance: Instance) -> None:
        kept = [await _dialled(instance, peer) for _ in range(MAX_INSTANCE_DIALLED)]
        await _until(lambda: all(_unread(each) == 1000 for each in kept))
        await asyncio.sleep(0.3)
        for how in (socket.SHUT_RD, socket.SHUT_RDWR):  # nor does what the function ends itself make room
            with contextlib.suppress(OSError):
                kept[0].shutdown(how)
        says = "the function has 64 connections open, the most it may have"
        assert await instance.dial("127.0.0.1", peer.port) == (Failed(1, "busy", says), None)
        assert len(_read_all(kept[0])) == 1000
        await _until(lambda: _descriptors() <= 2 * MAX_INSTANCE_DIALLED - 1)
        kept.append(await _dialled(instance, peer))
        for connection in kept:
            connection.close()
        instance.close()
        await _until(lambda: _descriptors() == 0)

    peer.serve_one = serve_one
    serve(scenario, grant=_GRANT)


def test_what_a_function_ended_keeps_its_place_until_its_peer_has_taken_all(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dialled, "_DELIVERY_MS", 1500)
    is_over = threading.Event()

    def serve_one(_: socket.socket) -> None:
        is_over.wait(2 * WAIT_S)

    async def scenario(instance: Instance) -> None:
        before = _descriptors()
        connection = await _dialled(instance, peer)
        connection.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                connection.send(bytes(65536))
        connection.shutdown(socket.SHUT_RDWR)
        connection.close()
        await asyncio.sleep(0.3)
        assert _descriptors() == before + 1
        await _until(lambda: _descriptors() == before)  # the peer takes nothing, so it is given up

    peer.serve_one = serve_one
    serve(scenario, grant=_GRANT)
    is_over.set()


def _unread(connection: socket.socket) -> int:
    return int.from_bytes(fcntl.ioctl(connection, termios.FIONREAD, bytes(4)), "little")


def test_a_slow_reader_gets_all_that_a_peer_said_before_it_ended(peer: Peer) -> None:
    body = random.Random(1).randbytes(8 * _MIB)

    def serve_one(connection: socket.socket) -> None:
        with connection:  # closed with the function's last bytes unread: a reset, if they come late
            connection.recv(1)
            connection.sendall(body)

    def read_slowly(connection: socket.socket) -> bytes:
        found = b""
        connection.sendall(b"x")
        while data := connection.recv(256 * 1024):
            found += data
            if len(found) < _MIB or len(found) > len(body) - _MIB:
                time.sleep(0.05)
        return found

    async def scenario(instance: Instance) -> None:
        with await _dialled(instance, peer) as connection:
            found = await asyncio.to_thread(read_slowly, connection)
            assert hashlib.sha256(found).digest() == hashlib.sha256(body).digest()

    peer.serve_one = serve_one
    serve(scenario, grant=_GRANT)


def test_an_answer_that_comes_before_the_request_is_whole_can_be_read(peer: Peer) -> None:
    """As of a server that refuses an upload, says so, and waits for the client to stop."""

    def serve_one(connection: socket.socket) -> None:
        connection.recv(1000)
        connection.sendall(b"413")
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65536):
            pass

    def upload(connection: socket.socket) -> bytes:
        with contextlib.suppress(BrokenPipeError):
            for _ in range(1000):
                connection.sendall(bytes(65536))
        return _read_all(connection)

    async def scenario(instance: Instance) -> None:
        with await _dialled(instance, peer) as connection:
            assert await asyncio.to_thread(upload, connection) == b"413"

    peer.serve_one = serve_one
    serve(scenario, grant=_GRANT)


def _descriptors() -> int:
    """How many connections are open here that the box made: the size of their receive buffers tells."""
    return sum(_is_dialled(int(path.name)) for path in Path("/proc/self/fd").iterdir())


def _is_dialled(descriptor: int) -> bool:
    try:
        copy = os.dup(descriptor)
    except OSError:  # a thread has closed it meanwhile, or it was what the folder was listed with
        return False
    if not stat.S_ISSOCK(os.fstat(copy).st_mode):
        os.close(copy)
        return False
    with socket.socket(fileno=copy) as found:
        size = found.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
        return found.family == socket.AF_INET and size == 2 * _BUFFER_BYTES[socket.SO_RCVBUF]


def test_a_function_that_shuts_both_sides_makes_room(peer: Peer) -> None:
    async def scenario(instance: Instance) -> None:
        before = _descriptors()
        for _ in range(MAX_INSTANCE_DIALLED + 10):
            connection = await _dialled(instance, peer)
            connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        await _until(lambda: _descriptors() == before)

    serve(scenario, grant=_GRANT)


def test_a_function_that_sent_its_end_goes_on_reading(peer: Peer) -> None:
    def serve_one(connection: socket.socket) -> None:
        with connection:
            connection.sendall(_read_all(connection).upper())

    async def scenario(instance: Instance) -> None:
        with await _dialled(instance, peer) as connection:
            connection.sendall(b"hello")
            await asyncio.sleep(0.1)
            connection.shutdown(socket.SHUT_WR)
            assert await asyncio.to_thread(_read_all, connection) == b"HELLO"

    peer.serve_one = serve_one
    serve(scenario, grant=_GRANT)


def test_an_instance_that_never_closes_has_a_limit_and_others_go_on(peer: Peer) -> None:
    async def scenario(hoarder: Instance, other: Instance) -> None:
        kept = []
        for number in range(MAX_INSTANCE_DIALLED + 16):
            hoarder.say(Dial(number, "127.0.0.1", peer.port))
        answers = []
        for _ in range(MAX_INSTANCE_DIALLED + 16):
            answer, connection = await hoarder.dialled()
            answers.append(answer)
            kept.append(connection)
        refused = [answer for answer in answers if isinstance(answer, Failed)]
        assert {(answer.error, answer.message) for answer in refused} == {
            ("busy", "the function has 64 connections open, the most it may have")
        }
        assert (len(refused), sum(connection is not None for connection in kept)) == (16, MAX_INSTANCE_DIALLED)
        (await _dialled(other, peer)).close()
        for connection in kept:
            if connection:
                connection.close()

    serve(scenario, instances=2, grant=_GRANT)


def test_the_box_has_a_limit_of_all_connections_and_those_with_many_leave_some(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dialled, "MAX_DIALLED", 9)

    async def scenario(*instances: Instance) -> None:
        async def dial_all(instance: Instance) -> list[socket.socket]:
            kept = []
            while (found := await instance.dial("127.0.0.1", peer.port))[1] is not None:
                kept.append(found[1])
            assert isinstance(found[0], Failed)
            messages.append(found[0].message)
            return kept

        messages: list[str] = []
        kept = [await dial_all(instance) for instance in instances]
        assert [len(some) for some in kept] == [5, 2, 1, 1]
        assert (
            messages[0] == "the box can open 4 more connections of 9, for functions with fewer than 4; this one has 5"
        )
        kept[0].pop().shutdown(socket.SHUT_RDWR)
        await asyncio.sleep(0.1)
        assert len(await dial_all(instances[3])) == 0
        for connection in itertools.chain(*kept):
            connection.close()

    serve(scenario, instances=4, grant=_GRANT)


def test_an_instance_s_end_ends_its_connections_whoever_holds_them(peer: Peer) -> None:
    kept: list[socket.socket] = []

    async def scenario(instance: Instance) -> None:
        kept.append(await _dialled(instance, peer))
        await _until(lambda: bool(peer.accepted))

    serve(scenario, grant=_GRANT)
    assert kept[0].recv(1) == b""
    peer.accepted[0].settimeout(WAIT_S)
    assert peer.accepted[0].recv(1) == b""
    kept[0].close()


def test_dials_whose_answers_are_never_read_leave_nothing_open(peer: Peer) -> None:
    async def scenario(deaf: Instance, other: Instance) -> None:
        for number in range(1000):
            with contextlib.suppress(BlockingIOError):
                deaf.say(Dial(number, "127.0.0.1", peer.port))
            await asyncio.sleep(0)
        (await _dialled(other, peer)).close()
        assert _descriptors() <= MAX_INSTANCE_DIALLED + 2
        deaf.close()
        await _until(lambda: _descriptors() <= 2)

    serve(scenario, instances=2, grant=_GRANT)


def test_a_connection_that_lingers_does_not_hold_up_the_server(peer: Peer) -> None:
    """The last close of a connection with SO_LINGER waits for a peer that takes nothing, for hours if it likes."""

    async def scenario(instance: Instance, other: Instance) -> None:
        connection = await _dialled(instance, peer)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 65535))
        connection.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while True:
                connection.send(bytes(65536))
        connection.close()  # not the last: the box has its duplicate
        instance.close()
        await asyncio.sleep(0.1)
        (await _dialled(other, peer)).close()

    serve(scenario, instances=2, grant=_GRANT)
