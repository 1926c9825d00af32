"""What the reaper leaves behind when it starts: users, mounts, processes, network, names, and its parent."""

import os
from pathlib import Path

from bento.errors import SandboxUnavailable
from bento.sandbox import syscalls

_NAMESPACES = syscalls.NEW_NS | syscalls.NEW_PID | syscalls.NEW_NET | syscalls.NEW_IPC | syscalls.NEW_UTS
_ID_COUNT = 2**32 - 1
_PROC_FLAGS = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC


def owns_uids(lowest: int, count: int) -> bool:
    """Whether this process is root over these uids: uid 0 of a namespace that maps only itself is not."""
    if os.geteuid() != 0:
        return False
    try:
        lines = Path("/proc/self/uid_map").read_text().splitlines()
    except OSError:
        return False
    ranges = [tuple(map(int, line.split())) for line in lines]
    return any(inside <= lowest and lowest + count <= min(inside + size, _ID_COUNT) for inside, _, size in ranges)


def enter_namespaces(*, is_root: bool) -> None:
    """Leave the machine's namespaces; the next child is pid 1 of the new ones.

    Raises: SandboxUnavailable where the kernel does not allow it.
    """
    uid, gid = os.geteuid(), os.getegid()
    try:
        syscalls.unshare(_NAMESPACES | (0 if is_root else syscalls.NEW_USER))
    except OSError as error:
        raise SandboxUnavailable(
            f"this user may not make namespaces: {error}",
            hint="run the box as root, or allow unprivileged user namespaces (kernel.unprivileged_userns_clone=1)",
        ) from None
    if not is_root:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
        Path("/proc/self/gid_map").write_text(f"0 {gid} 1")


def settle_as_first() -> None:
    """In pid 1 of the new namespaces: mounts of its own, and a /proc that shows only what it owns.

    Raises: SandboxUnavailable where the kernel does not allow it.
    """
    os.setsid()
    syscalls.mount("none", "/", "none", syscalls.MS_REC | syscalls.MS_PRIVATE)
    try:
        syscalls.mount("proc", "/proc", "proc", _PROC_FLAGS)
    except OSError as error:
        raise SandboxUnavailable(
            f"/proc can't be mounted: {error}",
            hint="in a container, run it with an unmasked /proc (docker: --security-opt systempaths=unconfined)",
        ) from None
    syscalls.set_host_name("bento")
