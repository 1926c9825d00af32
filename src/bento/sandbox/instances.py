"""Who runs, until when, and what ended them. Pure: times are seconds on CLOCK_BOOTTIME, given by the caller.

>>> instances = Instances()
>>> limits = Limits(memory_bytes=1, cpu_s=1, storage_bytes=1)
>>> instances.add(Instance(b"a", 0, 7, limits, record=b"", started_s=0, lease_until_s=60, wall_s=90))
>>> instances.next_due_s(), [(each.name, ending.cause) for each, ending in instances.due(61)]
(60, [(b'a', 'lease')])
"""

import heapq
import math
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from bento.config import EXIT_OUT_OF_MEMORY
from bento.sandbox.spec import Cause, Limits, Tombstone

MAX_TOMBSTONES: Final = 4096
"""The newest are kept: an hour of one ended instance a second, in under 1 MiB."""

MIN_TOMBSTONE_S: Final = 60
"""Also one whose lease is over is remembered this long: its client asks within a round trip or two of the break."""

_CPU_SLACK_S = 0.5
"""The kernel kills on a whole second of CPU time that it samples at each tick."""


@dataclass(frozen=True)
class Ending:
    """Why an instance is being ended, decided before it dies."""

    cause: Cause
    rule: str = ""
    limit: float = 0
    asked: float = 0


@dataclass
class Instance:
    name: bytes
    slot: int
    pid: int
    limits: Limits
    record: bytes
    started_s: float
    lease_until_s: float
    wall_s: float
    """0: no end but the lease's."""
    ending: Ending | None = None

    @property
    def due_s(self) -> float:
        """When its lease or its wall time ends it."""
        return min(self.lease_until_s, self.started_s + self.wall_s) if self.wall_s else self.lease_until_s

    def overdue(self, now_s: float) -> Ending:
        if self.wall_s and now_s >= self.started_s + self.wall_s:
            return Ending("limit", "wall_s", self.wall_s, now_s - self.started_s)
        return Ending("lease")

    def judge(self, status: int, *, cpu_s: float, was_out_of_memory: bool) -> Ending:
        """What ended it, from its exit status (negative: the signal) and what it had used."""
        if self.ending is not None:
            return self.ending
        was_killed = status == -signal.SIGKILL
        if status == EXIT_OUT_OF_MEMORY or (was_killed and was_out_of_memory):
            return Ending("limit", "memory_bytes", self.limits.memory_bytes, self.limits.memory_bytes)
        if was_killed and cpu_s >= math.ceil(self.limits.cpu_s) - _CPU_SLACK_S:
            return Ending("limit", "cpu_s", self.limits.cpu_s, cpu_s)
        return Ending("exit" if status == 0 else "crash")


class Instances:
    """The living by name and by slot, and the tombstones of the dead."""

    def __init__(self) -> None:
        self._by_name: dict[bytes, Instance] = {}
        self._by_slot: dict[int, Instance] = {}
        self._due_s: dict[bytes, float] = {}
        self._deadlines: list[tuple[float, bytes]] = []
        """A heap of what `_due_s` says or once said; entries that it no longer says are stale."""
        self._tombstones: dict[bytes, Tombstone] = {}

    def __len__(self) -> int:
        return len(self._by_name)

    def __iter__(self) -> Iterator[Instance]:
        return iter(self._by_name.values())

    def find(self, name: bytes) -> Instance | None:
        return self._by_name.get(name)

    def in_slot(self, slot: int) -> Instance | None:
        return self._by_slot.get(slot)

    def add(self, instance: Instance) -> None:
        self._by_name[instance.name] = self._by_slot[instance.slot] = instance
        self._tombstones.pop(instance.name, None)
        self._wake(instance)

    def renew(self, instance: Instance, lease_until_s: float) -> None:
        instance.lease_until_s = lease_until_s
        if instance.due_s < self._due_s.get(instance.name, -math.inf):
            self._wake(instance)

    def next_due_s(self) -> float | None:
        """When to call `due` next; never too late, sometimes too early."""
        return self._deadlines[0][0] if self._deadlines else None

    def due(self, now_s: float) -> list[tuple[Instance, Ending]]:
        """The instances whose time is up, each once, with the reason."""
        found = []
        while self._deadlines and self._deadlines[0][0] <= now_s:
            due_s, name = heapq.heappop(self._deadlines)
            if self._due_s.get(name) != due_s:
                continue  # stale
            del self._due_s[name]
            instance = self._by_name[name]
            if instance.due_s > now_s:
                self._wake(instance)
            elif instance.ending is None:
                found.append((instance, instance.overdue(now_s)))
        return found

    def bury(self, instance: Instance, ending: Ending, now_s: float) -> Tombstone:
        """Forget the instance; the tombstone stays until its lease would have ended, or a little longer."""
        del self._by_name[instance.name], self._by_slot[instance.slot]
        self._due_s.pop(instance.name, None)
        until_s = max(instance.lease_until_s, now_s + MIN_TOMBSTONE_S)
        tombstone = Tombstone(instance.name, ending.cause, ending.rule, ending.limit, ending.asked, until_s)
        self._tombstones[instance.name] = tombstone
        while len(self._tombstones) > MAX_TOMBSTONES:
            del self._tombstones[next(iter(self._tombstones))]
        return tombstone

    def tombstones(self, now_s: float) -> tuple[Tombstone, ...]:
        """Those that are still to be remembered."""
        for name in [name for name in self._tombstones if not self.is_remembered(name, now_s)]:
            del self._tombstones[name]
        return tuple(self._tombstones.values())

    def is_remembered(self, name: bytes, now_s: float) -> bool:
        """Whether an instance of this name has ended, and its tombstone stays."""
        tombstone = self._tombstones.get(name)
        return tombstone is not None and tombstone.until_s > now_s

    def _wake(self, instance: Instance) -> None:
        """Have `due` look at it when it is due; stale entries are swept out when they are half of all."""
        self._due_s[instance.name] = instance.due_s
        heapq.heappush(self._deadlines, (instance.due_s, instance.name))
        if len(self._deadlines) > 2 * len(self._due_s):
            self._deadlines = [(due_s, name) for name, due_s in self._due_s.items()]
            heapq.heapify(self._deadlines)
