"""When the pool orders another child, with a clock of the test's own and children that are none."""

import math
import socket
from collections.abc import Iterator
from contextlib import closing
from typing import Any, cast

import pytest

from bento.sandbox.cgroups import Cgroups
from bento.sandbox.generations import Generation, Plant
from bento.sandbox.pool import _QUIET_S, Child, Pool
from bento.sandbox.spec import Image, SandboxConfig
from bento.sandbox.watch import Watch

DEPTH = 8
IMAGE = Image("none", (), (), (), python="", path="", preload=(), entry="")


@pytest.fixture
def pool() -> Iterator[Pool]:
    """A full pool with a zygote at work."""
    config = SandboxConfig(run="", image=IMAGE, unavailable_packet=b"", pool_depth=DEPTH)
    plant = Plant(config, root=-1, proc=-1, filter_program=b"")
    found = Pool(plant, cast("Cgroups", None), Watch(), cast("Any", None), is_root=True)
    with closing(socket.socket()) as channel:
        generation = Generation(0, channel, 0)
        found._generations.promote(generation)
        found._idle.extend(Child(slot, channel, -1, generation, 0, 0) for slot in range(DEPTH))
        yield found


def test_a_full_pool_orders_nothing(pool: Pool) -> None:
    assert not pool.is_short(1000)
    assert pool.next_order_s() == math.inf


def test_after_a_hand_off_it_is_quiet_first(pool: Pool) -> None:
    pool.take(100)
    assert not pool.is_short(100)
    assert pool.next_order_s() == 100 + _QUIET_S
    assert pool.is_short(100 + _QUIET_S)


def test_a_burst_is_answered_at_once(pool: Pool) -> None:
    for _ in range(DEPTH // 2):
        pool.take(100)
    assert not pool.is_short(100)
    pool.take(100)
    assert pool.is_short(100)
