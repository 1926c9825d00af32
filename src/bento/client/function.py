"""A function at a box: one instance, from the first call to the end of the block."""

import asyncio
import contextlib
import os
import secrets
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from bento.client.agent_messages import Hop
from bento.client.conversation import ask, ended_error, no_answer, read_some, settle
from bento.client.invocation import Invocation, outcome_error
from bento.client.link import Link
from bento.client.source import Source
from bento.client.stream import Stream
from bento.config import INVOCATION_ID_BYTES, TOKEN_BYTES
from bento.errors import BoxUnreachable, NoSuchInstance, Refused, Unreachable
from bento.protocol.framing import encode_frame
from bento.protocol.inner import InvocationSide
from bento.protocol.messages import (
    Connect,
    Ended,
    InnerReply,
    Load,
    Loaded,
    Raise,
    Renew,
    Renewed,
    Shutdown,
    Spawn,
    State,
    Status,
)
from bento.tokens import InvocationToken, ShutdownToken, identify
from bento.tor.box_list import ListedBox
from bento.tor.socks import SocksRefused

DEFAULT_WALL_S: Final = 300
"""What a function asks for that names no wall time: five minutes, as long as most people watch."""

STOP_LIMIT_S: Final = 15.0
"""For the Shutdown, on a new circuit if need be; past it the lease ends the instance."""

_STOP_RETRIES_S: Final = (0.0, 0.5, 1.5)
"""When the Spawn's answer never came, the Shutdown may be there before it."""

_GRACE_S: Final = 30.0
"""What the box may take beyond a lease to end an instance, and Tor to say so."""


