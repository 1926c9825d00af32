"""What runs in this box: instances by id, their grants and leases, and how the ended ones ended.

The reaper is the one who knows for sure: it keeps the leases, and what a server needs to go on where another left off
(`Record`). This table is the server's view of it.
"""

import asyncio
import contextlib
import hashlib
import logging
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import msgspec

from bento.box.connections import Connections, let_go
from bento.errors import BadToken, NoSuchInstance, Refused
from bento.manifest import Manifest
from bento.policy import Grant, Policy, Refusal, decide
from bento.protocol.broker import Attach, Begin, Unavailable, encode_packet
from bento.protocol.framing import encode_frame
from bento.protocol.messages import Connect, Connected, Renew, Shutdown, Spawn, Spawned, State, Status
from bento.sandbox.instances import MAX_TOMBSTONES
from bento.sandbox.link import ReaperLink
from bento.sandbox.messages import Ended
from bento.sandbox.spec import Limits, Tombstone
from bento.tokens import identify, is_match

_LOG = logging.getLogger("bento.box")

MAX_INSTANCE_STREAMS = 64
"""Handed over to one instance: as many sessions as its loader serves."""

MAX_STREAMS = 4096
"""In all, each a descriptor and kernel buffers: 64 instances with all theirs."""

_END_S = 10
"""A killed process is gone in milliseconds; on a machine that swaps, in seconds."""


class Record(msgspec.Struct, frozen=True):
    """What the reaper keeps of an instance for the next server."""

    shutdown: bytes
    manifest: bytes
    """A digest: only whether another Spawn asks the same matters."""
    grant: Grant
    ends_s: float
    """When its wall time is over, on CLOCK_BOOTTIME."""


@dataclass
class Instance:
    """One running function. `control` reaches its loader; `expires_s` is on CLOCK_BOOTTIME."""

    id: bytes
    record: Record
    control: socket.socket
    expires_s: float
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def lease_s(self) -> int:
        """Whole seconds that are left."""
        return max(0, round(self.expires_s - now_s()))


