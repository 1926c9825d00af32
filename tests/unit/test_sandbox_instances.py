"""Deadlines, verdicts and tombstones, with a clock of the test's own."""

import signal

import pytest

from bento.config import EXIT_OUT_OF_MEMORY
from bento.sandbox.instances import MAX_TOMBSTONES, MIN_TOMBSTONE_S, Ending, Instance, Instances
from bento.sandbox.spec import Limits

LIMITS = Limits(memory_bytes=1000, cpu_s=1.5, storage_bytes=10)
LONG_S = 3600


def instance(name: bytes = b"a", *, lease_until_s: float = LONG_S, wall_s: float = 0, slot: int = 0) -> Instance:
    return Instance(name, slot, 7, LIMITS, b"", started_s=100, lease_until_s=lease_until_s, wall_s=wall_s)


def test_a_lease_ends_an_instance_once() -> None:
    instances = Instances()
    held = instance(lease_until_s=160)
    instances.add(held)
    assert instances.due(159) == []
    assert instances.due(160) == [(held, Ending("lease"))]
    assert instances.due(161) == []


def test_a_renewal_moves_the_end_both_ways() -> None:
    instances = Instances()
    held = instance(lease_until_s=160)
    instances.add(held)
    instances.renew(held, 200)
    assert instances.due(160) == []
    instances.renew(held, 170)
    assert instances.next_due_s() == 170
    assert instances.due(170) == [(held, Ending("lease"))]


def test_renewals_ever_shorter_pile_nothing_up() -> None:
    instances = Instances()
    held = instance()
    instances.add(held)
    for lease_until_s in range(LONG_S - 1, 160, -1):
        instances.renew(held, lease_until_s)
    assert len(instances._deadlines) <= 2
    assert instances.next_due_s() == 161
    assert instances.due(LONG_S) == [(held, Ending("lease"))]


def test_the_dead_leave_no_deadlines() -> None:
    instances = Instances()
    for number in range(1000):
        held = instance(b"%d" % number)
        instances.add(held)
        instances.bury(held, Ending("exit"), 110)
    assert len(instances._deadlines) <= 2


def test_wall_time_ends_a_renewed_instance() -> None:
    instances = Instances()
    held = instance(wall_s=50, lease_until_s=130)
    instances.add(held)
    instances.renew(held, LONG_S)
    assert instances.due(149) == []
    assert instances.due(151) == [(held, Ending("limit", "wall_s", 50, 51))]


def test_what_is_being_ended_is_not_ended_twice() -> None:
    instances = Instances()
    held = instance(lease_until_s=160)
    instances.add(held)
    held.ending = Ending("shutdown")
    assert instances.due(200) == []


@pytest.mark.parametrize(
    ("status", "cpu_s", "was_out_of_memory", "expected"),
    [
        (0, 0, False, Ending("exit")),
        (3, 0, False, Ending("crash")),
        (-signal.SIGSEGV, 0, False, Ending("crash")),
        (-signal.SIGKILL, 0, False, Ending("crash")),
        (-signal.SIGKILL, 0, True, Ending("limit", "memory_bytes", 1000, 1000)),
        (EXIT_OUT_OF_MEMORY, 0, False, Ending("limit", "memory_bytes", 1000, 1000)),
        (-signal.SIGKILL, 2.01, False, Ending("limit", "cpu_s", 1.5, 2.01)),
        (-signal.SIGKILL, 1.0, False, Ending("crash")),
        (0, 2.01, True, Ending("exit")),
    ],
)
def test_the_end_is_judged_by_its_marks(status: int, cpu_s: float, was_out_of_memory: bool, expected: Ending) -> None:
    assert instance().judge(status, cpu_s=cpu_s, was_out_of_memory=was_out_of_memory) == expected


def test_an_ordered_end_is_never_judged_otherwise() -> None:
    held = instance()
    held.ending = Ending("lease")
    assert held.judge(-signal.SIGKILL, cpu_s=9, was_out_of_memory=True) == Ending("lease")


def test_a_tombstone_stays_until_the_lease_would_have_ended() -> None:
    instances = Instances()
    held = instance(lease_until_s=500)
    instances.add(held)
    instances.bury(held, Ending("crash"), 110)
    assert (len(instances), instances.find(b"a"), instances.in_slot(0)) == (0, None, None)
    assert [each.cause for each in instances.tombstones(499)] == ["crash"]
    assert instances.tombstones(500) == ()


def test_a_tombstone_outlasts_the_lease_that_ended_it() -> None:
    instances = Instances()
    held = instance(lease_until_s=160)
    instances.add(held)
    instances.bury(held, Ending("lease"), 160)
    assert len(instances.tombstones(160 + MIN_TOMBSTONE_S - 1)) == 1
    assert instances.tombstones(160 + MIN_TOMBSTONE_S) == ()


def test_what_has_ended_is_remembered_as_long_as_its_tombstone() -> None:
    instances = Instances()
    held = instance(lease_until_s=500)
    instances.add(held)
    assert not instances.is_remembered(b"a", 110)
    instances.bury(held, Ending("crash"), 110)
    assert instances.is_remembered(b"a", 499)
    assert not instances.is_remembered(b"a", 500)


def test_the_oldest_tombstones_go_first() -> None:
    instances = Instances()
    for number in range(MAX_TOMBSTONES + 5):
        held = instance(b"%d" % number, slot=number)
        instances.add(held)
        instances.bury(held, Ending("exit"), 110)
    names = [each.instance for each in instances.tombstones(111)]
    assert len(names) == MAX_TOMBSTONES
    assert names[0] == b"5"
