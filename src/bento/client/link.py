"""A way to one box: a circuit of its own, kept by the agent for as long as the link stays open.

    link = Link(profile, box)
    stream = await link.open(flight)

A circuit that broke is replaced by a new one; a relay that can't let circuits end at its box is passed by through the
box's onion service. A flight may so be sent more than once: everything the protocol opens a stream with may be.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Final, TypeVar

from bento.client import agent_messages
from bento.client.agent_messages import Build, Built, Dial, Dialled, Failed, Hop, Progress, Reply, Target
from bento.client.agent_start import agent_log, connect_agent
from bento.client.profile import Profile
from bento.client.stream import Stream
from bento.errors import BoxUnreachable, NoSuchInstance, ProtocolError, TorUnavailable, from_wire
from bento.tor.box_list import ListedBox
from bento.tor.socks import NOT_ALLOWED, SocksRefused

T = TypeVar("T", Built, Dialled)

OPEN_TRIES: Final = 3
"""Streams tried before the box counts as unreachable, each on a new circuit if the one before broke."""

_ANSWER_LIMIT_S: Final = 420.0
"""Above the sum of what the agent itself waits for: tor's first start, and three circuits."""

_FINAL_REPLIES: Final = frozenset({5})
"""The relay was reached and nothing listens: another circuit would meet the same."""

Report = Callable[[str], None]


class Link:
    """One link. Its methods wait for each other."""

    def __init__(self, profile: Profile, box: ListedBox, report: Report) -> None:
        self.box = box
        self.path: tuple[Hop, ...] = ()
        """The circuit's relays, the box's last; () by onion service, where tor chooses them."""
        self._profile = profile
        self._report = report
        self._agent: socket.socket | None = None
        self._asking = asyncio.Lock()
        self._last_id = 0
        self._by_onion = False
        self._is_closed = False

    async def build(self) -> None:
        """Have a circuit ready. Raises: BoxUnreachable, TorUnavailable, NetworkDown."""
        item = self.box.item
        target = Target(self.box.fingerprint, item.address, item.port, item.onion, self.box.is_open)
        built, _ = await self._ask(lambda number: Build(number, target, self._by_onion), Built)
        self.path = built.path

    async def open(self, flight: bytes, *, host: str = "", port: int = 0) -> Stream:
        """A stream to the box (or from its relay to another host), with the flight on its way at once."""
        for tries_left in reversed(range(OPEN_TRIES)):
            await self.build()
            try:
                return await self._dial(flight, host, port)
            except SocksRefused as error:
                if error.reply == NOT_ALLOWED and self.box.item.onion and not (host or self._by_onion):
                    self._by_onion = True
                elif error.reply in _FINAL_REPLIES or not tries_left:
                    raise
            except BoxUnreachable:
                if not tries_left:
                    raise
        raise BoxUnreachable("the box can't be reached, neither by its relay nor by its onion service")

    def close(self) -> None:
        """Give the circuit back, for good."""
        self._is_closed = True
        self._let_go()

    def _let_go(self) -> None:
        if self._agent is not None:
            self._agent.close()
            self._agent = None

    async def _dial(self, flight: bytes, host: str, port: int) -> Stream:
        dialled, descriptor = await self._ask(lambda number: Dial(number, host, port), Dialled)
        if descriptor is None:
            raise ProtocolError("the agent sent no stream", hint=f"see {agent_log(self._profile)}")
        return await Stream.begin(socket.socket(fileno=descriptor), dialled.prefix, flight)

    async def _ask(self, request: Callable[[int], Build | Dial], kind: type[T]) -> tuple[T, int | None]:
        """Ask the agent; an agent that ended just now is started anew, once."""
        async with self._asking:
            try:
                return await self._exchange(request, kind)
            except _AgentGone:
                self._let_go()
            return await self._exchange(request, kind)

    async def _exchange(self, request: Callable[[int], Build | Dial], kind: type[T]) -> tuple[T, int | None]:
        if self._is_closed:
            raise NoSuchInstance("the function is used outside its block", hint="use it inside `async with`")
        if self._agent is None:
            self._agent = await connect_agent(self._profile)
        self._last_id += 1
        try:
            async with asyncio.timeout(_ANSWER_LIMIT_S):
                with contextlib.suppress(OSError):
                    self._agent.send(agent_messages.encode(request(self._last_id)))
                reply, descriptor = await self._receive(self._agent, self._last_id)
        except TimeoutError:
            raise TorUnavailable(f"the agent did not answer within {_ANSWER_LIMIT_S:g} s", hint="try again") from None
        if isinstance(reply, Failed):
            raise from_wire(reply.code, reply.message, reply.hint)
        if not isinstance(reply, kind):
            raise ProtocolError(f"the agent answered {type(reply).__name__} out of turn")
        return reply, descriptor

    async def _receive(self, agent: socket.socket, number: int) -> tuple[Reply, int | None]:
        """The reply to a request; those to requests that were given up are dropped."""
        while True:
            try:
                data, descriptor = await agent_messages.receive(agent)
            except OSError:
                data, descriptor = b"", None
            if not data:
                raise _AgentGone("the agent that keeps Bento's tor has ended", hint=f"see {agent_log(self._profile)}")
            reply = agent_messages.decode_reply(data)
            if isinstance(reply, Progress):
                self._report(f"tor: {reply.percent} % ({reply.text})")
            elif reply.id == number:
                return reply, descriptor
            elif descriptor is not None:
                socket.close(descriptor)


class _AgentGone(TorUnavailable):
    """The agent ended while it was asked."""
