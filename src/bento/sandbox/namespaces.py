"""What the reaper leaves behind when it starts: users, mounts, processes, network, names, and its parent."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bento.errors import SandboxUnavailable
from bento.sandbox import syscalls

_NAMESPACES = syscalls.NEW_NS | syscalls.NEW_PID | syscalls.NEW_NET | syscalls.NEW_IPC | syscalls.NEW_UTS
_ID_COUNT = 2**32 - 1
_NAMESPACES_HINT = (
    "run the box as root, or allow unprivileged user namespaces "
    "(kernel.unprivileged_userns_clone=1, kernel.apparmor_restrict_unprivileged_userns=0)"
)
_PROC_HINT = "in a container, run it with an unmasked /proc (docker: --security-opt systempaths=unconfined)"
_PROC_FLAGS = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC


def owns_uids(lowest: int, count: int) -> bool:
    """Whether this process is root over these uids: uid 0 of a namespace that maps only itself is not."""
    try:
        return os.geteuid() == 0 and is_mapped(Path("/proc/self/uid_map").read_text(), lowest, count)
    except OSError:
        return False


def is_mapped(uid_map: str, lowest: int, count: int) -> bool:
    """Whether a user namespace's map has these uids, all in one range.

    >>> is_mapped("0 0 4294967295", 2_000_000_000, 128), is_mapped("0 1000 1", 2_000_000_000, 128)
    (True, False)
    """
    ranges = [tuple(map(int, line.split())) for line in uid_map.splitlines()]
    return any(inside <= lowest and lowest + count <= min(inside + size, _ID_COUNT) for inside, _, size in ranges)


def enter_namespaces(*, is_root: bool) -> None:
    """Leave the machine's namespaces; the next child is pid 1 of the new ones.

    Raises: SandboxUnavailable where the kernel does not allow it.
    """
    uid, gid = os.geteuid(), os.getegid()
    with _explained("this user may not make namespaces", _NAMESPACES_HINT):
        syscalls.unshare(_NAMESPACES | (0 if is_root else syscalls.NEW_USER))
        if not is_root:
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
            Path("/proc/self/gid_map").write_text(f"0 {gid} 1")


def settle_as_first() -> None:
    """In pid 1 of the new namespaces: mounts of its own, and a /proc that shows only what it owns.

    Raises: SandboxUnavailable where the kernel does not allow it.
    """
    os.setsid()
    with _explained("nothing may be mounted here", _NAMESPACES_HINT):
        syscalls.mount("none", "/", "none", syscalls.MS_REC | syscalls.MS_PRIVATE)
    with _explained("/proc can't be mounted", _PROC_HINT):
        syscalls.mount("proc", "/proc", "proc", _PROC_FLAGS)
    syscalls.set_host_name("bento")


@contextmanager
def _explained(fact: str, hint: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SandboxUnavailable(f"{fact}: {error}", hint=hint) from None
