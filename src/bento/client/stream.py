"""One stream to a box, as bytes: a descriptor connected to tor, whose SOCKS answers are taken off."""

import asyncio
import contextlib
import socket
from typing import Final

from bento.errors import BoxUnreachable
from bento.tor.socks import ReplyReader

READ_BYTES: Final = 256 * 1024
"""Half a thousand cells: as much as tor has ready for a stream at full speed."""

OPEN_LIMIT_S: Final = 60.0
"""As long as a box's relay may take to connect; tor itself gives a stream up after two minutes."""


class Stream:
    """An open stream. One task reads; writes wait for each other."""

    def __init__(self, connection: socket.socket, rest: bytes) -> None:
        self._connection = connection
        self._rest = rest
        self._writing = asyncio.Lock()

    @staticmethod
    async def begin(connection: socket.socket, prefix: bytes, flight: bytes) -> "Stream":
        """Send everything at once, then wait for tor's answer; takes over the connection.

        Raises: SocksRefused says why the box can't be reached; BoxUnreachable.
        """
        connection.setblocking(False)
        try:
            async with asyncio.timeout(OPEN_LIMIT_S):
                return Stream(connection, await _open(connection, prefix + flight))
        except TimeoutError:
            connection.close()
            raise BoxUnreachable(f"the stream to the box did not open within {OPEN_LIMIT_S:g} s") from None
        except BaseException:
            connection.close()
            raise

    async def read(self) -> bytes:
        """Bytes that have come; b"" at the end, and where the circuit broke."""
        if self._rest:
            rest, self._rest = self._rest, b""
            return rest
        try:
            return await asyncio.get_running_loop().sock_recv(self._connection, READ_BYTES)
        except OSError:
            return b""

    async def write(self, data: bytes) -> None:
        """Send; what is lost shows when reading."""
        if not data:
            return
        async with self._writing:
            with contextlib.suppress(OSError):
                await asyncio.get_running_loop().sock_sendall(self._connection, data)

    def close(self) -> None:
        self._connection.close()


async def _open(connection: socket.socket, flight: bytes) -> bytes:
    loop = asyncio.get_running_loop()
    # Tor may refuse before it has read all: then the answer is there to be read all the same.
    with contextlib.suppress(OSError):
        await loop.sock_sendall(connection, flight)
    replies = ReplyReader()
    while True:
        try:
            data = await loop.sock_recv(connection, READ_BYTES)
        except OSError:
            data = b""
        if not data:
            raise BoxUnreachable("the circuit to the box broke")
        if (rest := replies.feed(data)) is not None:
            return rest
