"""What functions have dialled: a duplicate of each connection, what it has carried, and its end.

A peer that closes its side ends the connection both ways, as it does at a Tor exit: without that, a function that just
closes its descriptor would leave the duplicate open for ever. The connection keeps its place until what has arrived is
read and what was sent has been taken: else a function could hold any amount of the kernel's memory, with connections
that it has ended.

A server that takes over after a crash has no duplicate of what was dialled before: that goes on uncounted, ends with
its instance, and the count begins anew.
"""

import asyncio
import contextlib
import fcntl
import socket
import struct
import termios
from collections.abc import Iterator
from contextlib import contextmanager

from bento.box.connections import Connections, end, shut
from bento.box.reach import Denied
from bento.sandbox import syscalls

MAX_INSTANCE_DIALLED = 64
"""Open at once. A browser keeps six to each host; a function that reads none of its own holds 40 MiB of the kernel's
memory with these."""

MAX_DIALLED = 1024
"""Of the whole box: 640 MiB of the kernel's memory if nobody read any."""

_READ_S = 0.1
"""Between two readings of an instance's connections. What comes in between is carried beyond the limit: 12 MB from a
line of 1 Gbit/s. A reading takes 2 to 5 microseconds a connection: 64 of them, half a percent of a core at most."""

_DELIVERY_MS = 60_000
"""For a peer to go on taking what was sent on a connection that has ended; as long as a slow one may be silent."""

_TCP_CLOSE = 7
"""The first byte of TCP_INFO where nothing is left to be sent."""

_TCP_INFO_BYTES = 136
_TCP_INFO_CARRIED = 120
"""Where `tcpi_bytes_acked` and `tcpi_bytes_received` stand in it; each counts a FIN as one."""


class Busy(Exception):
    """So many connections are open that there is no room for one more."""


class Account:
    """One instance's connections, and what they have carried against the `egress_bytes` of its grant."""

    def __init__(self, connections: Connections, instance: bytes, limit_bytes: int) -> None:
        self._connections = connections
        self._instance = instance
        self._limit_bytes = limit_bytes
        self._ended_bytes = 0
        self._is_used_up = False
        self._has_some = asyncio.Event()

    def verify_bytes(self) -> None:
        """Check that its connections may carry more; Denied if not."""
        if self._is_used_up:
            raise Denied(f"egress_bytes: the function's connections have carried the {self._limit_bytes} bytes granted")

    def verify_room(self) -> None:
        """Check that one more may be opened; Busy if too many are.

        An instance may have as many as the whole box has left. So sixteen that take all they can have 60 each and leave
        as many free, 63 have 16 each; who comes then still gets some.
        """
        own, left = len(self._connections.of(self._instance)), MAX_DIALLED - len(self._connections)
        if own >= MAX_INSTANCE_DIALLED:
            raise Busy(f"the function has {MAX_INSTANCE_DIALLED} connections open, the most it may have")
        if own >= left:
            says = f"the box can open {left} more connections of {MAX_DIALLED}, for functions with fewer than {left}"
            raise Busy(f"{says}; this one has {own}")

    def add(self, connection: socket.socket) -> None:
        """Keep the box's duplicate of a connection; there must be room."""
        self._connections.add(self._instance, connection)
        self._has_some.set()

    def end(self, connection: socket.socket) -> None:
        """End one of them, and count what it carried."""
        self._ended_bytes += carried_bytes(connection)
        self._connections.remove(connection)
        end(connection)

    def let_end(self, connection: socket.socket) -> None:
        """End one that has ended on one side or both, once nothing lies in it any more; until then it is shut, and
        keeps its place."""
        if _holds_bytes(connection):
            shut(connection)
            _limit_delivery(connection)
            self._connections.set_aside(connection)
        else:
            self.end(connection)

    async def watch(self) -> None:
        """Read what they carry, until cancelled; break all once the limit is reached."""
        while True:
            await self._has_some.wait()
            await asyncio.sleep(_READ_S)
            for connection in self._connections.aside(self._instance):
                if not _holds_bytes(connection):
                    self.end(connection)
            some = list(self._connections.of(self._instance))
            if self._ended_bytes + sum(map(carried_bytes, some)) >= self._limit_bytes:
                self._is_used_up = True
                for connection in some:
                    self._connections.remove(connection)
                    _break(connection)
            if not some:
                self._has_some.clear()


class Dialled:
    """All that a box's functions have dialled."""

    def __init__(self) -> None:
        self._connections = Connections()
        self._accounts: dict[bytes, Account] = {}

    async def run(self) -> None:
        """End what either side has ended, until cancelled."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._connections.epoll, self._end_ended)
        try:
            await asyncio.Event().wait()
        finally:
            loop.remove_reader(self._connections.epoll)

    @contextmanager
    def account(self, instance: bytes, limit_bytes: int) -> Iterator[Account]:
        """An instance's account for as long as it runs; then its connections end."""
        account = self._accounts[instance] = Account(self._connections, instance, limit_bytes)
        try:
            yield account
        finally:
            del self._accounts[instance]
            for connection in self._connections.of(instance):
                _limit_delivery(connection)
            self._connections.end_all(instance)

    def _end_ended(self) -> None:
        for instance, connection in self._connections.ended():
            self._accounts[instance].let_end(connection)


def carried_bytes(connection: socket.socket) -> int:
    """What a connection has carried both ways, and what was written to it and is still on its way."""
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
    acknowledged, received = struct.unpack_from("=QQ", info, _TCP_INFO_CARRIED)
    return int(acknowledged + received + _count(connection, termios.TIOCOUTQ))


def _holds_bytes(connection: socket.socket) -> bool:
    """Whether bytes lie in it that nobody has read, or its peer has not taken. A FIN counts as one, and is none."""
    if _count(connection, termios.FIONREAD):
        return True
    is_closed = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _TCP_CLOSE
    return not is_closed and _count(connection, termios.TIOCOUTQ) > 1


def _count(connection: socket.socket, request: int) -> int:
    return int.from_bytes(fcntl.ioctl(connection, request, bytes(4)), "little")


def _limit_delivery(connection: socket.socket) -> None:
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _DELIVERY_MS)


def _break(connection: socket.socket) -> None:
    """End a connection so that who reads it gets an error: the end of its bytes must not look like the end of what the
    peer had to say. The kernel also drops what it has not sent yet."""
    with contextlib.suppress(OSError):
        syscalls.disconnect(connection.fileno())
    end(connection)
