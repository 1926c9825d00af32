"""The server: reads one message at a time, decides, hands the connection over, and is out of the way.

It reads no byte past the message that settles the outer conversation; what follows is the loader's to read.
"""

import asyncio
import contextlib
import logging
import platform
import socket
from pathlib import Path

from bento import __version__
from bento.box.dialled import Dialled
from bento.box.egress import Egress, serve_requests
from bento.box.instances import Instance, Instances
from bento.box.reach import Reach
from bento.box.relay import FactsReader
from bento.box.resolver import Resolver
from bento.box.settings import Settings
from bento.config import MAX_OPEN_WAIT_S, MAX_OUTER_BYTES, MAX_PAD_BYTES
from bento.errors import BentoError, ConfigError, ProtocolError, SandboxUnavailable
from bento.errors import Refused as RefusedError
from bento.policy import Refusal
from bento.protocol.framing import HEADER_BYTES, encode_frame, parse_length
from bento.protocol.messages import (
    Connect,
    Describe,
    Description,
    Ended,
    Message,
    OuterRequest,
    Package,
    Refused,
    Renew,
    Renewed,
    Shutdown,
    Spawn,
    Status,
)
from bento.protocol.outer import BoxSide
from bento.sandbox.link import ReaperLink
from bento.sandbox.reaper import SOCKET_NAME

_LOG = logging.getLogger("bento.box")

SOCKET_BUFFER_BYTES = 256 * 1024
"""Of each stream, each way: kernel memory that a client who does not read can hold. At Tor's usual 5 MB/s and below a
millisecond to the relay, a hundredth of it would do; pages of 64 KiB come whole."""

MAX_CONVERSATIONS = 1024
"""Outer conversations at once: each holds a descriptor and up to MAX_OUTER_BYTES."""

_MAX_MESSAGES = 64
"""In one outer conversation, Pads included: many times what a client has to ask before it is handed over."""

_CONVERSATION_S = 120
"""From the first byte to the hand-over: four waits for a slow circuit. Who only keeps a place gives it back."""

_ACCEPT_PAUSE_S = 0.1
"""After a failed accept, which is a lack of descriptors or memory: time for others to give some back."""

_BACKLOG = 128


class Server:
    """One box, from its listening socket to the end of its reaper."""

    def __init__(
        self,
        settings: Settings,
        listener: socket.socket,
        link: ReaperLink,
        facts: FactsReader,
        packages: tuple[Package, ...],
    ) -> None:
        self._settings = settings
        self._listener = listener
        self._link = link
        self._facts = facts
        self._packages = packages
        self._resolver = Resolver()
        self._dialled = Dialled()
        self._instances = Instances(settings.policy, self._serve_instance)
        self._open = 0

    async def run(self) -> None:
        """Serve until cancelled; SandboxUnavailable if the reaper ends."""
        self._listener.listen(_BACKLOG)
        _LOG.info("ready on %s:%d, limits by %s", self._settings.address, self._settings.port, self._link.tier)
        async with asyncio.TaskGroup() as group:
            beside = (self._accept(group), self._facts.run(), self._dialled.run())
            tasks = [group.create_task(one) for one in beside]
            try:
                await self._follow_reaper(group)
            finally:
                for task in tasks:
                    task.cancel()
        raise SandboxUnavailable("the reaper has ended, and all instances with it", hint="start the box again")

    async def stop(self) -> None:
        """End the reaper and all instances."""
        await self._link.stop()

    async def _follow_reaper(self, group: asyncio.TaskGroup) -> None:
        """Returns when the reaper has ended. A link may also break: the reaper, and what runs, are still there then."""
        while True:
            await self._instances.follow(self._link, group)
            try:
                self._link = await ReaperLink.connect(Path(self._settings.run) / SOCKET_NAME)
            except SandboxUnavailable:
                return
            _LOG.warning("the link to the reaper broke; it is there again")

    async def _accept(self, group: asyncio.TaskGroup) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, _ = await loop.sock_accept(self._listener)
            except OSError as error:
                _LOG.warning("can't take a connection: %s", error.strerror)
                await asyncio.sleep(_ACCEPT_PAUSE_S)
                continue
            if self._open >= MAX_CONVERSATIONS:
                connection.close()
                continue
            self._open += 1
            group.create_task(self._converse(connection))

    async def _converse(self, connection: socket.socket) -> None:
        is_handed_over = False
        try:
            async with asyncio.timeout(_CONVERSATION_S):
                is_handed_over = await self._answer_all(connection)
        except BentoError as error:
            with contextlib.suppress(OSError, TimeoutError):
                await _refuse(connection, error)
        except (OSError, TimeoutError):
            pass  # the client is gone, or says nothing
        except Exception as error:  # noqa: BLE001 - one stream's trouble is not the box's
            _LOG.warning("a conversation failed: %s", type(error).__name__)
        finally:
            self._open -= 1
            if not is_handed_over:
                connection.close()

    async def _answer_all(self, connection: socket.socket) -> bool:
        """The outer conversation. Returns: whether the connection now belongs to an instance."""
        side = BoxSide()
        loop = asyncio.get_running_loop()
        for number in range(_MAX_MESSAGES):
            payload = await _read_payload(connection)
            if payload is None:
                return False
            if number > 1:  # what has arrived already is read without a pause: let others have theirs
                await asyncio.sleep(0)
            request = side.receive(payload)
            if isinstance(request, Spawn):
                await self._instances.spawn(request, connection)
                return True
            if isinstance(request, Connect):
                await self._instances.connect(request, connection)
                return True
            answer = await self._answer(request)
            if answer is not None:
                await loop.sock_sendall(connection, encode_frame(answer))
        raise ProtocolError(f"more than {_MAX_MESSAGES} messages before the hand-over", hint="open another stream")

    async def _answer(self, request: OuterRequest) -> Message | None:
        match request:
            case Describe():
                return self._description()
            case Status():
                return await self._instances.status(request)
            case Renew():
                return Renewed(await self._instances.renew(request))
            case Shutdown():
                await self._instances.shutdown(request)
                return Ended()
            case _:
                return None

    def _description(self) -> Description:
        policy = self._settings.policy
        return Description(
            software=f"bento {__version__}",
            python=platform.python_version(),
            images=policy.images,
            packages={"python": self._packages},
            policy=policy,
            tier=self._link.tier,
        )

    async def _serve_instance(self, instance: Instance) -> None:
        """Until it ends: then its connections end with it."""
        grant = instance.record.grant
        reach = Reach(grant, self._settings.policy, lambda: self._facts.current)
        with self._dialled.account(instance.id, grant.egress_bytes) as account:
            async with asyncio.TaskGroup() as group:
                group.create_task(account.watch())
                await serve_requests(instance.control, Egress(reach, account, self._resolver))


