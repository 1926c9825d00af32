"""What a child does to itself before it waits for its first packet. Runs inside the image, in a fork of the zygote.

The order matters: cgroups first (all that follows is charged), mounts while it may still mount, users and capabilities
next, descriptors and the seccomp filter last.
"""

import os
import resource
import signal
from dataclasses import dataclass
from typing import Final

from bento.sandbox import syscalls

CONTROL_FD: Final = 3

_GUEST_UID = 1000
"""What an unprivileged box's instance sees itself as; outside it is the box's own uid."""

_OOM_SCORE = b"500"
"""When the whole machine is out of memory the kernel ends instances before it thinks of the relay."""

_UMASK = 0o077
_ZEROED = ("CORE", "MEMLOCK", "MSGQUEUE", "NICE", "RTPRIO")
"""No core dumps (they would be the function's memory on the relay's disk), no locked memory, no priorities."""

_MAX_PENDING_SIGNALS = 64  # queued real-time signals are kernel memory


@dataclass(frozen=True)
class Outfit:
    """What the reaper made for one child: descriptors, and the uid and gid to run under (-1: a user namespace)."""

    control: int
    storage: int
    procs: tuple[int, ...]
    uid: int


def confine(outfit: Outfit, filter_program: bytes, proc: int) -> None:
    """Give up everything but the control socket, /data and the read-only root. OSError names what failed.

    Args:
        proc: a descriptor of the reaper's /proc, closed with all others.
    """
    _reset_signals()
    for descriptor in outfit.procs:
        os.write(descriptor, b"0")
    _write_proc(proc, "oom_score_adj", _OOM_SCORE)
    _own_mounts(outfit.storage)
    _limit_resources()
    if outfit.uid < 0:
        _own_users(proc)
        syscalls.empty_bounding_set()
    else:
        syscalls.empty_bounding_set()
        os.setgroups([])
        os.setresgid(outfit.uid, outfit.uid, outfit.uid)
        os.setresuid(outfit.uid, outfit.uid, outfit.uid)
    syscalls.drop_capabilities()
    _keep_control_only(outfit.control)
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
    syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
    syscalls.load_filter(filter_program)


def _reset_signals() -> None:
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])


def _own_mounts(storage: int) -> None:
    syscalls.unshare(syscalls.NEW_NS | syscalls.NEW_IPC | syscalls.NEW_UTS)
    syscalls.attach_mount(storage, "/data")
    os.chdir("/data")
    os.umask(_UMASK)


def _limit_resources() -> None:
    for name in _ZEROED:
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (0, 0))
    resource.setrlimit(resource.RLIMIT_SIGPENDING, (_MAX_PENDING_SIGNALS, _MAX_PENDING_SIGNALS))


def _own_users(proc: int) -> None:
    """A user namespace that is empty but for this user: it owns nothing, and its threads are counted apart."""
    uid, gid = os.geteuid(), os.getegid()
    syscalls.unshare(syscalls.NEW_USER)
    _write_proc(proc, "setgroups", b"deny")
    _write_proc(proc, "uid_map", b"%d %d 1" % (_GUEST_UID, uid))
    _write_proc(proc, "gid_map", b"%d %d 1" % (_GUEST_UID, gid))


def _write_proc(proc: int, name: str, value: bytes) -> None:
    descriptor = os.open(f"self/{name}", os.O_WRONLY | os.O_CLOEXEC, dir_fd=proc)
    try:
        os.write(descriptor, value)
    finally:
        os.close(descriptor)


def _keep_control_only(control: int) -> None:
    null = os.open("/dev/null", os.O_RDWR)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor)
    os.dup2(control, CONTROL_FD)
    syscalls.close_from(CONTROL_FD + 1)
