"""Dialling for functions: what tor itself would dial from this relay, within the grant and the policy.

The name is resolved here, the address that came out is checked, and that very address is dialled; the function gets
the connected descriptor. Nothing is looked up for a function without a grant for that name.
"""

import asyncio
import contextlib
import errno
import ipaddress
import socket
from collections.abc import Callable, Iterator
from typing import Literal

from bento.errors import ProtocolError
from bento.exit_policy import RelayFacts, is_accepted, normal_address, why_not_dialled
from bento.manifest import Destination
from bento.policy import Grant, Policy
from bento.protocol.broker import (
    MAX_DIALS,
    MAX_REQUEST_BYTES,
    Dial,
    DialFailed,
    Dialled,
    decode_from_instance,
    encode_packet,
)

_RESOLVE_S = 20
"""glibc gives up on two servers, two tries each, after 20 s."""

_CONNECT_S = 20
"""Tor tells a client after 15-20 s that an exit could not connect."""

_MAX_ADDRESSES = 4
"""Of one name; each may take the whole time to connect."""

_SOCKET_BUFFER_BYTES = 256 * 1024
"""As `bento.box.server` sets for clients' streams: unread data is the kernel's memory, not the instance's."""


class Denied(Exception):
    """The rule that forbids a dial."""


Facts = Callable[[], RelayFacts]


async def serve_dials(control: socket.socket, grant: Grant, policy: Policy, facts: Facts) -> None:
    """Answer an instance's requests until its control socket closes, or it says what no loader says.

    Never more than MAX_DIALS are under way: the next request is not read before one is answered.
    """
    loop = asyncio.get_running_loop()
    room = asyncio.Semaphore(MAX_DIALS)
    async with asyncio.TaskGroup() as dials:
        while True:
            await room.acquire()
            # No ancillary buffer: descriptors that a hostile instance attaches are dropped by the kernel.
            data = await loop.sock_recv(control, MAX_REQUEST_BYTES)
            try:
                dial = decode_from_instance(data)
            except ProtocolError:
                return
            dials.create_task(_answer(control, dial, grant, policy, facts, room))


async def _answer(
    control: socket.socket, dial: Dial, grant: Grant, policy: Policy, facts: Facts, room: asyncio.Semaphore
) -> None:
    connected: socket.socket | None = None
    try:
        connected = await _dial(dial.host, dial.port, grant, policy, facts())
        answer: Dialled | DialFailed = Dialled(dial.id)
    except Denied as denied:
        answer = DialFailed(dial.id, "denied", str(denied))
    except socket.gaierror:
        answer = DialFailed(dial.id, "name", f"no address for {dial.host}")
    except OSError as error:
        answer = DialFailed(dial.id, _kind(error), f"{dial.host}:{dial.port}: {error.strerror or 'timed out'}")
    finally:
        room.release()
    # An instance that does not read its answers has filled its own socket: it goes without.
    with contextlib.suppress(OSError), connected or contextlib.nullcontext():
        socket.send_fds(control, [encode_packet(answer)], [connected.fileno()] if connected else [])


def _kind(error: OSError) -> Literal["refused", "timeout", "unreachable"]:
    if error.errno in (errno.ECONNREFUSED, errno.ECONNRESET):
        return "refused"
    return "timeout" if isinstance(error, TimeoutError) else "unreachable"


async def _dial(host: str, port: int, grant: Grant, policy: Policy, facts: RelayFacts) -> socket.socket:
    """A connected, blocking socket.

    Raises: Denied, gaierror, TimeoutError, OSError.
    """
    verify_granted(host, port, grant)
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(_RESOLVE_S):
        found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))[:_MAX_ADDRESSES]
    failure: Exception = Denied(f"{host} has no address")
    for address, reason in _checked(addresses, port, policy, facts):
        if reason:
            failure = Denied(reason)
            continue
        try:
            return await _connect(address, port, facts.outbound)
        except OSError as error:
            failure = error
    raise failure


def verify_granted(host: str, port: int, grant: Grant) -> None:
    """Check that the grant covers this name or address; Denied if not."""
    if not any(Destination.parse(text).is_for(host, port) for text in grant.egress):
        raise Denied(f"{host}:{port} is not in the grant's egress")


def _checked(addresses: list[str], port: int, policy: Policy, facts: RelayFacts) -> Iterator[tuple[str, str | None]]:
    for text in addresses:
        address = str(normal_address(text))
        reason = why_not_dialled(facts, address, port)
        if reason is None and not is_accepted(policy.egress_rules, address, port):
            reason = f"the box's policy rejects {address}:{port}"
        yield address, reason


async def _connect(address: str, port: int, outbound: str | None) -> socket.socket:
    family = socket.AF_INET6 if ipaddress.ip_address(address).version == 6 else socket.AF_INET
    dialled = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            dialled.setsockopt(socket.SOL_SOCKET, option, _SOCKET_BUFFER_BYTES)
        if outbound and ipaddress.ip_address(outbound).version == ipaddress.ip_address(address).version:
            dialled.bind((outbound, 0))
        async with asyncio.timeout(_CONNECT_S):
            await asyncio.get_running_loop().sock_connect(dialled, (address, port))
        # O_NONBLOCK belongs to the open socket, which the function now shares.
        dialled.setblocking(True)
    except BaseException:
        dialled.close()
        raise
    return dialled
