"""Byte streams that survive their connections: nothing lost, nothing twice.

Each direction of an invocation is numbered by byte from 0. The sender keeps an `Outbox` until the other side has
acknowledged; the receiver's `Inbox` drops what it already has. Both outlive any one session.

>>> outbox, inbox = Outbox(), Inbox()
>>> outbox.append(b"hello world")
>>> inbox.accept(0, outbox.read(0, 5)), inbox.accept(0, outbox.read(0, 99))
(b'hello', b' world')
>>> outbox.acknowledge(inbox.position); outbox.held_bytes
0
"""

from bento.errors import ProtocolError


class Outbox:
    """What was sent and is not acknowledged yet, from offset `start` on."""

    def __init__(self, start: int = 0) -> None:
        self._start = start
        self._held = bytearray()

    @property
    def start(self) -> int:
        """The offset of the first byte held."""
        return self._start

    @property
    def end(self) -> int:
        """The offset behind the last byte."""
        return self._start + len(self._held)

    @property
    def held_bytes(self) -> int:
        return len(self._held)

    def append(self, data: bytes | bytearray | memoryview) -> None:
        self._held += data

    def read(self, offset: int, most: int) -> bytes:
        """At most `most` bytes from `offset` on; ProtocolError for what is forgotten or not written yet."""
        self._check(offset)
        first = offset - self._start
        return bytes(memoryview(self._held)[first : first + most])

    def acknowledge(self, offset: int) -> None:
        """Forget what lies before `offset`. An older offset changes nothing."""
        if offset > self._start:
            self._check(offset)
            del self._held[: offset - self._start]
            self._start = offset

    def _check(self, offset: int) -> None:
        if not self._start <= offset <= self.end:
            raise ProtocolError(f"offset {offset} is not between {self._start} and {self.end}")


class Inbox:
    """How far the other side's bytes have come; those before offset `position` are there already."""

    def __init__(self, position: int = 0) -> None:
        self.position = position
        """The offset of the next byte that is new."""

    def accept(self, offset: int, data: bytes) -> bytes:
        """The part of `data` that is new; ProtocolError if bytes before it are missing."""
        if offset > self.position:
            raise ProtocolError(f"bytes from {self.position} to {offset} are missing")
        fresh = data[self.position - offset :]
        self.position += len(fresh)
        return fresh
