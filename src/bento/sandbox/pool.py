"""The children that wait, confined, for a function."""

import math
import os
import signal
import socket
from collections import deque
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

from bento.sandbox import messages, syscalls
from bento.sandbox.cgroups import Cgroups
from bento.sandbox.generations import Generation, Generations, Plant
from bento.sandbox.limits import storage_options
from bento.sandbox.spec import SandboxConfig
from bento.sandbox.watch import Watch

_MAX_MAKING = 4
"""Children asked for at once: enough that the zygote never waits for the reaper."""

_QUIET_S = 0.03
"""After a hand-off no child is ordered for so long: a call takes a few ms, a child's making as many on another core,
and where there are two, they would be in each other's way. Twenty arrivals a second still find the pool full."""

_CONFINED_WITHIN_S = 10.0
"""A child confines itself in 2 ms; one that has not after this is stuck, or its zygote is."""

_STORAGE = syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV | syscalls.MOUNT_ATTR_NOEXEC

_PAUSE_S = 1.0
"""After an order that failed for want of something (descriptors, memory): instances end in the meantime."""


@dataclass
class Child:
    """One child, from the order to make it until it is buried."""

    slot: int
    control: socket.socket
    storage: int
    generation: Generation
    ordered_s: float
    oom_kills: int
    """What the slot's cgroup had counted before."""
    pid: int = 0


