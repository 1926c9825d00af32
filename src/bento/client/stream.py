"""One stream to a box, as bytes: a descriptor connected to tor, whose SOCKS answers are taken off."""

import asyncio
import socket
from typing import Final

from bento.errors import BoxUnreachable
from bento.tor.socks import ReplyReader

READ_BYTES: Final = 256 * 1024
"""Half a thousand cells: as much as tor has ready for a stream at full speed."""

OPEN_LIMIT_S: Final = 60.0
"""As long as a box's relay may take to connect; tor itself gives a stream up after two minutes."""


class Stream:
    """An open stream. One task reads."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, rest: bytes) -> None:
        self._reader = reader
        self._writer = writer
        self._rest = rest

    @staticmethod
    async def begin(connection: socket.socket, prefix: bytes, flight: bytes) -> "Stream":
        """Send everything at once, then wait for tor's answer; takes over the connection.

        Raises: SocksRefused says why the box can't be reached; BoxUnreachable.
        """
        try:
            reader, writer = await asyncio.open_unix_connection(sock=connection, limit=READ_BYTES)
        except BaseException:
            connection.close()
            raise
        try:
            async with asyncio.timeout(OPEN_LIMIT_S):
                return Stream(reader, writer, await _open(reader, writer, prefix + flight))
        except TimeoutError:
            writer.close()
            raise BoxUnreachable(f"the stream to the box did not open within {OPEN_LIMIT_S:g} s") from None
        except BaseException:
            writer.close()
            raise

    async def read(self) -> bytes:
        """Bytes that have come; b"" at the end, and where the circuit broke."""
        if self._rest:
            rest, self._rest = self._rest, b""
            return rest
        return await _read(self._reader)

    def write(self, data: bytes) -> None:
        """Send; what is lost shows when reading.

        It never waits: a reader that did would not see that the circuit broke, and tor holds a stream that is not read
        open for 15 s. What can pile up here is the input that a loader has not taken, so INPUT_WINDOW_BYTES.
        """
        if data and not self._writer.is_closing():
            self._writer.write(data)

    def close(self) -> None:
        self._writer.close()


async def _open(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, flight: bytes) -> bytes:
    # Tor may refuse before it has read all: then the answer is there to be read all the same.
    writer.write(flight)
    replies = ReplyReader()
    while data := await _read(reader):
        if (rest := replies.feed(data)) is not None:
            return rest
    raise BoxUnreachable("the circuit to the box broke")


async def _read(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read(READ_BYTES)
    except OSError:
        return b""
