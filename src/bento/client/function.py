"""A function that its block spawns at a box, and ends: one instance, from the first call to the end of the block."""

import asyncio
import contextlib
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from bento.client.conversation import StreamLost, no_answer, read_some, settle
from bento.client.instance import Instance, take_in
from bento.client.invocation import REATTACH_DELAYS_S, Invocation, outcome_error
from bento.client.link import Link
from bento.client.source import Source
from bento.client.stream import Stream
from bento.config import INVOCATION_ID_BYTES, TOKEN_BYTES
from bento.errors import BoxUnreachable, NoSuchInstance, ProtocolError, Refused, Unreachable
from bento.manifest import Manifest
from bento.protocol.framing import encode_frame
from bento.protocol.inner import InvocationSide
from bento.protocol.messages import InnerReply, Load, Loaded, Raise, Spawn
from bento.tokens import InvocationToken, ShutdownToken, identify
from bento.tor.box_list import ListedBox
from bento.tor.socks import SocksRefused


@dataclass(frozen=True)
class Plan:
    """What to spawn, and where: the manifest as it is sent, the links to the boxes to ask, in order."""

    source: Source
    manifest: Manifest
    lease_s: int
    links: tuple[Link, ...]


async def _no_note(box: ListedBox) -> None:
    """Who ends the instance with the block need not remember where it is."""


class Function(Instance):
    """An instance that its block begins and ends: `async with` reaches a box, the first call spawns, leaving stops.

    Args:
        prepare: gives the plan, at the block's start.
        note: is told of the box before a Spawn leaves for it, so that a lost answer loses no instance.
    """

    def __init__(
        self, prepare: Callable[[], Awaitable[Plan]], *, note: Callable[[ListedBox], Awaitable[None]] = _no_note
    ) -> None:
        shutdown_token = ShutdownToken(secrets.token_bytes(TOKEN_BYTES))
        super().__init__(None, InvocationToken(secrets.token_bytes(TOKEN_BYTES)), shutdown_token, is_spawned=False)
        self._shutdown_name = shutdown_token.name
        self._prepare = prepare
        self._note = note
        self._plan: Plan | None = None
        self._next: list[Link] = []
        self._starting = asyncio.Lock()
        self._is_loaded = False
        self._is_kept = False
        self.is_ended = True

    async def __aenter__(self) -> Self:
        self._plan = plan = await self._prepare()
        self._next = list(plan.links)
        self._lease_s = plan.lease_s
        self._wall_s = plan.manifest.wall_s or self._wall_s
        try:
            await self._take_next_box()
        except BaseException:
            self._close_links()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            # A box that can't be told ends the instance with its lease.
            with contextlib.suppress(Unreachable, NoSuchInstance):
                if not self._is_kept:
                    await self.stop()
        finally:
            self._close_links()

    def keep(self) -> None:
        """Let the instance go on when the block ends."""
        self._is_kept = True

    def invoke(self, entry: str, *args: Any, has_input: bool = True) -> Invocation:
        """As any instance's, with the call checked against the source before a byte leaves."""
        self._planned.source.verify_call(entry, args)
        return super().invoke(entry, *args, has_input=has_input)

    async def load(self) -> None:
        """Spawn and run the source's module-level code now, not with the first call; again if the stream is lost."""
        lost: StreamLost | None = None
        for delay_s in REATTACH_DELAYS_S:
            await asyncio.sleep(delay_s)
            try:
                await self._load()
                return
            except StreamLost as error:
                lost = error
                await self.verify_running()
        assert lost is not None
        raise lost

    async def attach(self, side: InvocationSide, inner: bytes) -> tuple[Stream, list[InnerReply]]:
        """As any instance's, spawning at need."""
        async with self._starting:
            if not self._is_loaded:
                return await self._start(side, inner)
        return await super().attach(side, inner)

    @property
    def _planned(self) -> Plan:
        if self._plan is None:
            raise NoSuchInstance("the function is used outside its block", hint="use it inside `async with`")
        return self._plan

    def _close_links(self) -> None:
        for link in [self._link, *self._next]:
            if link is not None:
                link.close()

    async def _take_next_box(self) -> None:
        """Have a circuit to the next box that can be reached. Raises: why the last one can't."""
        while True:
            if self._link is not None:
                self._link.close()
            self._link = self._next.pop(0)
            try:
                await self._link.build()
                return
            except BoxUnreachable:
                if not self._next:
                    raise

    async def _load(self) -> None:
        side = InvocationSide(self.invocation_token.invoke, bytes(INVOCATION_ID_BYTES))
        async with self._starting:
            if self._is_loaded:
                return
            stream, events = await self._start(side, b"")
        stream.close()
        for event in events:
            if isinstance(event, Raise):
                raise outcome_error(event)

    async def _start(self, side: InvocationSide, inner: bytes) -> tuple[Stream, list[InnerReply]]:
        """Spawn and load in one flight, at the next box where one refuses; returns once the source has run."""
        plan = self._planned
        load = encode_frame(Load(plan.source.code, identify(self.invocation_token.invoke)))
        spawn = Spawn(self.invocation_token.instance, self._shutdown_name, plan.manifest, plan.lease_s)
        await self._note(self.box)
        is_first, self.is_ended = self.is_ended, False
        try:
            stream, rest, answer = await settle(self._reached, spawn, load + inner)
        except (Refused, SocksRefused) as error:
            if isinstance(error, SocksRefused) and not is_first:
                raise  # a Spawn before this one, whose answer was lost, may have arrived
            self.is_ended = True  # for certain nothing runs there
            if not self._next:
                raise
            await self._take_next_box()
            return await self._start(side, inner)
        self._is_spawned = True
        self._set_lease(answer.lease_s)
        return stream, await self._read_until_loaded(stream, side, rest)

    async def _read_until_loaded(self, stream: Stream, side: InvocationSide, rest: bytes) -> list[InnerReply]:
        """What the loader says up to the end of its loading, which is bounded by the instance's limits."""
        events = take_in(stream, side, rest)
        try:
            async with asyncio.timeout_at(self.deadline_s):
                while not events:
                    events = side.receive(await read_some(stream))
            if not isinstance(events[0], Loaded | Raise):
                raise ProtocolError(f"the loader answered {type(events[0]).__name__} before it had loaded")
        except TimeoutError:
            stream.close()
            raise no_answer() from None
        except BaseException:
            stream.close()
            raise
        self._is_loaded = True
        return events