class Pool:
    """Keeps `pool_depth` children waiting as long as there are slots. The oldest go first."""

    def __init__(
        self, plant: Plant, cgroups: Cgroups, watch: Watch, notice: Callable[[str], None], *, is_root: bool
    ) -> None:
        self._config: Final[SandboxConfig] = plant.config
        self._cgroups, self._watch, self._notice = cgroups, watch, notice
        self._is_root = is_root
        self._generations = Generations(plant, watch, notice)
        self._free = deque(range(plant.config.slots))
        self._idle: deque[Child] = deque()
        self._making: dict[int, Child] = {}
        self._by_pid: dict[int, Child] = {}
        self._paused_until_s = 0.0
        self._quiet_until_s = 0.0

    @property
    def idle(self) -> int:
        return len(self._idle)

    @property
    def is_exhausted(self) -> bool:
        """No child waits, and none can be made until an instance ends."""
        return not (self._idle or self._making or self._free)

    def is_short(self, now_s: float) -> bool:
        """Whether another child can be ordered at once."""
        return self._has_room and now_s >= self._order_from_s

    def next_order_s(self) -> float:
        """When `is_short` may say so next, if nothing else happens until then."""
        return self._order_from_s if self._has_room else math.inf

    @property
    def _has_room(self) -> bool:
        count = self.idle + len(self._making)
        has_room = len(self._making) < _MAX_MAKING and count < self._config.pool_depth
        return has_room and self._generations.working is not None and bool(self._free)

    @property
    def _order_from_s(self) -> float:
        """A pool that is below its half is in a burst, which quiet would only starve."""
        is_low = 2 * (self.idle + len(self._making)) < self._config.pool_depth
        return self._paused_until_s if is_low else max(self._paused_until_s, self._quiet_until_s)

    def uid_of(self, slot: int) -> int:
        """The uid and gid of the child in this slot; -1 if it has a user namespace instead."""
        return self._config.uid_base + slot if self._is_root else -1

    def take(self, now_s: float) -> Child | None:
        """The child that has waited longest; it is the caller's until it is buried."""
        self._quiet_until_s = now_s + _QUIET_S
        return self._idle.popleft() if self._idle else None

    def tick(self, now_s: float) -> None:
        """Do what is due: a zygote, one more child, an end to what is stuck."""
        self._generations.tick(now_s, self._hear)
        self._end_stuck(now_s)
        generation = self._generations.working
        if generation is not None and self.is_short(now_s):
            try:
                self._order(generation, now_s)
            except OSError as error:
                self._notice(f"can't make a child: {error}")
                self._paused_until_s = now_s + _PAUSE_S

    def bury(self, pid: int, status: int, now_s: float) -> Child | None:
        """Note that a process ended. Returns the child if it was taken: the caller releases it."""
        child = self._by_pid.get(pid)
        if child is None:
            for generation in {each.generation.pid: each.generation for each in self._making.values()}.values():
                self._hear(generation)  # its report may still be on the way
            child = self._by_pid.get(pid)
        if child is None:
            self._generations.bury(pid, status, now_s)
            return None
        if child in self._idle or self._making.get(child.slot) is child:
            self._notice(f"a waiting child ended with status {status}")
            self.release(child)
            return None
        return child

    def release(self, child: Child) -> None:
        """Free everything that a dead child held."""
        self._by_pid.pop(child.pid, None)
        if self._making.get(child.slot) is child:
            del self._making[child.slot]
        if child in self._idle:
            self._idle.remove(child)
        self._watch.drop(child.control.fileno())
        child.control.close()
        os.close(child.storage)
        try:
            self._cgroups.free(child.slot)
        except OSError as error:
            self._notice(f"slot {child.slot} is lost: {error}")
        else:
            self._free.append(child.slot)

    def _order(self, generation: Generation, now_s: float) -> None:
        slot = self._free[0]
        uid = self.uid_of(slot)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, ExitStack() as undo:
            undo.callback(ours.close)
            storage = syscalls.make_tmpfs(self._storage_options(max(uid, 0)), _STORAGE)
            undo.callback(os.close, storage)
            procs = self._cgroups.join(slot)
            try:
                self._cgroups.limit(slot, self._config.waiting)
                messages.send(generation.channel, messages.Make(slot, uid), (theirs.fileno(), storage, *procs))
            finally:
                messages.close_all(procs)
            child = Child(slot, ours, storage, generation, now_s, self._cgroups.oom_kills(slot))
            undo.pop_all()
        self._free.popleft()
        generation.children += 1
        self._making[slot] = child
        self._watch.add(ours.fileno(), lambda: self._confined(child))

    def _storage_options(self, owner: int) -> dict[str, str]:
        return storage_options(self._config.waiting) | {"mode": "700", "uid": str(owner), "gid": str(owner)}

    def _hear(self, generation: Generation) -> None:
        """Read all that a zygote, and those that it forks, have to say."""
        while generation.channel.fileno() >= 0:
            try:
                packet, _ = messages.receive(generation.channel, messages.FROM_ZYGOTE)
            except BlockingIOError:
                return
            except ConnectionError:
                self._forget(generation)
                return
            if isinstance(packet, messages.Ready):
                self._generations.promote(generation)
            elif (child := self._making.get(packet.slot)) is not None:
                self._hear_of(child, packet)

    def _hear_of(self, child: Child, packet: messages.Born | messages.Stillborn | messages.Unconfined) -> None:
        if isinstance(packet, messages.Born):
            child.pid = packet.pid
            self._by_pid[packet.pid] = child
            return
        self._notice(f"a child could not be made: {packet.reason}")
        self._paused_until_s = child.ordered_s + _PAUSE_S
        if isinstance(packet, messages.Stillborn):
            self.release(child)

    def _forget(self, generation: Generation) -> None:
        """Nobody holds its channel: what was ordered and not born never will be."""
        self._generations.close(generation)
        for child in [each for each in self._making.values() if each.generation is generation and not each.pid]:
            self.release(child)

    def _confined(self, child: Child) -> None:
        """A child's control socket has something: that it is ready, or its end."""
        if not child.pid:
            self._hear(child.generation)
        if not child.pid or self._making.get(child.slot) is not child:
            return  # its birth is still to be reported, or was its end
        try:
            packet = child.control.recv(len(messages.READY_PACKET), socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        self._watch.drop(child.control.fileno())
        if packet == messages.READY_PACKET:
            del self._making[child.slot]
            self._idle.append(child)
        # else it is about to end, and is released when it is buried

    def _end_stuck(self, now_s: float) -> None:
        for child in self._making.values():
            if now_s - child.ordered_s < _CONFINED_WITHIN_S:
                return  # the first is the oldest
            if child.pid:
                os.kill(child.pid, signal.SIGKILL)
            else:
                self._generations.kill(child.generation)