def bind(settings: Settings) -> socket.socket:
    """The box's socket, not listening yet; ConfigError if the address is taken or not this machine's."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Accepted connections inherit these; with sizes set, the kernel does not grow the buffers beyond them.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        listener.setsockopt(socket.SOL_SOCKET, option, SOCKET_BUFFER_BYTES)
    try:
        listener.bind((settings.address, settings.port))
    except OSError as error:
        listener.close()
        place = f"{settings.address}:{settings.port}"
        raise ConfigError(
            f"can't listen on {place}: {error.strerror}", hint="is a box running there already?"
        ) from None
    return listener


async def _read_payload(connection: socket.socket) -> bytes | None:
    """One frame's payload, and not a byte more; None at the end of the stream."""
    async with asyncio.timeout(MAX_OPEN_WAIT_S):
        header = await _read_exactly(connection, HEADER_BYTES)
        if not header:
            return None
        return await _read_exactly(connection, parse_length(header, MAX_OUTER_BYTES))


async def _read_exactly(connection: socket.socket, size: int) -> bytes:
    """`size` bytes; b"" if the stream ends before the first. ProtocolError if it ends between."""
    loop = asyncio.get_running_loop()
    data = b""
    while len(data) < size:
        more = await loop.sock_recv(connection, size - len(data))
        if not more:
            if data:
                raise ProtocolError(f"the stream ended after {len(data)} of {size} bytes")
            return b""
        data += more
    return data


async def _refuse(connection: socket.socket, error: BentoError) -> None:
    """Say no, then read on to the end of what the client has sent already: closing with bytes unread resets the
    connection, and the answer would be lost."""
    loop = asyncio.get_running_loop()
    broken = error.refusals if isinstance(error, RefusedError) else ()
    refusals = tuple(refusal for refusal in broken if isinstance(refusal, Refusal))
    left = 2 * MAX_PAD_BYTES
    async with asyncio.timeout(MAX_OPEN_WAIT_S):
        await loop.sock_sendall(connection, encode_frame(Refused(error.code, error.message, error.hint, refusals)))
        connection.shutdown(socket.SHUT_WR)
        while left > 0 and (data := await loop.sock_recv(connection, 64 * 1024)):
            left -= len(data)
            await asyncio.sleep(0)
