"""Duplicates of connections that instances hold: the box can end them, and reads not a byte."""

import contextlib
import select
import socket
import struct
from collections.abc import Collection

_NO_LINGER = struct.pack("ii", 0, 0)


class Connections:
    """Connections by their instance. Those that have ended are found by `epoll`, itself a descriptor to wait on: their
    peer has closed its side, or somebody shut both.
    """

    def __init__(self) -> None:
        self.epoll = select.epoll()
        self._by_descriptor: dict[int, tuple[bytes, socket.socket]] = {}
        self._by_instance: dict[bytes, set[socket.socket]] = {}
        self._set_aside: set[socket.socket] = set()

    def __len__(self) -> int:
        return len(self._by_descriptor)

    def of(self, instance: bytes) -> Collection[socket.socket]:
        return self._by_instance.get(instance, ())

    def add(self, instance: bytes, connection: socket.socket) -> None:
        """Keep a connection; OSError, and it is not kept, if the kernel can't watch one more."""
        self.epoll.register(connection.fileno(), select.EPOLLRDHUP)
        self._by_descriptor[connection.fileno()] = (instance, connection)
        self._by_instance.setdefault(instance, set()).add(connection)

    def set_aside(self, connection: socket.socket) -> None:
        """Keep one that has ended; `ended` tells it no more."""
        self.epoll.unregister(connection.fileno())
        self._set_aside.add(connection)

    def aside(self, instance: bytes) -> Collection[socket.socket]:
        """Those of an instance that are set aside."""
        return self._set_aside.intersection(self.of(instance))

    def remove(self, connection: socket.socket) -> None:
        """Forget a connection; to end it is the caller's."""
        instance, _ = self._by_descriptor.pop(connection.fileno())
        self._by_instance[instance].remove(connection)
        if not self._by_instance[instance]:
            del self._by_instance[instance]
        if connection in self._set_aside:
            self._set_aside.remove(connection)
        else:
            self.epoll.unregister(connection.fileno())

    def ended(self) -> list[tuple[bytes, socket.socket]]:
        """Those that have ended, with their instance."""
        return [self._by_descriptor[descriptor] for descriptor, _ in self.epoll.poll(0)]

    def end_all(self, instance: bytes) -> None:
        """End all connections of an instance. Its process's end alone would not: a duplicate keeps them open."""
        for connection in list(self.of(instance)):
            self.remove(connection)
            end(connection)


def end(connection: socket.socket) -> None:
    """End a connection for everyone who holds it. What was sent on it is still delivered."""
    shut(connection)
    let_go(connection)


def shut(connection: socket.socket) -> None:
    """Shut both sides of a connection: what has arrived can still be read, what was sent is still delivered."""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def let_go(connection: socket.socket) -> None:
    """Close the box's duplicate. It may be the last one: with SO_LINGER, which whoever had the connection may have set,
    this would wait for the peer, and the whole server with it."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
    connection.close()
