"""The server's side of the reaper's socket.

link = await ReaperLink.connect(start_reaper(config))
started = await link.start(instance, begin, limits, lease_s=60, wall_s=3600, record=b"...", connection=accepted)
started.control     # the instance's broker socket: ours to read and write from now on
async for event in link.events():
    ...             # Ended(tombstone), Notice(text); ends when the reaper does
"""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Self

import msgspec

from bento.errors import NoSuchInstance, SandboxUnavailable
from bento.sandbox import messages
from bento.sandbox.messages import Ended, Notice
from bento.sandbox.outbox import Outbox
from bento.sandbox.spec import MAX_BEGIN_BYTES, MAX_RECORD_BYTES, MAX_SECONDS, Cause, Limits, Tombstone

_CONNECT_TIMEOUT_S = 10.0
"""A reaper that runs welcomes within milliseconds; a full one, on a busy machine, within a second."""

_ANSWER_TIMEOUT_S = 15.0
"""Thrice as long as a start may wait for a child (`SandboxConfig.start_wait_s`)."""

_STOP_TIMEOUT_S = 15.0
"""Killing is instant; the rest is the cgroups' removal."""


class NoRoom(SandboxUnavailable):
    """Every slot is taken, or no child could be made in time."""


@dataclass(frozen=True)
class Started:
    """An instance that has its first session."""

    control: socket.socket
    """The server's duplicate of the instance's control socket: packets (SOCK_SEQPACKET), not blocking."""


@dataclass(frozen=True)
class Living:
    """An instance that ran when this server connected."""

    instance: bytes
    record: bytes
    lease_left_s: float
    control: socket.socket


