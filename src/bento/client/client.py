"""The way in: a user's boxes, and functions to run there."""

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import AsyncIterator
from pathlib import Path
from random import SystemRandom
from types import TracebackType
from typing import Final, Self

import msgspec

from bento.client.choose import choose_boxes, find_box
from bento.client.conversation import ask
from bento.client.function import Function, Plan
from bento.client.instance import Instance
from bento.client.link import Link, Report
from bento.client.profile import Profile
from bento.client.records import Deployed, Records, verify_name
from bento.client.sessions import Sessions
from bento.client.source import Source, read_source
from bento.errors import (
    BadToken,
    BentoError,
    BoxUnreachable,
    ConfigError,
    NetworkDown,
    NoSuchInstance,
    Unreachable,
    UsageError,
)
from bento.protocol.messages import MAX_LEASE_S, Describe, Description
from bento.ticket import FunctionTicket, encode_ticket, parse_ticket
from bento.tor.box_list import MAX_LIST_BYTES, BoxList, ListedBox, parse_box_list

DEFAULT_WALL_S: Final = 300
"""What a function asks for that names no wall time: five minutes, as long as most people watch."""

DEFAULT_LEASE_S: Final = 3600
"""Of what is deployed: an hour, in which a ticket reaches someone. What its user forgets is gone soon, and boxes
commonly grant six."""

_SAME_S: Final = 2.0
"""Leases travel as whole seconds, and take a moment to arrive."""


