"""Dialling for functions: what tor itself would dial from this relay, within the grant and the policy.

The name is resolved here, the address that came out is checked, and that very address is dialled; the function gets
the connected descriptor. Nothing is looked up for a function without a grant for that name.
"""

import asyncio
import contextlib
import errno
import ipaddress
import logging
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from bento.box.resolver import MAX_LOOKUPS, Resolver
from bento.errors import ProtocolError
from bento.exit_policy import RelayFacts, is_accepted, normal_address, one_port, why_not_dialled
from bento.manifest import Destination
from bento.policy import Grant, Policy
from bento.protocol.broker import (
    MAX_ADDRESSES,
    MAX_REQUEST_BYTES,
    MAX_REQUESTS,
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
"""Doubled by the kernel for its own records, and in no instance's grant: an instance may keep as many connections as it
may have descriptors, and read none. To receive 256 KiB at a time from a server 100 ms away is 2.5 MB/s, half of what a
circuit carries at its best; functions send little."""


class Denied(Exception):
    """The rule that forbids a dial."""


Facts = Callable[[], RelayFacts]


@dataclass(frozen=True)
class Allowed:
    """What one instance's dials are held against, and its places among the box's lookups."""

    grant: Grant
    policy: Policy
    facts: Facts
    resolver: Resolver
    lookups: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(MAX_LOOKUPS))
    resolved: set[str] = field(default_factory=set)


async def serve_dials(control: socket.socket, allowed: Allowed) -> None:
    """Answer an instance's requests until its control socket closes, or it says what no loader says: then all its
    dials fail, those to come too.

    Never more than MAX_REQUESTS are under way: the next request is not read before one is answered.
    """
    room = asyncio.Semaphore(MAX_REQUESTS)
    underway: set[asyncio.Task[None]] = set()
    async with asyncio.TaskGroup() as dials:
        while (dial := await _next_dial(control, room)) is not None:
            task = dials.create_task(_answer(control, dial, allowed, room))
            underway.add(task)
            task.add_done_callback(underway.discard)
        for task in underway:
            task.cancel()
    with contextlib.suppress(OSError):
        # Whoever asks after this gets EPIPE at once, not an answer that never comes.
        control.shutdown(socket.SHUT_RD)
        control.send(encode_packet(Unavailable()))


async def _next_dial(control: socket.socket, room: asyncio.Semaphore) -> FromInstance | None:
    """The next request, once there is room for it; None for anything else, and at the end."""
    await room.acquire()
    try:
        # No ancillary buffer: descriptors that a hostile instance attaches are dropped by the kernel.
        return decode_from_instance(await asyncio.get_running_loop().sock_recv(control, MAX_REQUEST_BYTES))
    except (ProtocolError, OSError):
        return None


async def _answer(control: socket.socket, dial: FromInstance, allowed: Allowed, room: asyncio.Semaphore) -> None:
    connected: socket.socket | None = None
    target = dial.host if isinstance(dial, Resolve) else dial.address
    try:
        if isinstance(dial, Resolve):
            answer: Resolved | Dialled | Failed = Resolved(dial.id, await _resolve(dial, allowed))
        else:
            connected = await _dial(dial.address, dial.port, allowed)
            answer = Dialled(dial.id)
    except Denied as denied:
        answer = Failed(dial.id, "denied", str(denied))
    except socket.gaierror:
        answer = Failed(dial.id, "name", f"no address for {target}")
    except OSError as error:
        answer = Failed(dial.id, _kind(error), f"{target}:{dial.port}: {error.strerror or 'timed out'}")
    except Exception as error:  # noqa: BLE001 - one dial's trouble is not the others'
        _LOG.warning("a dial failed: %s", type(error).__name__)
        answer = Failed(dial.id, "unreachable", f"{target}:{dial.port}: can't be dialled")
    finally:
        room.release()
    # An instance that does not read its answers has filled its own socket: it goes without.
    with contextlib.suppress(OSError), connected or contextlib.nullcontext():
        socket.send_fds(control, [encode_packet(answer)], [connected.fileno()] if connected else [])


def _kind(error: OSError) -> Literal["refused", "timeout", "unreachable"]:
    if error.errno in (errno.ECONNREFUSED, errno.ECONNRESET):
        return "refused"
    return "timeout" if isinstance(error, TimeoutError) else "unreachable"


async def _resolve(request: Resolve, allowed: Allowed) -> tuple[str, ...]:
    verify_granted(request.host, request.port, allowed.grant)
    async with asyncio.timeout(_RESOLVE_S):
        found = await allowed.resolver.resolve(request.host, request.port, allowed.lookups)
    addresses = tuple(found[:MAX_ADDRESSES])
    allowed.resolved.update(addresses)
    return addresses


async def _dial(host: str, port: int, allowed: Allowed) -> socket.socket:
    """A connected, blocking socket.

    Raises: Denied, gaierror, TimeoutError, OSError.
    """
    if host not in allowed.resolved:
        verify_granted(host, port, allowed.grant)
    facts = allowed.facts()
    failure: Exception = Denied(f"{host} has no address")
    for address, reason in _checked([host], port, allowed.policy, facts):
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
        reason = why_not_dialled(facts, address, [one_port(port)])
        if reason is None and not is_accepted(policy.egress_rules, address, port):
            reason = f"the box's policy rejects {address}:{port}"
        yield address, reason


async def _connect(address: str, port: int, outbound: str | None) -> socket.socket:
    family = socket.AF_INET6 if ipaddress.ip_address(address).version == 6 else socket.AF_INET
    dialled = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    try:
        for option, size in _BUFFER_BYTES.items():
            dialled.setsockopt(socket.SOL_SOCKET, option, size)
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
