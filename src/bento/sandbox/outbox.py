"""Packets on their way into a socket that is full just now."""

import asyncio
import os
import socket
from collections import deque
from typing import Final

from bento.sandbox import messages

MAX_WAITING_BYTES: Final = 4 << 20
"""The reaper reads some 50 packets a millisecond: this is 30 of the largest starts, or a second of renewals."""


class Outbox:
    """Sends each packet at once if the socket takes it, else when it does, in order.

    Args:
        channel: not blocking; who closes it calls `clear` before.
    """

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._waiting: deque[tuple[bytes, tuple[int, ...]]] = deque()
        self._waiting_bytes = 0

    def send(self, packet: bytes, descriptors: tuple[int, ...] = ()) -> None:
        """Send, or keep the packet and duplicates of its descriptors.

        Raises: OSError if the peer is gone; BlockingIOError, which is one, if it left too much unread: it is stuck.
        """
        if not self._waiting:
            try:
                messages.send_packet(self._channel, packet, descriptors)
            except BlockingIOError:
                asyncio.get_running_loop().add_writer(self._channel.fileno(), self._flush)
            else:
                return
        elif self._waiting_bytes + len(packet) > MAX_WAITING_BYTES:
            raise BlockingIOError(f"it left {self._waiting_bytes} bytes unread, the limit is {MAX_WAITING_BYTES}")
        self._waiting.append((packet, tuple(map(os.dup, descriptors))))
        self._waiting_bytes += len(packet)

    def clear(self) -> None:
        """Forget what waits."""
        if self._waiting:
            asyncio.get_running_loop().remove_writer(self._channel.fileno())
        while self._waiting:
            self._drop_first()

    def _flush(self) -> None:
        try:
            while self._waiting:
                messages.send_packet(self._channel, *self._waiting[0])
                self._drop_first()
        except BlockingIOError:
            return
        except OSError:
            pass  # the peer is gone, and the reader of this channel hears it
        asyncio.get_running_loop().remove_writer(self._channel.fileno())
        while self._waiting:
            self._drop_first()

    def _drop_first(self) -> None:
        packet, descriptors = self._waiting.popleft()
        self._waiting_bytes -= len(packet)
        messages.close_all(list(descriptors))
