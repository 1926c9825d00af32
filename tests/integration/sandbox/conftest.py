"""A reaper for the tests, and guests in it: each is given one piece of code, and answers on its connection.

The same tests run as root, as another uid, and inside a user namespace that maps one uid (`test_unprivileged.py`).
"""

import asyncio
import contextlib
import itertools
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bento.config import MIB
from bento.sandbox.images import python_image
from bento.sandbox.link import ReaperLink
from bento.sandbox.messages import Ended
from bento.sandbox.namespaces import owns_uids
from bento.sandbox.spec import Image, Limits, SandboxConfig, Tombstone
from bento.sandbox.start import start_reaper

WAIT_S = 20.0
"""Far more than anything here takes; a hang is a failure."""

UNAVAILABLE = b"no server"

# Reads code (its length in four bytes before it), runs it with `connection` and `control` in reach, and ends with it.
ENTRY = b"""
import socket, traceback
def serve(control):
    begin, descriptors, _, _ = socket.recv_fds(control, 65536, 4)
    connection = socket.socket(fileno=descriptors[0])
    length = int.from_bytes(connection.recv(4, socket.MSG_WAITALL), "big")
    code = connection.recv(length, socket.MSG_WAITALL)
    names = {"control": control, "connection": connection, "begin": begin}
    try:
        exec(compile(code, "function", "exec"), names)
    except MemoryError:
        raise
    except BaseException:
        connection.sendall(traceback.format_exc().encode())
"""

LIMITS = Limits(memory_bytes=64 * MIB, cpu_s=30, storage_bytes=16 * MIB)

_names = itertools.count(1)


@dataclass
class Guest:
    """One instance and the test's end of its connection."""

    name: bytes
    control: socket.socket
    connection: socket.socket

    async def read(self) -> bytes:
        """All that it sends until it ends."""
        pieces = []
        with contextlib.suppress(ConnectionResetError):  # killed before it had read all
            while piece := await self.read_some():
                pieces.append(piece)
        return b"".join(pieces)

    async def read_some(self) -> bytes:
        return await asyncio.wait_for(asyncio.get_running_loop().sock_recv(self.connection, 65536), WAIT_S)

    def close(self) -> None:
        self.control.close()
        self.connection.close()


