"""The network's own control groups, so that each box's limits have a place below them.

Only root makes them, in each hierarchy that it can: `bento-net-ID/net` holds the network's processes and
`bento-net-ID/boxN` those of one box, which makes its instances' groups below.
"""

import contextlib
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

_CONTROLLERS: Final = ("memory", "cpu", "cpuacct", "pids")
"""What a box limits or meters by. cpuset is left out: its new groups refuse members until they are configured."""

_REMOVE_LIMIT_S: Final = 3.0
"""The kernel empties a group a moment after its last process is reaped."""


def own_groups() -> list[Path]:
    """This process's group in each hierarchy that has one of the controllers."""
    mounts = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    places: dict[str, tuple[Path, str]] = {}
    for fields in mounts:
        kind, _, options = fields[fields.index("-") + 1 :]
        if kind in ("cgroup", "cgroup2"):
            key = "" if kind == "cgroup2" else options
            places[key] = (Path(fields[4]), fields[3])
    found: dict[Path, None] = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, names, path = line.split(":", 2)
        for key, (mount, root) in places.items():
            if _is_hierarchy(key, names, mount, root, path):
                found[mount / path[len(root.rstrip("/")) :].lstrip("/")] = None
    return list(found)


def make(name: str) -> list[Path]:
    """Make the group `name` below this process's own ones, with a child `net`; those that could be made."""
    made = []
    for parent in own_groups():
        group = parent / name
        try:
            (group / "net").mkdir(parents=True)
        except OSError:
            continue
        made.append(group)
        for ancestor in (parent, group):
            _enable_below(ancestor)
    return made


def join(groups: Iterable[Path], child: str, pid: int) -> None:
    """Put a process into the child group of each; `child` is made if need be."""
    for group in groups:
        with contextlib.suppress(OSError):
            (group / child).mkdir(exist_ok=True)
            (group / child / "cgroup.procs").write_text(str(pid))


def leave(groups: Iterable[Path]) -> None:
    """Put this process into the parents of the groups."""
    for group in groups:
        with contextlib.suppress(OSError):
            (group.parent / "cgroup.procs").write_text("0")


def remove(groups: Sequence[Path]) -> None:
    """Remove the groups and everything below; a group that still holds processes after 3 s stays."""
    end = time.monotonic() + _REMOVE_LIMIT_S
    while any(group.exists() for group in groups) and time.monotonic() < end:
        for group in groups:
            below = sorted((path for path in group.rglob("*") if path.is_dir()), reverse=True)
            for path in [*below, group]:
                with contextlib.suppress(OSError):
                    path.rmdir()
        if any(group.exists() for group in groups):
            time.sleep(0.02)


def _is_hierarchy(key: str, names: str, mount: Path, root: str, path: str) -> bool:
    if not path.startswith(root.rstrip("/") or "/"):
        return False
    if key == "":
        return names == "" and "memory" in (mount / "cgroup.controllers").read_text().split()
    return any(name in _CONTROLLERS and name in key.split(",") for name in names.split(","))


def _enable_below(group: Path) -> None:
    """Version 2 only: let the group's children have the controllers; where others forbid it, they have none."""
    for controller in _CONTROLLERS:
        with contextlib.suppress(OSError):
            (group / "cgroup.subtree_control").write_text(f"+{controller}")
