"""The namespaces a private network lives in: pid, mount and network, and a user namespace where there is no root.

    enter_pid_namespace()         the janitor: its next child is pid 1 of a new pid namespace
    enter_network(resolv_conf)    that child: its own mounts, /proc, resolv.conf and loopback
    inside(pid, argv)             a command line that runs `argv` in a network that is up

Root means that the user namespace maps other users too: euid 0 with one mapped uid can neither change users nor make
cgroups, and takes the rootless way.
"""

import ctypes
import errno
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bento.errors import NetworkDown

_NEWNS: Final = 0x0002_0000
_NEWUSER: Final = 0x1000_0000
_NEWPID: Final = 0x2000_0000
_NEWNET: Final = 0x4000_0000
_MS_NOSUID_NODEV_NOEXEC: Final = 0x2 | 0x4 | 0x8
_MS_BIND: Final = 0x1000
_MS_REC: Final = 0x4000
_MS_PRIVATE: Final = 0x4_0000

PUBLIC_RANGE: Final = "44.0.0.0/6"
"""Every address of the network, 44.0.0.0 to 47.255.255.255: public to tor, so that its safeguards against internal
addresses stay on; one local route makes all of them usable without a list."""

# quickack: without it a delayed ACK of 40 ms meets Nagle's algorithm between two tors on one machine.
_IP_COMMANDS: Final = f"""\
link set lo up
route replace local {PUBLIC_RANGE} dev lo table local quickack 1
route replace local 127.0.0.0/8 dev lo table local src 127.0.0.1 quickack 1
route del local 127.0.0.1 dev lo table local
"""

_libc = ctypes.CDLL(None, use_errno=True)


def is_root() -> bool:
    """Whether this process may act as other users: euid 0, and more uids than its own are mapped."""
    mapped = (line.split() for line in Path("/proc/self/uid_map").read_text().splitlines())
    return os.geteuid() == 0 and sum(int(count) for _, _, count in mapped) > 1


def enter_pid_namespace() -> None:
    """Make the next child pid 1 of a new pid namespace; without root, inside a new user namespace.

    Raises: NetworkDown where the system forbids it.
    """
    if is_root():
        _unshare(_NEWPID)
        return
    uid, gid = os.geteuid(), os.getegid()
    _unshare(_NEWUSER | _NEWPID)
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
    Path("/proc/self/gid_map").write_text(f"0 {gid} 1")


def enter_network(resolv_conf: Path) -> None:
    """Give this process, pid 1 of its namespace, mounts and a network of its own.

    Args:
        resolv_conf: what the network's programs see as /etc/resolv.conf.
    Raises: NetworkDown where the system forbids it, or `ip` is missing.
    """
    _unshare(_NEWNS | _NEWNET)
    _mount(None, Path("/"), None, _MS_REC | _MS_PRIVATE)
    _mount("proc", Path("/proc"), "proc", _MS_NOSUID_NODEV_NOEXEC)
    target = Path("/etc/resolv.conf").resolve()
    # Where there is none, libc and tor ask 127.0.0.1, where the network's DNS listens too.
    if target.exists():
        bind(resolv_conf, target)
    try:
        done = subprocess.run(["ip", "-batch", "-"], input=_IP_COMMANDS, text=True, capture_output=True, timeout=10)
    except FileNotFoundError:
        raise NetworkDown("the program ip is missing", hint="install it with: apt install iproute2") from None
    if done.returncode:
        raise NetworkDown(f"ip could not set up the network's loopback: {done.stderr.strip()}", hint=_FORBIDDEN_HINT)


def bind(source: Path, target: Path) -> None:
    """Show `source` at the existing path `target`, for this mount namespace only."""
    _mount(str(source), target, None, _MS_BIND)


def inside(supervisor_pid: int, argv: Sequence[str], folder: Path) -> list[str]:
    """The command line that runs `argv` inside the network.

    Args:
        supervisor_pid: the host's pid of the network's supervisor.
        folder: working directory; if the network does not see it, the command starts in /.
    """
    user = [] if is_root() else ["--user", "--preserve-credentials"]
    enter = ["nsenter", "--target", str(supervisor_pid), *user, "--mount", "--net", "--pid", "--wd=/"]
    return [*enter, "--", "sh", "-c", 'cd -- "$0" 2>/dev/null; exec "$@"', str(folder), *argv]


_FORBIDDEN_HINT = (
    "run as root, or allow user namespaces: sysctl kernel.unprivileged_userns_clone=1 user.max_user_namespaces=10000"
    " kernel.apparmor_restrict_unprivileged_userns=0"
)


def _unshare(flags: int) -> None:
    if _libc.unshare(flags):
        raise NetworkDown(f"this system forbids new namespaces: {_last_error()}", hint=_FORBIDDEN_HINT)


def _mount(source: str | None, target: Path, kind: str | None, flags: int) -> None:
    words = (None if word is None else os.fsencode(word) for word in (source, str(target), kind))
    if _libc.mount(*words, ctypes.c_ulong(flags), None):
        raise NetworkDown(f"this system forbids mounting on {target}: {_last_error()}", hint=_FORBIDDEN_HINT)


def _last_error() -> str:
    number = ctypes.get_errno()
    return f"{os.strerror(number)} ({errno.errorcode.get(number, number)})"
