"""Delay in both directions before each relay's ORPort, in a process of its own: not every kernel has netem.

The forwarder listens where the relay is advertised and dials where it listens, from the address of whoever dialled,
so that the relay sees its true peer.
"""

import asyncio
import contextlib
import socket
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Final

from bento.testnet.layout import OR_PORT, Relay

_PIECE_BYTES: Final = 64 * 1024
_MAX_HELD_PIECES: Final = 8192
"""On their way in one direction of one connection: at least 4 MB, one cell (514 bytes) in each. Beyond, the sender
has to wait, as it would for a full line."""
_BUFFER_BYTES: Final = 1024 * 1024

_Pieces = asyncio.Queue[tuple[float, bytes]]


async def serve(relays: Sequence[Relay], latency_s: float) -> AsyncExitStack:
    """Forward to every relay with a delay of `latency_s` each way; closing the stack ends it."""
    listening = AsyncExitStack()
    for relay in relays:

        async def forward(
            reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: str = relay.listen
        ) -> None:
            await _forward(reader, writer, target, latency_s)

        server = await asyncio.start_server(forward, relay.address, OR_PORT, limit=_BUFFER_BYTES, backlog=1024)
        await listening.enter_async_context(server)
    return listening


async def _forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: str, latency_s: float) -> None:
    source = writer.get_extra_info("peername")[0]
    with contextlib.closing(writer), contextlib.suppress(OSError):
        far_reader, far_writer = await asyncio.open_connection(
            target, OR_PORT, local_addr=(source, 0), limit=_BUFFER_BYTES
        )
        with contextlib.closing(far_writer):
            async with asyncio.TaskGroup() as tasks:
                for one, other in ((reader, far_writer), (far_reader, writer)):
                    other.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    pieces: _Pieces = asyncio.Queue(_MAX_HELD_PIECES)
                    tasks.create_task(_take(one, pieces, latency_s))
                    tasks.create_task(_give(pieces, other))


async def _take(reader: asyncio.StreamReader, pieces: _Pieces, latency_s: float) -> None:
    """Read, and note when each piece is due; b"" stands for the end, however it came."""
    now = asyncio.get_running_loop().time
    data = b"..."
    while data:
        try:
            data = await reader.read(_PIECE_BYTES)
        except OSError:
            data = b""
        await pieces.put((now() + latency_s, data))


async def _give(pieces: _Pieces, writer: asyncio.StreamWriter) -> None:
    """Write each piece when it is due; after the end, or a peer that is gone, close."""
    now = asyncio.get_running_loop().time
    is_open = True
    while True:
        due, data = await pieces.get()
        if (wait_s := due - now()) > 0:
            await asyncio.sleep(wait_s)
        if not data:
            break
        if is_open:
            try:
                writer.write(data)
                await writer.drain()
            except OSError:
                is_open = False
    writer.close()
