"""Zygotes, one after the other: each exec'd afresh, so that hash seed and address layout differ between them."""

import fcntl
import os
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, NoReturn

from bento.sandbox import messages, syscalls
from bento.sandbox.root import enter_root
from bento.sandbox.spec import Image, SandboxConfig
from bento.sandbox.watch import Watch
from bento.sandbox.zygote import CHANNEL_FD, PROC_FD

_ENVIRONMENT = {
    "HOME": "/data",
    "LANG": "C.UTF-8",
    "MALLOC_ARENA_MAX": "1",  # one heap for all threads: an idle thread costs its stack alone
    "PATH": "/usr/bin",
    "TMPDIR": "/data",
}
_START = "import sys; sys.path.append(sys.argv[1]); from bento.sandbox.zygote import main; main()"
_FREE_FD = 10  # above every number that the zygote is given
_EXEC_FAILED = 127


_FIRST_PAUSE_S, _LAST_PAUSE_S = 0.1, 10.0
"""Between two zygotes that died: doubled each time, so that a broken image costs no more than a start each 10 s."""

_READY_WITHIN_S = 30.0
"""A zygote imports for half a second; where it takes longer than this, another try can't be worse."""


@dataclass(frozen=True)
class Plant:
    """What zygotes are made from: descriptors of the image's mounted root and of the reaper's /proc, the filter."""

    config: SandboxConfig
    root: int
    proc: int
    filter_program: bytes


@dataclass
class Generation:
    """One zygote."""

    pid: int
    channel: socket.socket
    started_s: float
    children: int = 0
    is_ready: bool = False
    is_retired: bool = False


class Generations:
    """At most one zygote that makes children, and one that gets ready to replace it."""

    def __init__(self, plant: Plant, watch: Watch, notice: Callable[[str], None]) -> None:
        self._plant: Final = plant
        self._watch, self._notice = watch, notice
        self._living: dict[int, Generation] = {}
        self._working: Generation | None = None
        self._coming: Generation | None = None
        self._pause_s, self._next_try_s = _FIRST_PAUSE_S, 0.0

    @property
    def working(self) -> Generation | None:
        """The zygote to ask for children."""
        return self._working

    def tick(self, now_s: float, on_packet: Callable[[Generation], None]) -> None:
        """Start a zygote if one is due; `on_packet` is called when it has something to say."""
        if self._coming is not None:
            if now_s - self._coming.started_s > _READY_WITHIN_S:
                self.kill(self._coming)
        elif now_s >= self._next_try_s and (self._working is None or self._is_spent(self._working, now_s)):
            try:
                generation = start_generation(self._plant, now_s)
            except OSError as error:
                self._try_later(f"a zygote can't be started: {error}", now_s)
                return
            self._coming = self._living[generation.pid] = generation
            self._watch.add(generation.channel.fileno(), lambda: on_packet(generation))

    def promote(self, generation: Generation) -> None:
        """It is ready: it makes the children from now on, and the one before it ends when it has made its last."""
        generation.is_ready = True
        if self._working is not None:
            self.retire(self._working)
        self._working, self._coming = generation, None
        self._pause_s = _FIRST_PAUSE_S

    def retire(self, generation: Generation) -> None:
        """Let it end by itself: it reads the end of the stream when it has done what it was asked."""
        generation.is_retired = True
        generation.channel.shutdown(socket.SHUT_WR)

    def close(self, generation: Generation) -> None:
        """Nobody holds the other end of its channel any more."""
        self._watch.drop(generation.channel.fileno())
        generation.channel.close()

    def bury(self, pid: int, status: int, now_s: float) -> bool:
        """Note that a process ended; whether it was a zygote."""
        dead = self._living.pop(pid, None)
        if dead is None:
            return False
        if dead.is_retired:
            return True
        if dead is self._working:
            self._working = None
        else:
            self._coming = None
        self._try_later(f"a zygote ended with status {status}", now_s)
        return True

    def kill(self, generation: Generation) -> None:
        """End a zygote that is stuck."""
        if generation.pid in self._living:
            os.kill(generation.pid, signal.SIGKILL)

    def _try_later(self, reason: str, now_s: float) -> None:
        self._notice(f"{reason}; the next starts in {self._pause_s:g} s")
        self._next_try_s = now_s + self._pause_s
        self._pause_s = min(2 * self._pause_s, _LAST_PAUSE_S)

    def _is_spent(self, generation: Generation, now_s: float) -> bool:
        config = self._plant.config
        age_s = now_s - generation.started_s
        return generation.children >= config.generation_children or age_s >= config.generation_s


def start_generation(plant: Plant, now_s: float) -> Generation:
    """Start a zygote; it says Ready when it has imported what functions share. OSError if it can't be started."""
    image = plant.config.image
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        pid = os.fork()
        if pid == 0:
            _become_zygote(image, plant, theirs.fileno())
    messages.send(ours, messages.Prepare(plant.filter_program, image.preload, image.entry, image.rehearsal))
    return Generation(pid, ours, now_s)


def _become_zygote(image: Image, plant: Plant, channel: int) -> NoReturn:
    try:
        enter_root(plant.root)
        high = [fcntl.fcntl(each, fcntl.F_DUPFD, _FREE_FD) for each in (channel, plant.proc)]
        for descriptor, number in zip(high, (CHANNEL_FD, PROC_FD), strict=True):
            os.dup2(descriptor, number)
        syscalls.close_from(PROC_FD + 1)
        os.execve(image.python, [image.python, "-I", "-S", "-c", _START, image.path], _ENVIRONMENT)  # noqa: S606
    finally:
        os._exit(_EXEC_FAILED)
