"""Each limit of a grant, met for real: what the user is told, and that everything is free again."""

import errno
import time

import pytest

from bento.errors import NoSuchInstance
from bento.errors import Refused as RefusedError
from bento.protocol.messages import Raise
from tests.lone_box import LoneBox
from tests.wire import RemoteFunction, StreamEnded, running

SOURCE = b"""
import time

def spin():
    while True:
        pass

def eat():
    kept = []
    while True:
        kept.append(bytearray(2**20))

def fill():
    with open("big", "wb") as file:
        while True:
            file.write(bytes(2**16))

def sleep(seconds):
    api.send("started")
    time.sleep(seconds)
    return "slept"

def pour():
    while True:
        api.send(bytes(65536))

def leave(status):
    import os
    os._exit(status)
"""


def _with(box: LoneBox, manifest: str, lease_s: int = 60) -> RemoteFunction:
    block = "".join(f"# {line}\n" for line in manifest.splitlines())
    return RemoteFunction(box.address, b"# /// bento\n" + block.encode() + b"# ///\n" + SOURCE, lease_s=lease_s)


def _ended(function: RemoteFunction, entry: str, *args: object) -> tuple[str | None, str, int]:
    """How it ended, once its stream has."""
    with pytest.raises(StreamEnded):
        function.start(entry, *args).outcome()
    state = function.state()
    assert not state.running
    return state.cause, state.rule, state.limit


def test_a_loop_for_ever_ends_at_its_cpu_time(box: LoneBox) -> None:
    assert _ended(_with(box, "cpu_s = 1"), "spin") == ("limit", "cpu_s", 1)


def test_a_wait_for_ever_ends_at_its_wall_time(box: LoneBox) -> None:
    assert _ended(_with(box, "wall_s = 1"), "sleep", 60) == ("limit", "wall_s", 1)


def test_a_lease_that_nobody_renews_ends_it(box: LoneBox) -> None:
    assert _ended(_with(box, "", lease_s=1), "sleep", 60)[0] == "lease"


def test_eating_memory_names_the_memory_limit(box: LoneBox) -> None:
    with running(_with(box, "memory_bytes = 33_554_432")) as function:
        try:
            outcome = function.start("eat").outcome()
            assert isinstance(outcome, Raise)
            assert outcome.rule == "memory_bytes"
        except StreamEnded:
            assert function.state().rule == "memory_bytes"


def test_filling_the_disk_names_the_storage_limit(box: LoneBox) -> None:
    with running(_with(box, "storage_bytes = 1_048_576")) as function:
        outcome = function.start("fill").outcome()
    assert isinstance(outcome, Raise)
    assert (outcome.type, outcome.rule) == ("OSError", "storage_bytes")
    assert str(errno.ENOSPC) in outcome.message


def test_an_absent_reader_stops_the_function_not_the_box(box: LoneBox) -> None:
    with running(_with(box, "buffer_bytes = 65_536")) as function:
        call = function.start("pour")
        time.sleep(0.3)
        with running(RemoteFunction(box.address, SOURCE)) as other:
            assert other.start("sleep", 0).value() == "slept"
        call.stream.close()


@pytest.mark.parametrize(("status", "cause"), [(0, "exit"), (3, "crash")])
def test_a_process_that_ends_by_itself_is_told_so(box: LoneBox, status: int, cause: str) -> None:
    assert _ended(RemoteFunction(box.address, SOURCE), "leave", status)[0] == cause


def test_refuses_with_every_broken_rule(box: LoneBox) -> None:
    function = _with(box, 'memory_bytes = 1_000_000_000_000\ncpu_s = 1_000_000\nimage = "browser"\negress = ["*:25"]')
    with pytest.raises(RefusedError) as caught:
        function.start("spin").outcome()
    rules = [refusal.text.partition(":")[0] for refusal in caught.value.refusals]
    assert rules == ["memory_bytes", "cpu_s", "image", "egress"]


def test_a_full_box_refuses_and_an_ended_instance_makes_room(box: LoneBox) -> None:
    functions = [RemoteFunction(box.address, SOURCE) for _ in range(6)]
    try:
        for function in functions:
            function.start("sleep", 0).value()
        late = RemoteFunction(box.address, SOURCE)
        with pytest.raises(RefusedError, match="instances: asked for 7, this box grants 6"):
            late.start("sleep", 0).value()
        functions.pop().stop()
        assert late.start("sleep", 0).value() == "slept"
        functions.append(late)
    finally:
        for function in functions:
            function.stop()


def test_what_its_lease_ended_is_remembered_for_those_who_ask_then(box: LoneBox) -> None:
    function = RemoteFunction(box.address, SOURCE, lease_s=1)
    function.start("sleep", 0).value()
    time.sleep(1.5)
    assert (function.state().cause, function.state().lease_s > 30) == ("lease", True)
    with pytest.raises(NoSuchInstance, match="lease"):
        function.again("sleep", 0).value()


def test_a_megabyte_of_source_compiles_within_the_memory_it_asks_for(box: LoneBox) -> None:
    body = b"".join(b"def f%d():\n    return %d\n" % (number, number) for number in range(36_000))
    source = b"# /// bento\n# memory_bytes = 400_000_000\n# ///\n" + SOURCE + body
    assert len(source) > 2**20
    with running(RemoteFunction(box.address, source)) as function:
        assert function.start("f35999").value() == 35_999


def test_the_same_source_within_too_little_memory_says_so(box: LoneBox) -> None:
    body = b"".join(b"def f%d():\n    return %d\n" % (number, number) for number in range(36_000))
    with running(
        RemoteFunction(box.address, b"# /// bento\n# memory_bytes = 4_000_000\n# ///\n" + SOURCE + body)
    ) as function:
        try:
            outcome = function.start("f1").outcome()
            assert isinstance(outcome, Raise)
            assert outcome.rule == "memory_bytes"
        except StreamEnded:
            assert function.state().rule == "memory_bytes"
