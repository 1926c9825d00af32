"""A control group for each slot, made ahead of time, so that no start waits for the kernel to make one.

They are `bento-<id>/i<slot>` below the cgroup that the box itself runs in (`hierarchies`).
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bento.config import MIB
from bento.sandbox.hierarchies import Hierarchies
from bento.sandbox.spec import Limits

BASE_BYTES: Final = 8 * MIB
"""What an instance's process costs before its function does anything, as its cgroup charges it: 1.5 MB waiting, 2-3 MB
with a session and its threads' stacks, page tables and small files' inodes (measured), with as much again to spare."""

_PERIOD_US = 100_000
_NO_LIMIT_V1 = "-1"
_REMOVE_PAUSE_S = 0.01
_REMOVE_WAIT_S = 5.0
"""A killed process leaves its cgroup within milliseconds; on a machine that swaps, within seconds."""


@dataclass(frozen=True)
class Write:
    """One value for one file of one controller; `is_optional` where a kernel may lack the file."""

    controller: str
    file: str
    value: str
    is_optional: bool = False


def memory_limit_bytes(limits: Limits) -> int:
    """The cgroup charges the instance's files too (tmpfs is memory), so each may use all of its own."""
    return limits.memory_bytes + limits.storage_bytes + BASE_BYTES


def v1_limits(limits: Limits) -> tuple[Write, ...]:
    bound = str(memory_limit_bytes(limits))
    return (
        # Only with swap accounting. It may never be the lower of the two: lifted first, whichever way they go.
        Write("memory", "memory.memsw.limit_in_bytes", _NO_LIMIT_V1, is_optional=True),
        Write("memory", "memory.limit_in_bytes", bound),
        Write("memory", "memory.memsw.limit_in_bytes", bound, is_optional=True),
        Write("pids", "pids.max", str(limits.threads)),
    )


def v2_limits(limits: Limits) -> tuple[Write, ...]:
    return (
        Write("memory", "memory.max", str(memory_limit_bytes(limits))),
        Write("memory", "memory.swap.max", "0", is_optional=True),
        Write("pids", "pids.max", str(limits.threads)),
    )


_V1_FREE = (
    Write("memory", "memory.memsw.limit_in_bytes", _NO_LIMIT_V1, is_optional=True),
    Write("memory", "memory.limit_in_bytes", _NO_LIMIT_V1),
    Write("pids", "pids.max", "max"),
)
_V2_FREE = (Write("memory", "memory.max", "max"), Write("pids", "pids.max", "max"))


class Cgroups:
    """The cgroups of one reaper, below its own folder in each hierarchy."""

    def __init__(self, hierarchies: Hierarchies, *, cpu_cores: float, cpu_shares: int) -> None:
        self.tier: Final = hierarchies.tier
        self._folders = hierarchies.folders
        self._places = sorted(set(self._folders.values()))
        self._quota = _quota(self.tier, int(cpu_cores * _PERIOD_US))
        self._shares = _shares(self.tier, cpu_shares)
        self._made: set[int] = set()

    def make_parent(self) -> None:
        """Make this reaper's own folder; OSError if it may not."""
        for place in self._places:
            place.mkdir(exist_ok=True)
        if self.tier == "v2":
            wanted = " ".join(f"+{name}" for name in self._folders)
            (self._folders["memory"] / "cgroup.subtree_control").write_text(wanted)
        self._write(self._shares)

    def join(self, slot: int) -> list[int]:
        """Descriptors of the slot's cgroup.procs files; a process that writes "0" to each joins."""
        if slot not in self._made:
            for place in self._places:
                (place / f"i{slot}").mkdir(exist_ok=True)
            self._write(self._quota, f"i{slot}")
            self._made.add(slot)
        return [os.open(place / f"i{slot}" / "cgroup.procs", os.O_WRONLY | os.O_CLOEXEC) for place in self._places]

    def limit(self, slot: int, limits: Limits) -> None:
        """Put the limits on the slot's processes; OSError if one of them can't be set."""
        self._write(v1_limits(limits) if self.tier == "v1" else v2_limits(limits), f"i{slot}")

    def free(self, slot: int) -> None:
        """Take the limits off again, for the slot's next child."""
        self._write(_V1_FREE if self.tier == "v1" else _V2_FREE, f"i{slot}")

    def oom_kills(self, slot: int) -> int:
        """How many processes of this slot were ever killed for want of memory."""
        text = self._read(slot, "memory.oom_control" if self.tier == "v1" else "memory.events")
        return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("oom_kill "))

    def memory_bytes(self, slot: int) -> int:
        """What the slot's processes and files are charged for now; 0 where nobody counts."""
        return int(self._read(slot, "memory.usage_in_bytes" if self.tier == "v1" else "memory.current") or 0)

    def remove(self) -> None:
        """Remove every folder, also those that an earlier reaper left; what is still in use stays."""
        give_up_s = time.monotonic() + _REMOVE_WAIT_S
        for place in self._places:
            if place.is_dir():
                for folder in [*(path for path in place.iterdir() if path.is_dir()), place]:
                    _remove_folder(folder, give_up_s)
        self._made.clear()

    def _write(self, writes: tuple[Write, ...], slot: str = "") -> None:
        for write in writes:
            folder = self._folders.get(write.controller)
            if folder is None:
                continue
            try:
                _write_value(folder / slot / write.file, write.value)
            except FileNotFoundError:
                if not write.is_optional:
                    raise

    def _read(self, slot: int, name: str) -> str:
        """A file of the slot's; "" where there is no such cgroup (any more)."""
        folder = self._folders.get("memory")
        try:
            return (folder / f"i{slot}" / name).read_text() if folder else ""
        except FileNotFoundError:
            return ""


def _shares(tier: str, shares: int) -> tuple[Write, ...]:
    if tier == "v1":
        return (Write("cpu", "cpu.shares", str(shares)),)
    return (Write("cpu", "cpu.weight", str(max(1, shares * 100 // 1024))),)


def _quota(tier: str, quota_us: int) -> tuple[Write, ...]:
    if tier == "v1":
        return (Write("cpu", "cpu.cfs_quota_us", str(quota_us), is_optional=True),)
    return (Write("cpu", "cpu.max", f"{quota_us} {_PERIOD_US}", is_optional=True),)


def _write_value(path: Path, value: str) -> None:
    """One write of the whole value, to a file that must be there: the kernel reads each write as a command."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC | os.O_TRUNC)
    try:
        os.write(descriptor, value.encode())
    finally:
        os.close(descriptor)


def _remove_folder(folder: Path, give_up_s: float) -> None:
    while True:
        try:
            folder.rmdir()
        except FileNotFoundError:
            return
        except OSError:
            if time.monotonic() > give_up_s:
                return
            time.sleep(_REMOVE_PAUSE_S)
        else:
            return
