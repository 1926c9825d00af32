"""The living instances and the children that they are: handed their first session, renewed, ended, buried."""

import os
import signal
import socket
from pathlib import Path

from bento.sandbox import messages
from bento.sandbox.cgroups import Cgroups
from bento.sandbox.instances import Ending, Instance, Instances
from bento.sandbox.limits import apply_limits
from bento.sandbox.pool import Child, Pool
from bento.sandbox.spec import Limits, Tombstone

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Custody:
    """What the reaper answers for. Times are seconds on CLOCK_BOOTTIME."""

    def __init__(self, pool: Pool, cgroups: Cgroups, waiting: Limits) -> None:
        self.instances = Instances()
        self._waiting = waiting
        self._pool, self._cgroups = pool, cgroups
        self._children: dict[int, Child] = {}

    def start(self, start: messages.Start, connection: int, now_s: float) -> socket.socket | messages.Failed | None:
        """Hand a waiting child its limits and its first session.

        Returns: its control socket, or why there is none; None if no child waits now.
        """
        if self.instances.find(start.instance) is not None:
            return messages.Failed(start.request, "known", "this instance runs already")
        if self.instances.is_remembered(start.instance, now_s):
            return messages.Failed(start.request, "known", "this instance has ended, and its lease is not over")
        while (child := self._pool.take(now_s)) is not None:
            self._children[child.pid] = child
            try:
                self._apply(start, child)
            except OSError as error:
                os.kill(child.pid, signal.SIGKILL)
                return messages.Failed(start.request, "broken", f"a limit could not be set: {error}")
            if _hand_over(child.control, start.begin, connection):
                self._admit(start, child, now_s)
                return child.control
            os.kill(child.pid, signal.SIGKILL)
        return None

    def renew(self, name: bytes, lease_until_s: float) -> None:
        instance = self.instances.find(name)
        if instance is not None and instance.ending is None:
            self.instances.renew(instance, lease_until_s)

    def end(self, instance: Instance, ending: Ending) -> None:
        """Kill it; its tombstone follows when it is buried."""
        if instance.ending is None:
            instance.ending = ending
            os.kill(instance.pid, signal.SIGKILL)

    def end_due(self, now_s: float) -> None:
        """End what has outlived its lease or its time."""
        for instance, ending in self.instances.due(now_s):
            self.end(instance, ending)

    def measure(self, measure: messages.Measure) -> messages.Measured | messages.Failed:
        instance = self.instances.find(measure.instance)
        if instance is None:
            return messages.Failed(measure.request, "unknown", "no such instance")
        cpu_s = _cpu_used_s(instance.pid)
        return messages.Measured(measure.request, self._cgroups.memory_bytes(instance.slot), cpu_s)

    def bury(self, pid: int, status: int, cpu_s: float, now_s: float) -> Tombstone | None:
        """Free all that a dead child held. Returns the tombstone if it was an instance."""
        child = self._pool.bury(pid, status, now_s)
        if child is None:
            return None
        del self._children[pid]
        was_out_of_memory = self._cgroups.oom_kills(child.slot) > child.oom_kills
        self._pool.release(child)
        instance = self.instances.in_slot(child.slot)
        if instance is None:
            return None  # it ended before it was handed anything
        ending = instance.judge(status, cpu_s=cpu_s, was_out_of_memory=was_out_of_memory)
        return self.instances.bury(instance, ending, now_s)

    def control_of(self, instance: Instance) -> socket.socket:
        return self._children[instance.pid].control

    def _apply(self, start: messages.Start, child: Child) -> None:
        apply_limits(
            start.limits,
            self._waiting,
            pid=child.pid,
            uid=self._pool.uid_of(child.slot),
            storage=child.storage,
            cgroups=self._cgroups,
            slot=child.slot,
        )

    def _admit(self, start: messages.Start, child: Child, now_s: float) -> None:
        self.instances.add(
            Instance(
                name=start.instance,
                slot=child.slot,
                pid=child.pid,
                limits=start.limits,
                record=start.record,
                started_s=now_s,
                lease_until_s=now_s + start.lease_s,
                wall_s=start.wall_s,
            )
        )


def _hand_over(control: socket.socket, begin: bytes, connection: int) -> bool:
    """Give the child its first packet; False if it has died meanwhile."""
    try:
        messages.send_packet(control, begin, (connection,))
    except OSError:
        return False
    return True


def _cpu_used_s(pid: int) -> float:
    """Of all its threads, so far."""
    after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    user, system = after_name[11:13]
    return (int(user) + int(system)) / _TICKS_PER_S
