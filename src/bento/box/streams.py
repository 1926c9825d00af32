"""The streams that were handed over: the box can cut them, and reads not a byte."""

import contextlib
import select
import socket


class Streams:
    """Duplicates of handed-over connections, by instance. Closed ones fall out by themselves: `epoll` reports the
    hang-up of a descriptor that is registered for no event at all, and is itself a descriptor to wait on.
    """

    def __init__(self) -> None:
        self.epoll = select.epoll()
        self._by_descriptor: dict[int, tuple[bytes, socket.socket]] = {}

    def __len__(self) -> int:
        return len(self._by_descriptor)

    def add(self, instance: bytes, stream: socket.socket) -> None:
        """Keep the box's duplicate of an instance's stream."""
        self._by_descriptor[stream.fileno()] = (instance, stream)
        self.epoll.register(stream.fileno(), 0)

    def drop_closed(self) -> None:
        """Close the duplicates whose streams are over. Call it when `epoll` is readable."""
        for descriptor, _ in self.epoll.poll(0):
            self._drop(descriptor)

    def cut(self, instance: bytes) -> None:
        """End all streams of an instance. Its process's end alone would not: a duplicate keeps a connection open."""
        for descriptor in [number for number, (owner, _) in self._by_descriptor.items() if owner == instance]:
            self._drop(descriptor)

    def close(self) -> None:
        """Let go of all, without ending any."""
        for _, stream in self._by_descriptor.values():
            stream.close()
        self._by_descriptor.clear()
        self.epoll.close()

    def _drop(self, descriptor: int) -> None:
        _, stream = self._by_descriptor.pop(descriptor)
        self.epoll.unregister(descriptor)
        with contextlib.suppress(OSError):
            stream.shutdown(socket.SHUT_RDWR)
        stream.close()
