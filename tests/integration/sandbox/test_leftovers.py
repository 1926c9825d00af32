"""An instance that ends, however it ends, frees everything it held; a reaper that ends leaves nothing."""

import asyncio
import itertools
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bento.sandbox.hierarchies import candidates
from bento.sandbox.link import ReaperLink
from bento.sandbox.start import is_reaper_running, start_reaper

INSTANCES = 180
ENDS = (
    "",  # by itself
    "import os; os._exit(3)",
    "import ctypes; ctypes.string_at(0)",
    "control.close(); connection.recv(1)",
    "open('/data/x', 'wb').write(bytes(1 << 20))\nconnection.recv(1)",
    "import threading; threading.Thread(target=connection.recv, args=(1,)).start()",
)


def held_by(pid: int) -> dict[str, int]:
    """What a reaper holds: descriptors, mounts and children."""
    proc = Path(f"/proc/{pid}")
    return {
        "descriptors": len(list((proc / "fd").iterdir())),
        "mounts": len((proc / "mountinfo").read_text().splitlines()),
        "children": len((proc / f"task/{pid}/children").read_text().split()),
    }


def cgroups_of(run: str) -> list[Path]:
    """The folders of this run's reaper, in every hierarchy."""
    return [folder for each in candidates(Path(run)) for folder in each.folders.values() if folder.exists()]


def processes_in(folders: list[Path]) -> int:
    return sum(len(path.read_text().split()) for folder in folders for path in folder.glob("i*/cgroup.procs"))


def test_hundreds_of_instances_leave_nothing(with_sandbox: Callable[..., Any]) -> None:
    async def scenario(sandbox: Any) -> None:
        await end_one(sandbox, "")
        await sandbox.settled(instances=0)
        before = held_by(sandbox.link.reaper_pid)
        codes = itertools.islice(itertools.cycle(ENDS), INSTANCES)
        while batch := list(itertools.islice(codes, 20)):
            await asyncio.gather(*(end_one(sandbox, code) for code in batch))
        await sandbox.settled(instances=0)
        assert held_by(sandbox.link.reaper_pid) == before
        folders = cgroups_of(sandbox.config.run)
        assert processes_in(folders) == (sandbox.config.pool_depth * len(set(folders)))

    with_sandbox(scenario, slots=24, pool_depth=4, generation_children=10_000)


async def end_one(sandbox: Any, code: str) -> None:
    guest = await sandbox.start(code)
    if "recv" in code:
        sandbox.link.end(guest.name, "shutdown")
    await sandbox.tombstone(guest)
    guest.close()


def test_a_stop_leaves_nothing(with_sandbox: Callable[..., Any]) -> None:
    async def scenario(sandbox: Any) -> None:
        guest = await sandbox.start("connection.recv(1)")
        pids = [sandbox.link.reaper_pid, *sandbox.children()]
        await sandbox.link.stop()
        await sandbox.until(lambda: not any(is_alive(pid) for pid in pids))
        assert await guest.read() == b""
        assert sandbox.left() == []
        assert cgroups_of(sandbox.config.run) == []
        guest.close()

    with_sandbox(scenario, own=True)


def test_a_killed_reaper_takes_all_with_it(with_sandbox: Callable[..., Any]) -> None:
    async def scenario(sandbox: Any) -> None:
        guest = await sandbox.start("connection.recv(1)")
        pids = [sandbox.link.reaper_pid, *sandbox.children()]
        os.kill(pids[0], signal.SIGKILL)
        await sandbox.until(lambda: not any(is_alive(pid) for pid in pids))
        assert await guest.read() == b""
        assert not is_reaper_running(Path(sandbox.config.run))
        guest.close()
        # Only cgroups and files outlive it, and the next start takes them over.
        sandbox.use(await ReaperLink.connect(await asyncio.to_thread(start_reaper, sandbox.config)))
        assert await sandbox.answer("answer = 1") == 1
        await sandbox.link.stop()
        assert cgroups_of(sandbox.config.run) == []
        assert sandbox.left() == []

    with_sandbox(scenario, own=True)


def is_alive(pid: int) -> bool:
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_an_abandoned_start_is_ended(with_sandbox: Callable[..., Any]) -> None:
    async def scenario(sandbox: Any) -> None:
        waiting = [asyncio.ensure_future(sandbox.start("connection.recv(1)")) for _ in range(6)]
        await asyncio.sleep(0)
        for start in waiting:
            start.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        await sandbox.settled(instances=0)

    with_sandbox(scenario, slots=6)


pytestmark = pytest.mark.needs("namespaces", "seccomp")