class Instances:
    """The table. `serve` is run for each instance, beside the rest, until it ends."""

    def __init__(self, policy: Policy, serve: Callable[[Instance], Awaitable[None]]) -> None:
        self._policy = policy
        self._serve = serve
        self._streams = Connections()
        self._link: ReaperLink
        self._group: asyncio.TaskGroup
        self._running: dict[bytes, Instance] = {}
        self._starting: dict[bytes, asyncio.Event] = {}
        self._tombstones: dict[bytes, Tombstone] = {}

    async def follow(self, link: ReaperLink, group: asyncio.TaskGroup) -> None:
        """Take over what runs already, then follow what ends; returns when the link is closed."""
        self._link, self._group = link, group
        loop = asyncio.get_running_loop()
        loop.add_reader(self._streams.epoll, self._let_go_of_closed)
        self._take_over(link)
        try:
            async for event in link.events():
                if isinstance(event, Ended):
                    self._bury(event.tombstone)
                else:
                    _LOG.warning("%s", event.text)
        finally:
            loop.remove_reader(self._streams.epoll)

    def _take_over(self, link: ReaperLink) -> None:
        """Agree with the reaper on what runs and what has ended."""
        for tombstone in link.tombstones:
            self._bury(tombstone)
        for living in link.adopted:
            if living.instance in self._running:
                living.control.close()
                continue
            try:
                record = msgspec.msgpack.decode(living.record, type=Record)
            except msgspec.MsgspecError:
                _LOG.warning("an instance of another version is ended")
                living.control.close()
                link.end(living.instance, "shutdown")
                continue
            with contextlib.suppress(OSError):
                # What the last server had taken and died with has no other answer; what is asked from here on has.
                living.control.send(encode_packet(Unavailable()))
            self._add(Instance(living.instance, record, living.control, now_s() + living.lease_left_s))
        for gone in self._running.keys() - {living.instance for living in link.adopted}:
            self._bury(Tombstone(gone, "crash", until_s=self._running[gone].expires_s))

    async def spawn(self, request: Spawn, connection: socket.socket) -> None:
        """Start an instance, or find the one that an equal request started, and hand the connection over.

        Raises: Refused with every broken rule; BadToken if the id is taken by another's instance.
        """
        await self._settle(request.instance)
        known = self._running.get(request.instance)
        if known is None and self._tombstone(request.instance):
            self._find(request.instance)  # says how it ended: the same Spawn is the same instance
        if known is None:
            await self._start(request, connection)
        elif known.record.shutdown != request.shutdown or known.record.manifest != _digest(request.manifest):
            raise BadToken("this instance is another's", hint="make new tokens for a new instance")
        else:
            self._hand_over(known, Spawned(known.record.grant, known.lease_s), connection)

    async def connect(self, request: Connect, connection: socket.socket) -> None:
        """Hand the connection over to the instance that the token finds; NoSuchInstance if there is none."""
        await self._settle(identify(request.route))
        found = self._find(identify(request.route))
        self._hand_over(found, Connected(found.lease_s), connection)

    async def status(self, request: Status) -> State:
        """How the instance is, or how it ended; NoSuchInstance if its lease is over or it never was."""
        name = identify(request.route)
        await self._settle(name)
        tombstone = self._tombstone(name)
        if name not in self._running and tombstone is not None:
            left_s = max(0, round(tombstone.until_s - now_s()))
            return State(False, left_s, tombstone.cause, tombstone.rule, int(tombstone.limit))
        return State(True, self._find(name).lease_s)

    async def renew(self, request: Renew) -> int:
        """Renew a lease. Returns: seconds left, never past the grant's wall time."""
        await self._settle(request.instance)
        found = self._owned(request.instance, request.shutdown)
        if request.lease_s > self._policy.lease_s:
            raise Refused([Refusal("lease_s", request.lease_s, self._policy.lease_s, "renew for less, and more often")])
        lease_s = min(float(request.lease_s), found.record.ends_s - now_s())
        if lease_s <= 0:
            raise NoSuchInstance("the instance's wall time is over")
        # The reaper has the wall time too: told only what is left of it, it would take its end for the lease's.
        self._link.renew(found.id, request.lease_s)
        found.expires_s = now_s() + lease_s
        return found.lease_s

    async def shutdown(self, request: Shutdown) -> None:
        """End an instance and wait until it has; one that has ended already is no error."""
        await self._settle(request.instance)
        if request.instance not in self._running and self._tombstone(request.instance):
            return
        found = self._owned(request.instance, request.shutdown)
        self._link.end(found.id, "shutdown")
        async with asyncio.timeout(_END_S):
            await found.ended.wait()

    async def _start(self, request: Spawn, connection: socket.socket) -> None:
        count = len(self._running) + len(self._starting)
        grant = decide(request.manifest, self._policy, instances=count, lease_s=request.lease_s)
        if not isinstance(grant, Grant):
            raise Refused(grant)
        starting = self._starting[request.instance] = asyncio.Event()
        try:
            record = Record(request.shutdown, _digest(request.manifest), grant, now_s() + grant.wall_s)
            lease_s = min(request.lease_s, grant.wall_s)
            begin = Begin(encode_frame(Spawned(grant, lease_s)), grant.buffer_bytes)
            # O_NONBLOCK belongs to the open socket, which the instance now shares.
            connection.setblocking(True)
            started = await self._link.start(
                request.instance,
                begin=encode_packet(begin),
                limits=limits_of(grant),
                lease_s=lease_s,
                wall_s=grant.wall_s,
                record=msgspec.msgpack.encode(record),
                connection=connection,
            )
            self._streams.add(request.instance, connection)
            self._add(Instance(request.instance, record, started.control, now_s() + lease_s))
        except BaseException:
            connection.setblocking(False)
            raise
        finally:
            del self._starting[request.instance]
            starting.set()

    async def _settle(self, name: bytes) -> None:
        """Wait while an instance starts: its output may reach the client before the reaper's answer is here."""
        while name in self._starting:
            await self._starting[name].wait()

    def _hand_over(self, instance: Instance, answer: Spawned | Connected, connection: socket.socket) -> None:
        if len(self._streams.of(instance.id)) >= MAX_INSTANCE_STREAMS or len(self._streams) >= MAX_STREAMS:
            raise NoSuchInstance("the instance has too many connections", hint="close one first")
        packet = encode_packet(Attach(encode_frame(answer), may_load=isinstance(answer, Spawned)))
        connection.setblocking(True)
        try:
            socket.send_fds(instance.control, [packet], [connection.fileno()])
        except OSError:  # its control socket is full, or it is ending this moment
            connection.setblocking(False)
            raise NoSuchInstance("the instance takes no connections", hint="try again, or spawn another") from None
        self._streams.add(instance.id, connection)

    def _let_go_of_closed(self) -> None:
        """Let go of the streams that their clients have ended. The instance may still hold them; they end with it,
        since nobody else does."""
        for _, stream in self._streams.ended():
            self._streams.remove(stream)
            let_go(stream)

    def _find(self, name: bytes) -> Instance:
        found = self._running.get(name)
        if found is None:
            tombstone = self._tombstone(name)
            raise NoSuchInstance(f"the instance has ended: {tombstone.cause}" if tombstone else "no such instance")
        return found

    def _tombstone(self, name: bytes) -> Tombstone | None:
        found = self._tombstones.get(name)
        return found if found is not None and found.until_s > now_s() else None

    def _owned(self, name: bytes, shutdown: bytes) -> Instance:
        found = self._find(name)
        if not is_match(shutdown, found.record.shutdown):
            raise BadToken("the shutdown token is not this instance's")
        return found

    def _add(self, instance: Instance) -> None:
        if self._tombstone(instance.id):  # it ended while its start was on the way here
            instance.control.close()
            self._streams.end_all(instance.id)
            return
        self._running[instance.id] = instance
        self._group.create_task(self._follow(instance))

    async def _follow(self, instance: Instance) -> None:
        """Serve an instance's requests while it lives."""
        try:
            async with asyncio.TaskGroup() as group:
                serving = group.create_task(self._serve_quietly(instance))
                await instance.ended.wait()
                serving.cancel()
        finally:
            instance.control.close()

    async def _serve_quietly(self, instance: Instance) -> None:
        try:
            await self._serve(instance)
        except Exception as error:  # noqa: BLE001 - one instance's trouble is not the box's
            _LOG.warning("an instance can't be served any more: %s", type(error).__name__)

    def _bury(self, tombstone: Tombstone) -> None:
        self._tombstones[tombstone.instance] = tombstone
        while len(self._tombstones) > MAX_TOMBSTONES:
            del self._tombstones[next(iter(self._tombstones))]
        instance = self._running.pop(tombstone.instance, None)
        if instance is not None:
            self._streams.end_all(instance.id)
            instance.ended.set()


def _digest(manifest: Manifest) -> bytes:
    return hashlib.sha256(msgspec.msgpack.encode(manifest)).digest()


def limits_of(grant: Grant) -> Limits:
    """The sandbox's limits for a grant; the output buffer lives in the instance's own memory."""
    return Limits(
        memory_bytes=grant.memory_bytes + grant.buffer_bytes, cpu_s=grant.cpu_s, storage_bytes=grant.storage_bytes
    )


def now_s() -> float:
    """Seconds on CLOCK_BOOTTIME, which a set clock does not move and a suspended machine does not stop."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
