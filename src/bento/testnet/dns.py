"""The network's DNS: every name in `.test` is the web server's, no other exists.

>>> from dnslib import DNSRecord
>>> DNSRecord.parse(answer(DNSRecord.question("demo.test").pack())).short()
'46.86.80.80'
"""

import asyncio
import contextlib
import struct
from typing import Final, cast

from dnslib import QTYPE, RCODE, RR, A, DNSError, DNSRecord

from bento.testnet.layout import DNS_ADDRESS, web_address

PORT: Final = 53
ADDRESSES: Final = (DNS_ADDRESS, "127.0.0.1")
_TTL_S: Final = 60
_MAX_QUERIES: Final = 1000
"""Over one TCP connection: more than any resolver sends before it opens another."""
_IDLE_S: Final = 30


def answer(query: bytes) -> bytes:
    """The reply to one query. Raises: DNSError for what is none."""
    request = DNSRecord.parse(query)
    reply = request.reply()
    name = str(request.q.qname).rstrip(".").lower()
    if name != "test" and not name.endswith(".test"):
        reply.header.rcode = RCODE.NXDOMAIN
    elif QTYPE[request.q.qtype] in ("A", "ANY"):
        reply.add_answer(RR(request.q.qname, QTYPE.A, rdata=A(web_address(name)), ttl=_TTL_S))
    return bytes(reply.pack())


async def serve() -> contextlib.AsyncExitStack:
    """Listen on port 53, UDP and TCP, of each address; closing the stack ends it."""
    loop = asyncio.get_running_loop()
    listening = contextlib.AsyncExitStack()
    for address in ADDRESSES:
        transport, _ = await loop.create_datagram_endpoint(_Datagrams, local_addr=(address, PORT))
        listening.callback(transport.close)
    server = await asyncio.start_server(_serve_stream, ADDRESSES, PORT)
    await listening.enter_async_context(server)
    return listening


class _Datagrams(asyncio.DatagramProtocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, address: tuple[str, int]) -> None:
        with contextlib.suppress(DNSError):
            self._transport.sendto(answer(data), address)


async def _serve_stream(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(DNSError, OSError, asyncio.IncompleteReadError, TimeoutError):
        for _ in range(_MAX_QUERIES):
            async with asyncio.timeout(_IDLE_S):
                (size,) = struct.unpack(">H", await reader.readexactly(2))
                reply = answer(await reader.readexactly(size))
                writer.write(struct.pack(">H", len(reply)) + reply)
                await writer.drain()
    writer.close()
