"""Instances in a real sandbox whose box is the test: it checks nothing, and leads names and addresses where it likes.

with Sandbox(tmp_path) as sandbox, sandbox.start(source, World({"demo.test": ("203.0.113.1",)}, ...)) as instance:
    instance.call("entry", 1, 2)
"""

import asyncio
import ipaddress
import itertools
import secrets
import select
import socket
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Self

from bento.config import MAX_INNER_BYTES, MIB
from bento.protocol.broker import (
    Attach,
    Begin,
    Dial,
    Dialled,
    Failed,
    Resolve,
    Resolved,
    Unavailable,
    decode_from_instance,
    encode_packet,
)
from bento.protocol.framing import FrameReader, decode_inner_reply, encode_frame
from bento.protocol.messages import Invoke, Load, Raise, Return
from bento.sandbox.images import python_image
from bento.sandbox.link import ReaperLink
from bento.sandbox.spec import Limits, SandboxConfig
from bento.sandbox.start import start_reaper
from bento.tokens import identify

WAIT_S = 30
_KEY = bytes(32)
_LIMITS = Limits(memory_bytes=128 * MIB, cpu_s=60, storage_bytes=16 * MIB)
_names = itertools.count()

Error = Literal["denied", "refused", "timeout", "unreachable", "name", "busy"]


@dataclass
class World:
    """What a box of a test answers: by name its addresses, by address and port where that really is, or an error."""

    names: dict[str, tuple[str, ...]]
    places: dict[tuple[str, int], tuple[str, int] | Error]
    held: threading.Event = field(default_factory=threading.Event)
    """Dials of port 1 are answered only when this is set, as it is once somebody asks for go.test."""
    asked: list[Resolve | Dial] = field(default_factory=list)
    kept: list[socket.socket] = field(default_factory=list)
    """A duplicate of each connection, as a box has it to meter."""

    def answer(self, request: Resolve | Dial) -> tuple[Resolved | Dialled | Failed, socket.socket | None]:
        self.asked.append(request)
        if isinstance(request, Resolve):
            if request.host == "go.test":
                self.held.set()
            found = self.names.get(request.host, ())
            fitting = tuple(one for one in found if request.family in ("any", str(ipaddress.ip_address(one).version)))
            if fitting:
                return Resolved(request.id, fitting), None
            return Failed(request.id, "name", f"no address for {request.host}"), None
        place = self.places.get((request.address, request.port), "denied")
        if request.port == 1:
            self.held.wait(WAIT_S)
        if isinstance(place, str):
            return Failed(request.id, place, f"{request.address}:{request.port} is {place}"), None
        connected = socket.create_connection(place, WAIT_S)
        connected.settimeout(None)
        self.kept.append(connected)
        return Dialled(request.id), connected

    def serve(self, control: socket.socket) -> None:
        """Answer each request in a thread of its own, until the instance ends or the test closes the socket."""
        with suppress(OSError, ValueError):
            while True:
                select.select([control], [], [])
                data = control.recv(65536)
                if not data:
                    return
                threading.Thread(target=self._reply, args=(control, decode_from_instance(data)), daemon=True).start()

    def _reply(self, control: socket.socket, request: Resolve | Dial) -> None:
        answer, connected = self.answer(request)
        with suppress(OSError):
            socket.send_fds(control, [encode_packet(answer)], [connected.fileno()] if connected else [])


class Instance:
    """A function in a sandbox."""

    def __init__(self, control: socket.socket, stream: socket.socket, source: bytes) -> None:
        self.control = control
        self._stream = stream
        self._load = encode_frame(Load(source, identify(_KEY)))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()
        with suppress(OSError):
            self.control.shutdown(socket.SHUT_RDWR)
        self.control.close()

    def outcome(self, entry: str, *args: Any) -> Return | Raise:
        ours, theirs = socket.socketpair()
        with ours, theirs:
            socket.send_fds(self.control, [encode_packet(Attach(b"", may_load=True))], [theirs.fileno()])
            theirs.close()
            ours.settimeout(WAIT_S)
            ours.sendall(self._load + encode_frame(Invoke(_KEY, secrets.token_bytes(16), entry, args)))
            reader = FrameReader(MAX_INNER_BYTES)
            while data := ours.recv(65536):
                for message in map(decode_inner_reply, reader.feed(data)):
                    if isinstance(message, Return | Raise):
                        return message
        raise ConnectionError("the stream ended before the outcome")

    def call(self, entry: str, *args: Any) -> Any:
        found = self.outcome(entry, *args)
        assert isinstance(found, Return), found
        return found.value


class Sandbox:
    """A reaper, and a thread that is its server."""

    def __init__(self, run: Path, authority: bytes = b"") -> None:
        self._config = SandboxConfig(
            run=str(run),
            image=python_image(extra_ca=authority),
            unavailable_packet=encode_packet(Unavailable()),
            pool_depth=2,
        )
        self._loop = asyncio.new_event_loop()

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        self._link = self._run(ReaperLink.connect(start_reaper(self._config)))
        return self

    def __exit__(self, *_: object) -> None:
        self._run(self._link.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def start(self, source: bytes, world: World) -> Instance:
        name = b"instance %d" % next(_names)
        begin = encode_packet(Begin(b"", 1 << 20))
        ours, theirs = socket.socketpair()
        with theirs:
            started = self._run(
                self._link.start(name, begin, _LIMITS, lease_s=300, wall_s=0, record=b"", connection=theirs)
            )
        threading.Thread(target=world.serve, args=(started.control,), daemon=True).start()
        return Instance(started.control, ours, source)

    def _run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(WAIT_S)