class Sandbox:
    """A connected reaper."""

    def __init__(self, config: SandboxConfig, link: ReaperLink) -> None:
        self.config = config
        self.is_root = owns_uids(config.uid_base, config.slots)
        self.notices: list[str] = []
        self._tombstones: dict[bytes, Tombstone] = {}
        self._started: list[Guest] = []
        self.use(link)

    def use(self, link: ReaperLink) -> None:
        """Speak through `link` from now on, and note what it says until it closes."""
        self.link = link
        self._tombstones |= {each.instance: each for each in link.tombstones}
        self._listening = asyncio.ensure_future(self._listen(link))

    async def reconnect(self) -> None:
        """Be another server, which leaves the control sockets of what it adopts alone."""
        self.use(await ReaperLink.connect(Path(self.config.run) / "reaper.sock"))
        for living in self.link.adopted:
            living.control.close()

    async def _listen(self, link: ReaperLink) -> None:
        async for event in link.events():
            if isinstance(event, Ended):
                self._tombstones[event.tombstone.instance] = event.tombstone
            else:
                self.notices.append(event.text)

    async def start(
        self, code: str, *, limits: Limits = LIMITS, lease_s: float = 60, wall_s: float = 0, record: bytes = b""
    ) -> Guest:
        name = b"instance %d" % next(_names)
        theirs, ours = socket.socketpair()
        ours.setblocking(False)
        with theirs:
            started = await self.link.start(
                name, b"begin", limits, lease_s=lease_s, wall_s=wall_s, record=record, connection=theirs
            )
        guest = Guest(name, started.control, ours)
        self._started.append(guest)
        await asyncio.get_running_loop().sock_sendall(ours, len(code.encode()).to_bytes(4, "big") + code.encode())
        return guest

    async def answer(self, code: str, **arguments: Any) -> Any:
        """What `code` leaves in its variable `answer`."""
        guest = await self.start(f"{code}\nimport json\nconnection.sendall(json.dumps(answer).encode())", **arguments)
        text = await guest.read()
        guest.close()
        try:
            return json.loads(text)
        except ValueError:
            pytest.fail(text.decode() or f"no answer: {await self.tombstone(guest)}")

    def children(self) -> list[int]:
        """The pids of the reaper's children: zygotes, those that wait, instances."""
        pid = self.link.reaper_pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def statuses(self) -> list[dict[str, str]]:
        """What the kernel says of each child."""
        texts = [Path(f"/proc/{pid}/status").read_text() for pid in self.children()]
        return [dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line) for text in texts]

    async def settled(self, *, instances: int) -> list[dict[str, str]]:
        """The children's statuses, once the pool is full and one zygote is left."""
        confined = instances + min(self.config.pool_depth, self.config.slots - instances)
        async with asyncio.timeout(WAIT_S):
            while True:
                with contextlib.suppress(OSError):  # one ended while it was looked at
                    found = self.statuses()
                    if len(found) == confined + 1 and [each["Seccomp"] for each in found].count("2") == confined:
                        return found
                await asyncio.sleep(0.01)

    async def end_all(self) -> None:
        """Leave the reaper as it was found."""
        for guest in self._started:
            self.link.end(guest.name, "shutdown")
            guest.close()
        await self.settled(instances=0)

    async def tombstone(self, guest: Guest) -> Tombstone:
        """How the guest ended."""
        await self.until(lambda: guest.name in self._tombstones)
        return self._tombstones[guest.name]

    async def notice(self) -> str:
        """The first word to the operator."""
        await self.until(lambda: bool(self.notices))
        return self.notices[0]

    @staticmethod
    async def until(condition: Callable[[], bool]) -> None:
        """Wait until it holds."""
        async with asyncio.timeout(WAIT_S):
            while not condition():  # noqa: ASYNC110 (of another process: nothing sets an event)
                await asyncio.sleep(0.005)

    def left(self) -> list[str]:
        """The names in the run folder."""
        return [path.name for path in Path(self.config.run).iterdir()]


@pytest.fixture(scope="session")
def image() -> Image:
    """The image "python", with the tests' entry."""
    return python_image(entry="entry:serve", files=(("/usr/lib/bento/entry.py", ENTRY),))


@pytest.fixture
def make_config(image: Image, tmp_path: Path) -> Callable[..., SandboxConfig]:
    """A configuration for a reaper of this test's own."""
    return partial(config_for, image, tmp_path)


def config_for(image: Image, run: Path, **changes: Any) -> SandboxConfig:
    changes = {"pool_depth": 2} | changes
    return SandboxConfig(run=str(run), image=image, unavailable_packet=UNAVAILABLE, **changes)


@pytest.fixture(scope="session")
def shared_config(image: Image, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SandboxConfig]:
    """The reaper of all tests that leave theirs as it was."""
    config = config_for(image, tmp_path_factory.mktemp("shared"))

    async def stop() -> None:
        await (await ReaperLink.connect(start_reaper(config))).stop()

    yield config
    asyncio.run(stop())


@contextlib.asynccontextmanager
async def running(config: SandboxConfig, *, stops: bool) -> AsyncIterator[Sandbox]:
    """A server's connection to a reaper, for as long as the block lasts."""
    sandbox = Sandbox(config, await ReaperLink.connect(await asyncio.to_thread(start_reaper, config)))
    try:
        yield sandbox
    finally:
        if sandbox.link.is_open and stops:
            await sandbox.link.stop()
        elif sandbox.link.is_open:
            await sandbox.end_all()
            sandbox.link.close()


@pytest.fixture
def with_sandbox(shared_config: SandboxConfig, make_config: Callable[..., SandboxConfig]) -> Callable[..., Any]:
    """Run an async scenario against the shared reaper, or with changes, or as its own, against a fresh one."""

    def run(scenario: Callable[[Sandbox], Awaitable[Any]], *, own: bool = False, **changes: Any) -> Any:
        async def body() -> Any:
            is_own = own or bool(changes)
            async with running(make_config(**changes) if is_own else shared_config, stops=is_own) as sandbox:
                return await scenario(sandbox)

        return asyncio.run(body())

    return run
