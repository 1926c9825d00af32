"""Names and connections for functions: what tor itself would dial from this relay, within the grant and the policy.

A name is resolved here, the address that came out is checked, and that very address is dialled; the function gets the
connected descriptor. What may be reached is told by `reach`, what has been dialled is kept by `dialled`.
"""

import asyncio
import contextlib
import errno
import logging
import socket
from dataclasses import dataclass, field

from bento.box.dialled import Account, Busy
from bento.box.reach import Denied, Reach, literal
from bento.box.resolver import MAX_LOOKUPS, Resolver
from bento.errors import ProtocolError
from bento.protocol.broker import (
    MAX_REQUEST_BYTES,
    MAX_REQUESTS,
    Dial,
    Dialled,
    Failed,
    FromInstance,
    Resolve,
    Resolved,
    Unavailable,
    decode_from_instance,
    encode_packet,
)

_LOG = logging.getLogger("bento.box")

_RESOLVE_S = 20
"""glibc gives up on two servers, two tries each, after 20 s. With the wait for a place among the lookups."""

_CONNECT_S = 20
"""Tor tells a client after 15-20 s that an exit could not connect."""

_BUFFER_BYTES = {socket.SO_SNDBUF: 64 * 1024, socket.SO_RCVBUF: 256 * 1024}
"""Doubled by the kernel for its own records, and in no instance's grant: a function may read none of its connections.
With 256 KiB it receives as fast as outside of the sandbox (`bench/egress.py`), with 128 KiB four fifths as fast.
From a server 100 ms away that is 2.5 MB/s, half of what a circuit carries at its best; functions send little."""

_IP_BIND_ADDRESS_NO_PORT = 24
"""The port is chosen as one connects: it need only be unused towards that peer. Else 28,000 connections, of which those
of the last minute count too, would use up the ports of the relay's address."""

_BURST_REQUESTS = 256
"""Answered at once: two for each connection of a large page."""

_REQUESTS_PER_S = 100
"""From then on: fifty connections a second. What more an instance asks waits in its own socket, so that it neither
keeps the server busy with what is refused anyway, nor scans a network from the relay's address."""

_FULL = (errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL, errno.ENOSPC)


@dataclass(frozen=True)
class Egress:
    """What one instance's requests are held against, and its places among the box's lookups."""

    reach: Reach
    account: Account
    resolver: Resolver
    lookups: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MAX_LOOKUPS))


class _Pace:
    """Lets a burst through at once, then so many in a second."""

    def __init__(self) -> None:
        self._due_s = 0.0

    async def wait(self) -> None:
        now_s = asyncio.get_running_loop().time()
        self._due_s = max(self._due_s, now_s - _BURST_REQUESTS / _REQUESTS_PER_S) + 1 / _REQUESTS_PER_S
        if self._due_s > now_s:
            await asyncio.sleep(self._due_s - now_s)


async def serve_requests(control: socket.socket, egress: Egress) -> None:
    """Answer an instance's requests until its control socket closes, or it says what no loader says: then all its
    requests fail, those to come too.

    Never more than MAX_REQUESTS are under way: the next one is not read before one is answered.
    """
    room, pace = asyncio.Semaphore(MAX_REQUESTS), _Pace()
    underway: set[asyncio.Task[None]] = set()
    async with asyncio.TaskGroup() as group:
        while (request := await _next_request(control, room, pace)) is not None:
            task = group.create_task(_answer(control, request, egress, room))
            underway.add(task)
            task.add_done_callback(underway.discard)
        for task in underway:
            task.cancel()
    with contextlib.suppress(OSError):
        # Whoever asks after this gets EPIPE at once, not an answer that never comes.
        control.shutdown(socket.SHUT_RD)
        control.send(encode_packet(Unavailable()))


