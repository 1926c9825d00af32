"""The streams that were handed over: the box can cut them, and reads not a byte."""

import contextlib
import select
import socket

MAX_INSTANCE_STREAMS = 64
"""Of one instance: as many sessions as its loader serves."""

MAX_STREAMS = 4096
"""In all, each a descriptor and kernel buffers: 64 instances with all theirs."""


class Streams:
    """Duplicates of handed-over connections, by instance. Those that the client has ended fall out by themselves:
    `epoll` reports that, and is itself a descriptor to wait on.
    """

    def __init__(self) -> None:
        self.epoll = select.epoll()
        self._by_descriptor: dict[int, tuple[bytes, socket.socket]] = {}

    def __len__(self) -> int:
        return len(self._by_descriptor)

    def has_room(self, instance: bytes) -> bool:
        """Whether one more may be added."""
        owned = sum(owner == instance for owner, _ in self._by_descriptor.values())
        return len(self) < MAX_STREAMS and owned < MAX_INSTANCE_STREAMS

    def add(self, instance: bytes, stream: socket.socket) -> None:
        """Keep the box's duplicate of an instance's stream."""
        self._by_descriptor[stream.fileno()] = (instance, stream)
        self.epoll.register(stream.fileno(), select.EPOLLRDHUP)

    def drop_closed(self) -> None:
        """Let go of the streams that their clients have ended. Call it when `epoll` is readable.

        The instance may still hold them; they end with it, since nobody else does.
        """
        for descriptor, _ in self.epoll.poll(0):
            self._release(descriptor).close()

    def cut(self, instance: bytes) -> None:
        """End all streams of an instance. Its process's end alone would not: a duplicate keeps a connection open."""
        for descriptor in [number for number, (owner, _) in self._by_descriptor.items() if owner == instance]:
            stream = self._release(descriptor)
            with contextlib.suppress(OSError):
                stream.shutdown(socket.SHUT_RDWR)
            stream.close()

    def close(self) -> None:
        """Let go of all, without ending any."""
        for _, stream in self._by_descriptor.values():
            stream.close()
        self._by_descriptor.clear()
        self.epoll.close()

    def _release(self, descriptor: int) -> socket.socket:
        _, stream = self._by_descriptor.pop(descriptor)
        self.epoll.unregister(descriptor)
        return stream