class Client:
    """One user on one Tor network.

        async with bento.Client() as client:
            async with client.spawn("hello.py") as function:
                print(await function.call("hello", "world"))

    Args:
        state: the user's directory; default: BENTO_STATE, else bento/ in the XDG state directory.
        net: a private network's directory; default: BENTO_NET, else the live network.
        report: is told what one waits for, such as tor's start.
    """

    def __init__(
        self, *, state: Path | str | None = None, net: Path | str | None = None, report: Report = lambda text: None
    ) -> None:
        self._profile = Profile.choose(state, net)
        self._report = report
        self._records = Records(self._profile.functions)
        self._boxes: BoxList | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return

    async def box_list(self) -> BoxList:
        """The box list, its signatures checked; read once.

        Raises: NetworkDown or BoxUnreachable if there is no list.
        """
        if self._boxes is None:
            text = await asyncio.to_thread(self._read_list)
            self._boxes = await asyncio.to_thread(parse_box_list, text, now_s=time.time())
        return self._boxes

    async def boxes(self) -> tuple[ListedBox, ...]:
        """The boxes of the list, by fingerprint. Nobody is asked."""
        return (await self.box_list()).boxes

    def spawn(
        self,
        source: str | Path | bytes | Source,
        *,
        box: str | None = None,
        lease_s: int | None = None,
        timeout_s: int | None = None,
    ) -> Function:
        """A function, spawned at the first call inside its `async with` block, and ended with the block.

        Args:
            source: a path, or the source itself as bytes.
            box: the fingerprint of the only box to ask; without it a random one that fits, and on a refusal up to
                two others.
            lease_s: seconds after which it ends unless renewed; by default its whole wall time.
            timeout_s: seconds of wall time to ask for, if less than its manifest does; by default 300.
        Raises (at the block's start): SourceError, ManifestError, UsageError, Refused, Unreachable.
        """
        _verify_seconds(lease_s=lease_s, timeout_s=timeout_s)

        async def prepare() -> Plan:
            checked = await asyncio.to_thread(read_source, source)
            asked_s = checked.manifest.wall_s
            wall_s = min(timeout_s or asked_s or DEFAULT_WALL_S, asked_s or timeout_s or DEFAULT_WALL_S)
            return await self._plan(checked, box, wall_s, min(lease_s or wall_s, wall_s, MAX_LEASE_S))

        return Function(prepare)

    async def deploy(
        self, source: str | Path | bytes | Source, *, name: str, box: str | None = None, lease_s: int | None = None
    ) -> Deployed:
        """Spawn a function, run its module-level code, and let it run on: `function(name)` finds it again.

        Args:
            name: what it is called here: letters, digits, ". _ -".
            box: as for `spawn`.
            lease_s: seconds after which it ends unless renewed; by default DEFAULT_LEASE_S, or its wall time if less.
        Raises: UsageError if the name is in use; as `spawn` and a first call do. Then nothing is left, here or there,
            but where the box can't be told: the name then stays, for `stop`.
        """
        _verify_seconds(lease_s=lease_s)
        self._records.verify_free(name)
        checked = await asyncio.to_thread(read_source, source)
        wall_s = checked.manifest.wall_s
        asked_s = min(lease_s or DEFAULT_LEASE_S, wall_s or MAX_LEASE_S)
        record: Deployed | None = None

        async def note(chosen: ListedBox) -> None:
            nonlocal record
            write = self._records.replace if record else self._records.add
            record = Deployed(
                name,
                chosen.fingerprint,
                fresh.invocation_token,
                fresh.shutdown_token,
                expires_s=time.time() + asked_s,
                lease_s=asked_s,
                is_starting=True,
            )
            await write(record)

        fresh = Function(lambda: self._plan(checked, box, wall_s, asked_s), note=note)
        try:
            async with fresh:
                await fresh.load()
                assert record is not None
                deployed = _refreshed(record, fresh)
                await self._records.replace(deployed)
                fresh.keep()
        except BaseException as error:
            if record is not None and fresh.is_ended:
                await self._records.remove(record)
            elif record is not None and isinstance(error, BentoError):
                error.hint = f"it may run there all the same: `bento stop {name}` ends it"
            raise
        return deployed

    @contextlib.asynccontextmanager
    async def function(self, name: str) -> AsyncIterator[Instance]:
        """The function that was deployed or accepted under this name. Leaving the block lets it run.

        Raises: NoSuchInstance if there is none here; BoxUnreachable, TorUnavailable, NetworkDown.
        """
        record = self._records.read(name)
        link = self._link(await self._box_of(record))
        instance = Instance(link, record.invocation_token, record.shutdown_token, is_spawned=not record.is_starting)
        try:
            await link.build()
            yield instance
        finally:
            link.close()
            await self._remember(record, instance)

    def find(self, name: str) -> Deployed:
        """What is remembered of this name. Raises: NoSuchInstance, ConfigError, as `function` does."""
        return self._records.read(name)

    def functions(self) -> tuple[list[Deployed], list[ConfigError]]:
        """What was deployed and accepted here, by name, and what is wrong with records that can't be read."""
        return self._records.read_all()

    async def renew(self, name: str, lease_s: int | None = None) -> Deployed:
        """Let a function's lease end so many seconds from now; by default as many as it was deployed with."""
        _verify_seconds(lease_s=lease_s)
        record = self._records.read(name)
        async with self.function(name) as instance:
            await instance.renew(lease_s or record.lease_s or DEFAULT_LEASE_S)
            return _refreshed(record, instance)

    async def stop(self, name: str) -> str:
        """End a function and forget it; one that has ended is just forgotten. Returns: how it ended, for people.

        Raises: BadToken for one that was accepted, and runs; Unreachable, and the name stays.
        """
        record = self._records.read(name)
        try:
            async with self.function(name) as instance:
                await instance.stop()
                return await instance.ending()
        except (BadToken, Unreachable) as error:
            if record.is_expired and isinstance(error, Unreachable):
                await self._records.remove(record)
                return "its lease is over, and its box can't be asked"
            if not record.is_own:
                error.hint += f"; to forget it here alone, remove {self._records.folder(name)}"
            raise

    def sessions(self, name: str) -> Sessions:
        """What is remembered of calls of this function that outlive a command; see `bento.client.sessions`."""
        return Sessions(self._records.folder(self._records.read(name).name) / "sessions")

    def share(self, name: str) -> str:
        """A ticket: one line of text, with which another user can `accept` the function and invoke it.

        Raises: NoSuchInstance if there is none, or its lease is over.
        """
        record = self._records.read(name)
        if record.is_expired:
            raise NoSuchInstance(f"the lease of {name!r} is over", hint=f"`bento inspect {name}` asks its box")
        return encode_ticket(FunctionTicket(record.box, record.invocation_token))

    async def accept(self, ticket: str, name: str) -> Deployed:
        """Take a ticket in, under a name of one's own. Nobody is asked.

        Raises: TicketError for what is none; UsageError if the name is in use.
        """
        verify_name(name)
        found = parse_ticket(ticket)
        record = Deployed(name, found.box, found.token)
        await self._records.add(record)
        return record

    async def describe(self, box: str) -> Description:
        """Ask a box, by its fingerprint, what it runs and under which policy."""
        link = self._link(find_box(await self.boxes(), box))
        try:
            return await ask(link, Describe(), Description)
        finally:
            link.close()

    async def _plan(self, source: Source, box: str | None, wall_s: int | None, lease_s: int) -> Plan:
        listed = await self.boxes()
        chosen = [find_box(listed, box)] if box else choose_boxes(listed, source.manifest, SystemRandom())
        manifest = msgspec.structs.replace(source.manifest, wall_s=wall_s)
        return Plan(source, manifest, lease_s, tuple(self._link(found) for found in chosen))

    async def _box_of(self, record: Deployed) -> ListedBox:
        try:
            return find_box(await self.boxes(), record.box)
        except BoxUnreachable as error:
            raise BoxUnreachable(
                error.message, hint=f"get a newer list; or was {record.name!r} deployed on another network?"
            ) from None

    async def _remember(self, record: Deployed, instance: Instance) -> None:
        """Write down what a talk with the box has shown."""
        if instance.is_stopped:
            await self._records.remove(record)
            return
        fresh = _refreshed(record, instance)
        if fresh != record:
            # It is for `ls` alone: neither a full disk nor another command that was faster spoils a call.
            with contextlib.suppress(NoSuchInstance, ConfigError):
                await self._records.replace(fresh)

    def _link(self, box: ListedBox) -> Link:
        return Link(self._profile, box, self._report)

    def _read_list(self) -> bytes:
        path = self._profile.box_list
        try:
            with path.open("rb") as file:
                return file.read(MAX_LIST_BYTES + 1)
        except FileNotFoundError:
            if self._profile.net is not None:
                raise NetworkDown(
                    f"there is no box list in {self._profile.net}",
                    hint=f"start the network with: bento net up --boxes 3 --detach --dir {self._profile.net}",
                ) from None
            raise BoxUnreachable(
                f"there is no box list at {path}",
                hint="put one there from someone you know, or name a private network with --net DIR",
            ) from None
        except OSError as error:
            raise BoxUnreachable(f"can't read the box list {path}: {error.strerror}") from None


def _refreshed(record: Deployed, instance: Instance) -> Deployed:
    """The record, with the lease's end as the box has told it; an end that moved within a moment stays."""
    now_s = time.time()
    if instance.is_ended:
        return dataclasses.replace(record, expires_s=min(now_s, record.expires_s or now_s), is_starting=False)
    if instance.lease_left_s is None:
        return record
    expires_s = now_s + instance.lease_left_s
    if not record.is_starting and record.expires_s and abs(expires_s - record.expires_s) < _SAME_S:
        return record
    return dataclasses.replace(record, expires_s=expires_s, is_starting=False)


def _verify_seconds(**amounts: int | None) -> None:
    for name, value in amounts.items():
        if value is not None and not 1 <= value <= MAX_LEASE_S:
            raise UsageError(f"{name} is {value}, it may be 1 to {MAX_LEASE_S}", hint="boxes grant hours, or a day")
