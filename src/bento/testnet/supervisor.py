"""Pid 1 of a private network: starts everything, takes requests on a unix socket, ends everything.

A request is one line of JSON, and so is the reply; `{"error", "code", "hint"}` if it failed.

    {"op": "status"}
    {"op": "down"}
    {"op": "site", "name": "demo.test", "folder": "/..."}
    {"op": "box", "name": "box0"}                 starts a box whose server has ended
    {"op": "agent_tor", "state": "/..."}          a user's tor, for as long as this connection stays open
"""

import asyncio
import contextlib
import hashlib
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from bento.errors import BentoError, NetworkDown, UsageError
from bento.testnet import dns, files, keys, latency, namespace, web
from bento.testnet.boot import Boot
from bento.testnet.children import Children, fork_service
from bento.testnet.layout import BOX_PORT, MAX_BOXES, Box, Layout, Relay, client_address
from bento.testnet.status import AgentTor, BoxStatus, ClientStatus, RelayStatus, Status
from bento.tor.process import TorProcess

_MAX_REQUEST_BYTES: Final = 64 * 1024
_STOP_LIMIT_S: Final = 2.0
"""For the boxes, then for the tors: with the rest, down stays under its promised 5 s."""

Tell = Callable[[dict[str, str]], None]


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    op: str
    name: str = ""
    folder: str = ""
    state: str = ""


def run(layout: Layout, groups: tuple[Path, ...], lifelines: tuple[int, ...], tell: Tell) -> None:
    """Be pid 1 until told to end, or until a lifeline's other end is closed.

    Args:
        groups: the network's control groups.
        tell: takes {"step": ...} as the start proceeds, then {"ready": "1"}.
    Raises: BentoError if the network can't start.
    """
    tell({"step": "making keys and namespaces"})
    files.write_resolvers(layout)
    namespace.enter_network(files.resolv_conf(layout))
    authority = keys.certificate_authority(layout.ca)
    files.write_files(layout)
    children = Children()
    services = {"dns": dns.serve, "web": lambda: web.serve(layout.sites, authority)}
    if layout.latency_ms:
        services["latency"] = lambda: latency.serve(layout.relays, layout.latency_ms / 1000)
    for name, listen in services.items():
        children.add(name, fork_service(listen), layout.directory / "supervisor.log")
    asyncio.run(Supervisor(layout, children, groups, tell).run(lifelines))


