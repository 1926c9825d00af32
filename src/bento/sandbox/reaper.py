"""The reaper's start: `python -m bento.sandbox.reaper`, with a SandboxConfig on stdin and a report on stdout.

It leaves the machine's namespaces, forks once so that it is pid 1 of its own and nobody's child to wait for, builds
the functions' root, and serves `RUN/reaper.sock` until it is told to stop.
"""

import fcntl
import os
import resource
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Final

import msgspec

from bento.errors import BentoError, SandboxUnavailable
from bento.sandbox import syscalls
from bento.sandbox.cgroups import Cgroups
from bento.sandbox.custody import Custody
from bento.sandbox.generations import Plant
from bento.sandbox.hierarchies import candidates
from bento.sandbox.loop import Loop
from bento.sandbox.namespaces import enter_namespaces, owns_uids, settle_as_first
from bento.sandbox.pool import Pool
from bento.sandbox.root import fill_root, mount_root
from bento.sandbox.seccomp import build_filter, verify_seccomp
from bento.sandbox.spec import Image, SandboxConfig
from bento.sandbox.watch import Watch

SOCKET_NAME: Final = "reaper.sock"
LOCK_NAME: Final = "reaper.lock"
_ROOT_NAME = "root"
_FOLDER = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC

_BACKLOG = 4
_DESCRIPTORS_PER_CHILD = 2  # control socket and storage
_SPARE_DESCRIPTORS = 128  # zygotes, starts that wait, those on their way


class Report(msgspec.Struct, frozen=True):
    """What the reaper says about its start: "" or why it failed."""

    error: str = ""
    hint: str = ""
    tier: str = ""


def main() -> None:
    """Start, report, and serve until told to stop."""
    config = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=SandboxConfig)
    starter = _leave_starter()
    try:
        _run(config, starter)
    except (BentoError, OSError) as error:
        _report(starter, Report(str(error), getattr(error, "hint", "")))
        sys.exit(1)


def _run(config: SandboxConfig, starter: int) -> None:
    filter_program = build_filter()
    verify_seccomp(filter_program)
    _allow_descriptors(config.slots * _DESCRIPTORS_PER_CHILD + _SPARE_DESCRIPTORS)
    is_root = owns_uids(config.uid_base, config.slots)
    os.chdir(config.run)
    _take_lock()
    cgroups = _open_cgroups(config)
    try:
        enter_namespaces(is_root=is_root)
    except SandboxUnavailable:
        _leave_nothing(cgroups)
        raise
    if os.fork():
        os._exit(0)
    try:
        settle_as_first()
        with _mounted_root(config.image) as root:
            plant = Plant(config, root, os.open("/proc", _FOLDER), filter_program)
            loop = _plan(plant, cgroups, is_root=is_root)
            loop.prove()
            loop.listen(_listen())
            _report(starter, Report(tier=cgroups.tier))
            loop.run()
    finally:
        _end_all(cgroups)


@contextmanager
def _mounted_root(image: Image) -> Iterator[int]:
    """Build the functions' root on a folder in the run folder; only this mount namespace sees what is on it."""
    Path(_ROOT_NAME).mkdir(mode=0o700, exist_ok=True)
    run, mount_point = os.open(".", _FOLDER), os.open(_ROOT_NAME, _FOLDER | os.O_NOFOLLOW)
    root = mount_root(image, mount_point)
    os.close(mount_point)
    try:
        try:
            fill_root(image, root)
        finally:
            os.fchdir(run)
            os.close(run)
        yield root
    finally:
        with suppress(OSError):  # somebody renamed it: it ends with this namespace
            syscalls.detach_mount(_ROOT_NAME)


def _plan(plant: Plant, cgroups: Cgroups, *, is_root: bool) -> Loop:
    watch = Watch()
    pool = Pool(plant, cgroups, watch, lambda text: loop.notice(text), is_root=is_root)  # noqa: PLW0108 (made below)
    loop = Loop(plant.config, pool, Custody(pool, cgroups, plant.config.waiting), watch, cgroups.tier)
    _catch_signals(loop, watch)
    return loop


def _take_lock() -> None:
    """Lock the run folder for as long as this process, or its child, lives."""
    lock = os.open(LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise SandboxUnavailable("a reaper runs already for this run folder") from None


def _allow_descriptors(wanted: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        raise SandboxUnavailable(
            f"{wanted} open files are needed for this many instances, the limit is {hard}",
            hint="raise it (LimitNOFILE= in the service, ulimit -n), or allow fewer instances",
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))


def _open_cgroups(config: SandboxConfig) -> Cgroups:
    """The best tier that works, tried on one cgroup."""
    for hierarchies in candidates(Path(config.run)):
        cgroups = Cgroups(hierarchies, cpu_cores=config.cpu_cores, cpu_shares=config.cpu_shares)
        cgroups.remove()
        try:
            cgroups.make_parent()
            for descriptor in cgroups.join(0):
                os.close(descriptor)
            cgroups.limit(0, config.waiting)
            cgroups.free(0)
        except OSError:
            cgroups.remove()
        else:
            return cgroups
    raise SandboxUnavailable("no tier of limits works")


def _listen() -> socket.socket:
    """Whoever may enter the run folder may connect; the loop asks the kernel who it is, and says no."""
    Path(SOCKET_NAME).unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
    os.umask(0o111)
    listener.bind(SOCKET_NAME)  # relative: the run folder may be deeper than a socket's name may be long
    os.umask(0o077)
    listener.listen(_BACKLOG)
    return listener


def _catch_signals(loop: Loop, watch: Watch) -> None:
    """A signal wakes the loop; pid 1 of a namespace hears only those that it asks for."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        loop.stop()

    reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    watch.add(reading, lambda: _drain(reading))


def _drain(pipe: int) -> None:
    with suppress(BlockingIOError):
        os.read(pipe, 4096)


def _leave_starter() -> int:
    """Let go of stdin and stdout. Returns the descriptor for the report, whose end the starter waits for."""
    starter = os.dup(1)
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for descriptor in (0, 1):
        os.dup2(null, descriptor)
    os.close(null)
    return starter


def _report(starter: int, report: Report) -> None:
    """Say how the start went, once; what fails later is in the log."""
    try:
        os.write(starter, msgspec.json.encode(report))
        os.close(starter)
    except OSError:
        os.write(2, f"bento: reaper: {report.error}\n".encode())


def _end_all(cgroups: Cgroups) -> None:
    """End every process of the namespace, and leave nothing."""
    assert os.getpid() == 1
    signal.set_wakeup_fd(-1)
    with suppress(ProcessLookupError, ChildProcessError):
        os.kill(-1, signal.SIGKILL)
        while True:
            os.wait()
    _leave_nothing(cgroups)


def _leave_nothing(cgroups: Cgroups) -> None:
    """Remove what outlives processes."""
    cgroups.remove()
    with suppress(OSError):  # where the start failed before it was made
        Path(_ROOT_NAME).rmdir()
    for name in (SOCKET_NAME, LOCK_NAME):  # the lock last: whoever sees it gone may remove the folder
        Path(name).unlink(missing_ok=True)


if __name__ == "__main__":
    main()