class ReaperLink:
    """One server's connection to the reaper; a newer one ends it."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._outbox = Outbox(channel)
        self._numbers = count(1)
        self._answers: dict[int, asyncio.Future[tuple[messages.ToServer, list[int]]]] = {}
        self._asked: dict[int, bytes] = {}
        """The instances of starts that have no answer yet, by number."""
        self._events: asyncio.Queue[Ended | Notice | None] = asyncio.Queue()
        self._closed = asyncio.Event()
        self.tier = ""
        """"v2", "v1" or "rlimits": what enforces memory and threads."""
        self.pool_idle = 0
        """Children that wait, as last heard."""
        self.adopted: tuple[Living, ...] = ()
        self.tombstones: tuple[Tombstone, ...] = ()
        """Of instances that ended before this server connected; later ones come as events."""

    @property
    def is_open(self) -> bool:
        """Whether the reaper still listens to this link."""
        return not self._closed.is_set()

    @property
    def reaper_pid(self) -> int:
        """The reaper's pid as this process sees it."""
        credentials = struct.Struct("3i")  # struct ucred: pid, uid, gid
        peer = self._channel.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, credentials.size)
        return int(credentials.unpack(peer)[0])

    @classmethod
    async def connect(cls, path: Path) -> Self:
        """Connect to the reaper at `path`, and learn what lives there.

        Raises: SandboxUnavailable if there is no reaper or it does not answer.
        """
        channel = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        channel.setblocking(False)
        link = cls(channel)
        try:
            channel.connect(str(path))
            await asyncio.wait_for(link._be_welcomed(), _CONNECT_TIMEOUT_S)
        except (OSError, TimeoutError, msgspec.MsgspecError) as error:
            link.close()
            raise SandboxUnavailable(f"the reaper can't be reached: {str(error) or 'no answer'}") from None
        asyncio.get_running_loop().add_reader(channel.fileno(), link._read_all)
        return link

    async def start(
        self,
        instance: bytes,
        begin: bytes,
        limits: Limits,
        *,
        lease_s: float,
        wall_s: float,
        record: bytes,
        connection: socket.socket,
    ) -> Started:
        """Give a waiting child its limits, then `begin` and the connection as its first packet.

        Args:
            instance: its name, for the later calls; not that of one that lives, or has ended while its lease has not.
            wall_s: 0 for no end but the lease's.
            record: returned by `adopted` to a server that connects later.
            connection: sent on; the caller still closes its own.
        Raises:
            NoRoom: no child is free.
            SandboxUnavailable: the name is taken, something is too large, a limit can't be set, or the reaper is gone.
        """
        _verify_size("first packet", begin, MAX_BEGIN_BYTES)
        _verify_size("record", record, MAX_RECORD_BYTES)
        number = next(self._numbers)
        request = messages.Start(number, instance, begin, limits, lease_s, wall_s, record)
        self._asked[number] = instance
        answer, descriptors = await self._ask(number, request, connection)
        del self._asked[number]
        if isinstance(answer, messages.Failed):
            raise (NoRoom if answer.reason == "full" else SandboxUnavailable)(answer.message)
        return Started(_control_socket(descriptors))

    def renew(self, instance: bytes, lease_s: float) -> None:
        """Let the lease end `lease_s` seconds from now, below 0 at once; nothing if the instance has ended."""
        self._send(messages.Renew(instance, min(max(0.0, lease_s), MAX_SECONDS)))

    def end(self, instance: bytes, cause: Cause, *, rule: str = "", limit: float = 0, asked: float = 0) -> None:
        """Kill the instance; an Ended event follows. The arguments become its tombstone."""
        self._send(messages.End(instance, cause, rule, limit, asked))

    async def measure(self, instance: bytes) -> messages.Measured:
        """What the instance uses now: memory as its cgroup charges it (0 without one), and CPU time.

        Raises: NoSuchInstance.
        """
        number = next(self._numbers)
        answer, _ = await self._ask(number, messages.Measure(number, instance))
        if isinstance(answer, messages.Measured):
            return answer
        raise NoSuchInstance("no such instance")

    async def stop(self) -> None:
        """End every instance and the reaper; returns when it has let go."""
        self._send(messages.Stop())
        await asyncio.wait_for(self._closed.wait(), _STOP_TIMEOUT_S)

    async def events(self) -> AsyncIterator[Ended | Notice]:
        """What happens, in order, until the reaper ends, or a newer server has its attention."""
        while (event := await self._events.get()) is not None:
            yield event

    def close(self) -> None:
        """Leave the reaper alone: instances go on."""
        if self._closed.is_set():
            return
        asyncio.get_running_loop().remove_reader(self._channel.fileno())
        self._outbox.clear()
        self._channel.close()
        self._closed.set()
        self._events.put_nowait(None)
        for answer in self._answers.values():
            if not answer.done():
                answer.set_exception(SandboxUnavailable("the reaper is gone"))

    async def _be_welcomed(self) -> None:
        welcome, _ = await self._receive()
        if not isinstance(welcome, messages.Welcome):
            raise ConnectionError("it speaks another language")
        self.tier, self.pool_idle = welcome.tier, welcome.idle
        for _ in range(welcome.adopted):
            living, descriptors = await self._receive()
            if isinstance(living, messages.Adopted):
                control = _control_socket(descriptors)
                self.adopted += (Living(living.instance, living.record, living.lease_left_s, control),)
        for _ in range(welcome.tombstones):
            ended, _ = await self._receive()
            if isinstance(ended, Ended):
                self.tombstones += (ended.tombstone,)

    async def _receive(self) -> tuple[messages.ToServer, list[int]]:
        readable = asyncio.Event()
        loop = asyncio.get_running_loop()
        loop.add_reader(self._channel.fileno(), readable.set)
        try:
            while True:
                await readable.wait()
                readable.clear()
                try:
                    return messages.receive(self._channel, messages.TO_SERVER)
                except BlockingIOError:
                    continue
        finally:
            loop.remove_reader(self._channel.fileno())

    async def _ask(
        self, number: int, request: messages.Start | messages.Measure, connection: socket.socket | None = None
    ) -> tuple[messages.ToServer, list[int]]:
        answer: asyncio.Future[tuple[messages.ToServer, list[int]]] = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        try:
            self._send(request, connection)
            return await asyncio.wait_for(answer, _ANSWER_TIMEOUT_S)
        except TimeoutError:
            raise SandboxUnavailable(f"the reaper did not answer within {_ANSWER_TIMEOUT_S:g} s") from None
        finally:
            del self._answers[number]

    def _send(self, message: messages.ToReaper, connection: socket.socket | None = None) -> None:
        """Send what the reaper will read without complaint.

        Raises: SandboxUnavailable if it would refuse it, or is gone, or stuck.
        """
        packet = messages.encode(message)
        try:
            messages.TO_REAPER.decode(packet)
        except msgspec.MsgspecError as error:
            raise SandboxUnavailable(f"the reaper would refuse this {type(message).__name__}: {error}") from None
        if self._closed.is_set():
            raise SandboxUnavailable("the reaper is gone")
        try:
            self._outbox.send(packet, (connection.fileno(),) if connection else ())
        except OSError as error:
            self.close()
            raise SandboxUnavailable(f"the reaper is gone: {error}") from None

    def _read_all(self) -> None:
        while not self._closed.is_set():
            try:
                packet, descriptors = messages.receive(self._channel, messages.TO_SERVER)
            except BlockingIOError:
                return
            except (ConnectionError, msgspec.MsgspecError):
                self.close()
            else:
                self._hear(packet, descriptors)

    def _hear(self, packet: messages.ToServer, descriptors: list[int]) -> None:
        if isinstance(packet, messages.Started | Ended):
            self.pool_idle = packet.idle
        if isinstance(packet, Ended | Notice):
            self._events.put_nowait(packet)
        elif isinstance(packet, messages.Started | messages.Failed | messages.Measured):
            answer = self._answers.get(packet.request)
            if answer is not None and not answer.done():
                answer.set_result((packet, descriptors))
                return
            abandoned = self._asked.pop(packet.request, None)
            if isinstance(packet, messages.Started) and abandoned is not None:
                with suppress(SandboxUnavailable):  # it is gone, and so is the instance
                    self._send(messages.End(abandoned, "shutdown"))  # nobody waits for it any more
        messages.close_all(descriptors)


def _verify_size(name: str, content: bytes, limit_bytes: int) -> None:
    if len(content) > limit_bytes:
        raise SandboxUnavailable(f"an instance's {name} has {len(content)} bytes, the limit is {limit_bytes}")


def _control_socket(descriptors: list[int]) -> socket.socket:
    control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, fileno=descriptors[0])
    control.setblocking(False)
    return control
