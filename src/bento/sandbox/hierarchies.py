"""Where this machine's control groups are, and which of them a box may use: version 2 where it is delegated, else 1.

The box's own folder is `bento-<id>` below the cgroup that it runs in. The id comes from the run folder, so that the
next start finds, and removes, what a killed reaper left.
"""

import errno
import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, NamedTuple

Tier = Literal["v2", "v1", "rlimits"]

_NEEDED: Final = ("memory", "pids")
_WANTED: Final = (*_NEEDED, "cpu")
_DELEGATION_MARKS = ("trusted.delegate", "user.delegate")  # as systemd sets them for Delegate=yes


@dataclass(frozen=True)
class Hierarchies:
    """A tier and, for each of its controllers, the box's own folder (not yet made)."""

    tier: Tier
    folders: dict[str, Path]


class _Mount(NamedTuple):
    root: str
    point: str
    kind: str
    options: frozenset[str]


def candidates(run: Path, *, proc: Path = Path("/proc/self")) -> Iterator[Hierarchies]:
    """The tiers that might work here, best first; the last, "rlimits", always does."""
    name = f"bento-{hashlib.sha256(os.fsencode(run.resolve())).hexdigest()[:12]}"
    try:
        mounts = tuple(_read_mounts(proc / "mountinfo"))
        own = dict(_read_own(proc / "cgroup"))
    except OSError:
        mounts, own = (), {}
    unified = _place(mounts, own, "")
    if unified is not None and enable_controllers(unified, name):
        yield Hierarchies("v2", dict.fromkeys(_subtree(unified), unified / name))
    found = {controller: _place(mounts, own, controller) for controller in _WANTED}
    folders = {controller: place / name for controller, place in found.items() if place and os.access(place, os.W_OK)}
    if all(controller in folders for controller in _NEEDED):
        yield Hierarchies("v1", folders)
    yield Hierarchies("rlimits", {})


def enable_controllers(own: Path, name: str) -> bool:
    """Whether cgroups made below `own` (version 2) have memory and pids; switches them on where that is delegated.

    A cgroup with processes can't have controllers below it: where the whole cgroup is delegated to this service, its
    processes move one level down.
    """
    if not os.access(own, os.W_OK) or not _offered(own).issuperset(_NEEDED):
        return False
    if _subtree(own).issuperset(_NEEDED):
        return True
    if not _switch_on(own) and _is_delegated(own):
        _move_down(own, own / f"{name}-box")
        _switch_on(own)
    return _subtree(own).issuperset(_NEEDED)


def _switch_on(own: Path) -> bool:
    wanted = " ".join(f"+{each}" for each in _WANTED if each in _offered(own))
    try:
        (own / "cgroup.subtree_control").write_text(wanted)
    except OSError as error:
        if error.errno in (errno.EBUSY, errno.EACCES, errno.EPERM, errno.EINVAL, errno.EROFS):
            return False
        raise
    return True


def _move_down(own: Path, leaf: Path) -> None:
    leaf.mkdir(exist_ok=True)
    for pid in (own / "cgroup.procs").read_text().split():
        try:
            (leaf / "cgroup.procs").write_text(pid)
        except ProcessLookupError:
            continue  # it ended meanwhile


def _is_delegated(own: Path) -> bool:
    for mark in _DELEGATION_MARKS:
        try:
            if os.getxattr(own, mark) == b"1":
                return True
        except OSError:
            continue
    return False


def _offered(own: Path) -> set[str]:
    return _words(own / "cgroup.controllers")


def _subtree(own: Path) -> set[str]:
    return _words(own / "cgroup.subtree_control") & set(_WANTED)


def _words(path: Path) -> set[str]:
    try:
        return set(path.read_text().split())
    except OSError:
        return set()


def _place(mounts: tuple[_Mount, ...], own: dict[str, str], controller: str) -> Path | None:
    """This process's own cgroup for a version 1 controller, or in version 2 for ""."""
    if controller not in own:
        return None
    for mount in mounts:
        fits = mount.kind == "cgroup" and controller in mount.options if controller else mount.kind == "cgroup2"
        inside = os.path.relpath(own[controller], mount.root)
        if fits and not inside.startswith(".."):
            return Path(mount.point) / inside
    return None


def _read_mounts(path: Path) -> Iterator[_Mount]:
    for line in path.read_text().splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        if kind in ("cgroup", "cgroup2"):
            _, _, _, root, point = before.split(" ")[:5]
            yield _Mount(root, point, kind, frozenset(options.split(",")))


def _read_own(path: Path) -> Iterator[tuple[str, str]]:
    for line in path.read_text().splitlines():
        _, controllers, inside = line.split(":", 2)
        for controller in controllers.split(","):
            yield controller, inside
