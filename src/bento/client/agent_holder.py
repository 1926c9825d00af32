"""What the agent does for one command: a circuit of its own, and streams on it, until the command goes."""

import asyncio
import contextlib
import secrets
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import msgspec

from bento.client import agent_messages
from bento.client.agent_messages import Build, Built, Dial, Dialled, Failed, Hop, Progress, Reply, Target
from bento.client.agent_tor import Tor
from bento.config import ONION_PORT
from bento.errors import BentoError, BoxUnreachable, UsageError
from bento.tor.circuits import Circuit, Circuits
from bento.tor.socks import encode_connect

_USERNAME_BYTES: Final = 16
_REPORT_S: Final = 0.2
"""How often a command that waits for tor is told how far it is."""

_LINGER_S: Final = 2.0
"""What a command wrote last, such as that it has a call's result, is still on its way: a circuit closed at once would
take it along."""


class Service:
    """Bento's tor as all the commands share it: starting, there, or failed."""

    def __init__(self) -> None:
        self.holders = 0
        """The commands that are connected."""
        self._unused = asyncio.Event()
        self._progress = 0, "starting"
        self._settled = asyncio.Event()
        self._failure: BentoError | None = None
        self._tor: tuple[Tor, Circuits] | None = None

    def report(self, percent: int, text: str) -> None:
        self._progress = percent, text

    def start(self, tor: Tor, circuits: Circuits) -> None:
        self._tor = tor, circuits
        self._settled.set()

    def fail(self, error: BentoError) -> None:
        self._failure = error
        self._settled.set()

    def enter(self) -> None:
        self.holders += 1
        self._unused.clear()

    def leave(self) -> None:
        self.holders -= 1
        if not self.holders:
            self._unused.set()

    async def until_unused(self) -> None:
        """Wait until no command is connected."""
        if self.holders:
            await self._unused.wait()

    async def ready(self, report: Callable[[int, str], None]) -> tuple[Tor, Circuits]:
        """Wait for tor; `report` is told how far it is. Raises: why there is none."""
        while not self._settled.is_set():
            report(*self._progress)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._settled.wait(), _REPORT_S)
        if self._failure or self._tor is None:
            raise self._failure or BoxUnreachable("tor has ended")
        return self._tor


@dataclass(frozen=True)
class _Way:
    """How the command's box is reached: by this circuit, or by its onion service where that is None."""

    target: Target
    circuits: Circuits
    circuit: Circuit | None

    def is_good_for(self, target: Target, by_onion: bool) -> bool:
        if self.target != target or by_onion != (self.circuit is None):
            return False
        return self.circuit is None or self.circuits.is_open(self.circuit)


class Holder:
    """One command's connection. Its circuit is used by nobody else, and closed when the connection ends."""

    def __init__(self, connection: socket.socket, service: Service) -> None:
        self._connection = connection
        self._service = service
        self._username = secrets.token_hex(_USERNAME_BYTES)
        self._way: _Way | None = None

    async def serve(self) -> None:
        """Answer requests until the command closes the connection."""
        self._connection.setblocking(False)
        self._service.enter()
        try:
            with contextlib.suppress(OSError, msgspec.DecodeError):
                while (packet := await agent_messages.receive(self._connection))[0]:
                    await self._answer(agent_messages.decode_request(packet[0]))
        finally:
            self._service.leave()
            self._connection.close()
            await asyncio.sleep(_LINGER_S)
            with contextlib.suppress(BentoError):
                await self._release()

    async def _answer(self, request: Build | Dial) -> None:
        try:
            tor, circuits = await self._service.ready(self._report)
            if isinstance(request, Build):
                self._send(await self._build(request, tor, circuits))
            else:
                await self._dial(request, tor, circuits)
        except BentoError as error:
            self._send(Failed(request.id, error.code, error.message, error.hint))

    async def _build(self, request: Build, tor: Tor, circuits: Circuits) -> Built:
        way, target = self._way, request.target
        by_onion = request.by_onion or not (target.is_open and tor.can_exit_to_self)
        if way is None or not way.is_good_for(target, by_onion):
            await self._release()
            self._way = await self._find_way(target, by_onion, circuits)
            circuits.route(self._username, self._way.circuit)
        circuit = self._way.circuit if self._way else None
        path = circuit.path if circuit else ()
        return Built(request.id, tuple(Hop(relay.nickname, relay.fingerprint, relay.address) for relay in path))

    async def _find_way(self, target: Target, by_onion: bool, circuits: Circuits) -> _Way:
        if not by_onion:
            return _Way(target, circuits, await circuits.build(target.fingerprint))
        if target.onion is None:
            raise BoxUnreachable(
                "the relay does not let circuits end at the box, and the box has no onion service",
                hint="pick another box with --box",
            )
        return _Way(target, circuits, None)

    async def _dial(self, request: Dial, tor: Tor, circuits: Circuits) -> None:
        way = self._way
        if way is None:
            raise UsageError("a stream needs a circuit first")
        if way.circuit and not circuits.is_open(way.circuit):
            raise BoxUnreachable("the circuit broke")
        host, port = (way.target.address, way.target.port) if way.circuit else (f"{way.target.onion}.onion", ONION_PORT)
        prefix = encode_connect(self._username, request.host or host, request.port or port)
        with socket.socket(socket.AF_UNIX) as stream:
            try:
                stream.connect(str(tor.socks))
            except OSError as error:
                raise BoxUnreachable(f"tor takes no connections: {error.strerror}") from None
            self._send(Dialled(request.id, prefix), stream.fileno())

    async def _release(self) -> None:
        """Give the circuit back. The user name goes with it: streams of before never share what comes after."""
        way, self._way = self._way, None
        if way is None:
            return
        circuits = way.circuits
        circuits.unroute(self._username)
        self._username = secrets.token_hex(_USERNAME_BYTES)
        if way.circuit:
            await circuits.close(way.circuit.id)

    def _report(self, percent: int, text: str) -> None:
        self._send(Progress(percent, text))

    def _send(self, reply: Reply, descriptor: int | None = None) -> None:
        """Replies are small and awaited, so they fit the socket's buffer; who does not read them is cut off."""
        beside = [] if descriptor is None else [descriptor]
        socket.send_fds(self._connection, [agent_messages.encode(reply)], beside)