class Supervisor:
    """The network while it is up."""

    def __init__(self, layout: Layout, children: Children, groups: tuple[Path, ...], tell: Tell) -> None:
        self._layout = layout
        self._children = children
        self._tell = tell
        self._boot = Boot(layout, children, groups, lambda step: tell({"step": step}))
        self._is_booted = False
        self._clients = 1 + MAX_BOXES
        self._held: set[str] = set()
        self._ending: dict[str, asyncio.Event] = {}
        self._down = asyncio.Event()

    async def run(self, lifelines: tuple[int, ...]) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGCHLD, self._children.reap)
        self._children.reap()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._down.set)
        for descriptor in lifelines:
            loop.add_reader(descriptor, self._feel, descriptor)
        socket = self._layout.socket
        server = await asyncio.start_unix_server(self._serve, socket, limit=_MAX_REQUEST_BYTES)
        socket.chmod(0o600)
        try:
            async with server:
                await self._boot_unless_down()
                await self._down.wait()
        finally:
            boxes = [box.name for box in self._layout.boxes]
            await self._children.stop(boxes, _STOP_LIMIT_S)
            await self._children.stop(self._children.names, _STOP_LIMIT_S)

    async def _boot_unless_down(self) -> None:
        """Boot, but leave off as soon as the network is told to end."""
        async with asyncio.TaskGroup() as tasks:
            boot = tasks.create_task(self._boot.run())
            ended = tasks.create_task(self._down.wait())
            await asyncio.wait((boot, ended), return_when=asyncio.FIRST_COMPLETED)
            self._is_booted = boot.done() and not boot.cancelled() and boot.exception() is None
            boot.cancel()
            ended.cancel()
        if self._is_booted:
            self._tell({"ready": "1"})

    def _feel(self, descriptor: int) -> None:
        """A lifeline carries nothing but its end."""
        if not os.read(descriptor, 4096):
            asyncio.get_running_loop().remove_reader(descriptor)
            self._down.set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            try:
                request = msgspec.json.decode(await reader.readline(), type=Request)
                if request.op == "agent_tor":
                    await self._hold_agent_tor(Path(request.state), reader, writer)
                else:
                    await _reply(writer, await self._answer(request))
            except (ValueError, msgspec.DecodeError) as error:
                await _reply(
                    writer, wire_error(UsageError(f"not a request: {error}", hint="one line of JSON with an op"))
                )
            except BentoError as error:
                await _reply(writer, wire_error(error))
        writer.close()

    async def _answer(self, request: Request) -> Any:
        if request.op == "status":
            return self.status()
        if request.op == "down":
            self._down.set()
            return {"ok": True}
        if request.op == "site":
            web.add_site(self._layout.sites, request.name, Path(request.folder))
            return {"ok": True}
        if request.op == "box":
            self._start_box(request.name)
            return {"ok": True}
        raise UsageError(f"the supervisor knows no request {request.op!r}")

    def _start_box(self, name: str) -> None:
        box = next((box for box in self._layout.boxes if box.name == name), None)
        if box is None:
            raise UsageError(f"there is no box {name!r}", hint="`bento net status --json` names them")
        if self._children.pid(name) is None:
            self._boot.start_box(box)

    async def _hold_agent_tor(self, state: Path, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Run a user's tor until the connection ends."""
        name = "a" + hashlib.sha256(os.fsencode(state)).hexdigest()[:16]
        if not self._is_booted:
            raise NetworkDown("the network is still starting", hint="wait until `bento net status` says it is ready")
        if ending := self._ending.get(name):
            await ending.wait()
        if name in self._held:
            raise UsageError(f"the tor of {state} is taken by another agent", hint="end that agent first")
        self._held.add(name)
        try:
            tor = self._start_agent_tor(name)
            await asyncio.to_thread(tor.wait_for_control)
            await _reply(writer, AgentTor(str(tor.control), str(tor.socks), str(tor.data), str(tor.cookie)))
            await reader.read()
        finally:
            self._ending[name] = asyncio.Event()
            await self._children.stop([name], _STOP_LIMIT_S)
            self._held.discard(name)
            self._ending.pop(name).set()

    def _start_agent_tor(self, name: str) -> TorProcess:
        self._clients += 1
        data = self._layout.directory / "agents" / name
        files.copy_consensus(self._layout.data("client"), data)
        return self._boot.start_client(name, data, client_address(self._clients))

    def status(self) -> Status:
        """Pids are this namespace's own."""
        layout = self._layout
        lost = self._children.lost
        return Status(
            ready=self._is_booted and not lost,
            dir=str(layout.directory),
            relays=tuple(self._relay_status(relay) for relay in layout.relays),
            client=ClientStatus(
                socks=str(layout.sockets("client") / "socks"),
                control=str(layout.sockets("client") / "control"),
                cookie=str(layout.data("client") / "control_auth_cookie"),
                pid=self._children.pid("client"),
            ),
            latency_ms=layout.latency_ms,
            ca=str(layout.ca),
            box_list=str(layout.box_list),
            sites=tuple(sorted(path.name for path in layout.sites.iterdir())),
            lost=lost,
        )

    def _relay_status(self, relay: Relay) -> RelayStatus:
        layout = self._layout
        return RelayStatus(
            nickname=relay.nickname,
            fingerprint=files.relay_fingerprint(layout, relay.nickname),
            address=relay.address,
            control=str(layout.sockets(relay.nickname) / "control"),
            cookie=str(layout.data(relay.nickname) / "control_auth_cookie"),
            pid=self._children.pid(relay.nickname),
            box=self._box_status(relay.box) if relay.box else None,
        )

    def _box_status(self, box: Box) -> BoxStatus:
        return BoxStatus(
            name=box.name,
            address=box.address,
            port=BOX_PORT,
            onion=files.box_item(self._layout, box).onion or "",
            config=str(files.box_config(self._layout, box)),
            pid=self._children.pid(box.name),
        )


def wire_error(error: BentoError) -> dict[str, str]:
    """An error as it is told to whoever asked."""
    return {"error": error.message, "code": error.code, "hint": error.hint}


async def _reply(writer: asyncio.StreamWriter, reply: Any) -> None:
    writer.write(msgspec.json.encode(reply) + b"\n")
    await writer.drain()