async def _next_request(control: socket.socket, room: asyncio.Semaphore, pace: _Pace) -> FromInstance | None:
    """The next request, once there is room for it; None for anything else, and at the end."""
    await room.acquire()
    await pace.wait()
    try:
        # No ancillary buffer: descriptors that a hostile instance attaches are dropped by the kernel.
        return decode_from_instance(await asyncio.get_running_loop().sock_recv(control, MAX_REQUEST_BYTES))
    except (ProtocolError, OSError):
        return None


async def _answer(control: socket.socket, request: FromInstance, egress: Egress, room: asyncio.Semaphore) -> None:
    connected: socket.socket | None = None
    answer: Resolved | Dialled | Failed
    try:
        if isinstance(request, Resolve):
            answer = Resolved(request.id, await _resolve(request, egress))
        else:
            connected = await _dial(request, egress)
            answer = Dialled(request.id)
    except Exception as error:  # noqa: BLE001 - one request's trouble is not the others'
        answer = _failed(request, error)
    finally:
        room.release()
    try:
        socket.send_fds(control, [encode_packet(answer)], [connected.fileno()] if connected else [])
    except OSError:  # an instance that does not read its answers has filled its own socket: it goes without
        if connected:
            egress.account.end(connected)


def _failed(request: FromInstance, error: Exception) -> Failed:
    """What an instance is told: the rule, or what every dial may meet, and nothing of the box's inside."""
    target = request.host if isinstance(request, Resolve) else f"{request.address}:{request.port}"
    match error:
        case Denied():
            return Failed(request.id, "denied", str(error))
        case Busy():
            return Failed(request.id, "busy", str(error))
        case socket.gaierror():
            return Failed(request.id, "name", f"no address for {target}")
        case TimeoutError():
            return Failed(request.id, "timeout", f"{target}: timed out")
        case OSError() if error.errno in _FULL:
            return Failed(request.id, "busy", f"{target}: the box can open no more connections now")
        case ConnectionRefusedError() | ConnectionResetError():
            return Failed(request.id, "refused", f"{target}: {error.strerror}")
        case OSError():
            return Failed(request.id, "unreachable", f"{target}: {error.strerror or 'no answer'}")
    _LOG.warning("a request failed: %s", type(error).__name__)
    return Failed(request.id, "unreachable", f"{target}: can't be reached")


async def _resolve(request: Resolve, egress: Egress) -> tuple[str, ...]:
    host = literal(request.host) or request.host
    egress.reach.ports(host, request.port)  # before anything is looked up
    egress.account.verify_bytes()
    async with asyncio.timeout(_RESOLVE_S):
        found = await egress.resolver.resolve(host, egress.lookups)
    return egress.reach.choose(host, request.port, request.family, found)


async def _dial(request: Dial, egress: Egress) -> socket.socket:
    """A connected, blocking socket, with its duplicate in the account.

    Raises: Denied, Busy, TimeoutError, OSError.
    """
    address = egress.reach.verify_dial(request.address, request.port)
    egress.account.verify_bytes()
    egress.account.verify_room()
    connected = await _connect(address, request.port, egress.reach.outbound)
    try:
        egress.account.verify_bytes()  # others were under way meanwhile
        egress.account.verify_room()
        egress.account.add(connected)
    except BaseException:
        connected.close()
        raise
    return connected


async def _connect(address: str, port: int, outbound: str | None) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    dialled = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        for option, size in _BUFFER_BYTES.items():
            dialled.setsockopt(socket.SOL_SOCKET, option, size)
        if outbound and (":" in outbound) == (":" in address):
            dialled.setsockopt(socket.IPPROTO_IP, _IP_BIND_ADDRESS_NO_PORT, 1)
            dialled.bind((outbound, 0))
        async with asyncio.timeout(_CONNECT_S):
            await asyncio.get_running_loop().sock_connect(dialled, (address, port))
        # O_NONBLOCK belongs to the open socket, which the function now shares.
        dialled.setblocking(True)
    except BaseException:
        dialled.close()
        raise
    return dialled