class Function:
    """One instance. `async with` reaches a box; the first call spawns; leaving the block ends the instance.

    `prepare` gives the source and the links to the boxes to ask, in order.
    """

    def __init__(
        self,
        prepare: Callable[[], Awaitable[tuple[Source, list[Link]]]],
        *,
        lease_s: int | None = None,
        timeout_s: int | None = None,
    ) -> None:
        self._prepare = prepare
        self._timeout_s = timeout_s
        self._lease_s = lease_s or 0
        self._wall_s = 0
        self._invocation_token = InvocationToken(secrets.token_bytes(TOKEN_BYTES))
        self._shutdown_token = ShutdownToken(secrets.token_bytes(TOKEN_BYTES))
        self._link: Link | None = None
        self._next: list[Link] = []
        self._source: Source | None = None
        self._starting = asyncio.Lock()
        self._is_spawned = False
        self._is_loaded = False
        self._lease_end_s = 0.0
        self.is_ended = True
        """Whether nothing runs: the box has confirmed the end, or there was no instance."""

    async def __aenter__(self) -> Self:
        self._source, self._next = await self._prepare()
        manifest = self._source.manifest
        self._wall_s = min(self._timeout_s or manifest.wall_s or DEFAULT_WALL_S, manifest.wall_s or 2**53)
        self._lease_s = min(self._lease_s or self._wall_s, self._wall_s)
        await self._take_next_box()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            # A box that can't be told ends the instance with its lease.
            with contextlib.suppress(Unreachable, NoSuchInstance):
                await self.stop()
        finally:
            for link in [self._link, *self._next]:
                if link is not None:
                    link.close()

    @property
    def box(self) -> ListedBox:
        """Where it runs, or would at the first call."""
        return self._reached.box

    @property
    def path(self) -> tuple[Hop, ...]:
        """The relays of its circuit, the box's last; () by onion service."""
        return self._reached.path

    @property
    def deadline_s(self) -> float:
        """When the instance is gone for certain, on the event loop's clock."""
        return self._lease_end_s + _GRACE_S

    async def call(self, entry: str, *args: Any) -> Any:
        """Call an entry without input; its returned value. Output is dropped: `invoke` gives it."""
        async with self.invoke(entry, *args, has_input=False) as invocation:
            return await invocation.result()

    def invoke(self, entry: str, *args: Any, has_input: bool = True) -> Invocation:
        """Call an entry and talk with it; without input its `api.recv()` gives b"" at once.

        Raises: SourceError if the source has no such entry or the arguments do not fit.
        """
        self._loaded_source.verify_call(entry, args)
        side = InvocationSide(self._invocation_token.invoke, os.urandom(INVOCATION_ID_BYTES))
        return Invocation(self, side, entry, args, has_input=has_input)

    async def load(self) -> None:
        """Spawn and run the source's module-level code now, not with the first call."""
        side = InvocationSide(self._invocation_token.invoke, bytes(INVOCATION_ID_BYTES))
        async with self._starting:
            if self._is_loaded:
                return
            stream, events = await self._start(side, b"")
        stream.close()
        for event in events:
            if isinstance(event, Raise):
                raise outcome_error(event)

    async def status(self) -> State:
        """Whether it runs, or how it ended. Raises: NoSuchInstance if the box does not know it (any more)."""
        return await ask(self._reached, Status(self._invocation_token.route), State)

    async def renew(self, lease_s: int) -> int:
        """Let the lease end so many seconds from now; what the box grants, at most what is left of the wall time."""
        request = Renew(self._invocation_token.instance, self._shutdown_token.shutdown, lease_s)
        renewed = await ask(self._reached, request, Renewed)
        self._set_lease(renewed.lease_s)
        return renewed.lease_s

    async def stop(self) -> None:
        """End the instance, and wait until the box has confirmed it.

        Raises: Unreachable if it can't be told within STOP_LIMIT_S; the lease will end the instance.
        """
        if self.is_ended:
            return
        try:
            async with asyncio.timeout(STOP_LIMIT_S):
                await self._shut_down()
        except TimeoutError:
            raise BoxUnreachable(
                f"the box did not confirm the end within {STOP_LIMIT_S:g} s", hint="its lease will end the function"
            ) from None
        self.is_ended = True

    async def attach(self, side: InvocationSide, inner: bytes) -> tuple[Stream, list[InnerReply]]:
        """For invocations: a stream to the loader with the inner conversation's first bytes sent, spawning at need.

        Raises: StreamLost if it broke; what box and loader say.
        """
        async with self._starting:
            if not self._is_loaded:
                return await self._start(side, inner)
        stream, rest, _ = await settle(self._reached, Connect(self._invocation_token.route), inner)
        return stream, _take_in(stream, side, rest)

    async def verify_running(self) -> None:
        """For invocations, when a stream was lost: raises how the instance ended; returns if it may run (again)."""
        try:
            state = await self.status()
        except NoSuchInstance:
            if self._is_spawned:
                raise
            return
        except BoxUnreachable:
            return  # the one who reattaches tries, and finds out
        if not state.running:
            self.is_ended = True
            raise ended_error(state, self._wall_s, self._lease_s)

    @property
    def _reached(self) -> Link:
        if self._link is None:
            raise NoSuchInstance("the function is used outside its block", hint="use it inside `async with`")
        return self._link

    @property
    def _loaded_source(self) -> Source:
        if self._source is None:
            raise NoSuchInstance("the function is used outside its block", hint="use it inside `async with`")
        return self._source

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

    async def _start(self, side: InvocationSide, inner: bytes) -> tuple[Stream, list[InnerReply]]:
        """Spawn and load in one flight, at the next box where one refuses; returns once the source has run."""
        source = self._loaded_source
        load = encode_frame(Load(source.code, identify(self._invocation_token.invoke)))
        manifest = msgspec.structs.replace(source.manifest, wall_s=self._wall_s)
        spawn = Spawn(self._invocation_token.instance, self._shutdown_token.name, manifest, self._lease_s)
        self.is_ended = False
        try:
            stream, rest, answer = await settle(self._reached, spawn, load + inner)
        except (Refused, SocksRefused):  # for certain nothing runs there
            self.is_ended = True
            if not self._next:
                raise
            await self._take_next_box()
            return await self._start(side, inner)
        self._is_spawned = True
        self._set_lease(answer.lease_s)
        return stream, await self._read_until_loaded(stream, side, rest)

    async def _read_until_loaded(self, stream: Stream, side: InvocationSide, rest: bytes) -> list[InnerReply]:
        """What the loader says up to the end of its loading, which is bounded by the instance's limits."""
        events = _take_in(stream, side, rest)
        try:
            async with asyncio.timeout_at(self.deadline_s):
                while not any(isinstance(event, Loaded | Raise) for event in events):
                    events += side.receive(await read_some(stream))
        except TimeoutError:
            stream.close()
            raise no_answer() from None
        except BaseException:
            stream.close()
            raise
        self._is_loaded = True
        return events

    async def _shut_down(self) -> None:
        request = Shutdown(self._invocation_token.instance, self._shutdown_token.shutdown)
        for delay_s in _STOP_RETRIES_S:
            await asyncio.sleep(delay_s)
            try:
                await ask(self._reached, request, Ended)
                return
            except NoSuchInstance:
                if self._is_spawned:
                    return

    def _set_lease(self, lease_s: int) -> None:
        self._lease_end_s = asyncio.get_running_loop().time() + lease_s


def _take_in(stream: Stream, side: InvocationSide, rest: bytes) -> list[InnerReply]:
    try:
        return side.receive(rest)
    except BaseException:
        stream.close()
        raise
