"""The server may die: sessions go on, leases end instances, and the next server takes over."""

import shutil
import time
from collections.abc import Callable, Iterator

import pytest

from bento.protocol.messages import Raise
from tests.lone_box import LoneBox, make_box
from tests.wire import RemoteFunction, StreamEnded

SOURCE = b"""# /// bento
# egress = ["*:80"]
# ///
def echo():
    while data := api.recv():
        api.send(data)

def dial():
    return api.fetch("http://example.test/").status

def count():
    global n
    n = globals().get("n", 0) + 1
    return n
"""


@pytest.fixture
def fragile(need: Callable[..., None]) -> Iterator[LoneBox]:
    need("namespaces", "seccomp")
    box = make_box()
    box.start()
    try:
        yield box
    finally:
        if box.process.poll() is not None:
            box.start()  # the one way to end a reaper that outlived its server at once
        box.stop()
        shutil.rmtree(box.folder)


def test_sessions_outlive_the_server_and_dials_fail_clearly(fragile: LoneBox) -> None:
    function = RemoteFunction(fragile.address, SOURCE)
    call = function.start("echo")
    dialler = function.again("echo")
    call.send(b"before ")
    call.read(7)
    fragile.kill_server()
    call.send(b"after")
    assert call.read(12) == b"before after"
    dialler.stream.close()
    with pytest.raises(ConnectionRefusedError):
        RemoteFunction(fragile.address, SOURCE).start("echo")


def test_a_function_that_dials_without_a_server_is_told(fragile: LoneBox) -> None:
    source = SOURCE + b"\ndef wait_and_dial():\n    api.recv()\n    return dial()\n"
    function = RemoteFunction(fragile.address, source)
    call = function.start("wait_and_dial")
    call.send(b"x" * 1)
    outcome = call.outcome()
    assert isinstance(outcome, Raise)
    assert outcome.type in ("PermissionError", "gaierror")
    waiting = function.again("wait_and_dial")
    time.sleep(0.2)
    fragile.kill_server()
    waiting.send(b"x")
    outcome = waiting.outcome()
    assert isinstance(outcome, Raise)
    assert (outcome.type, "server is not running" in outcome.message) == ("ConnectionError", True)


def test_what_a_server_took_and_died_with_is_answered_by_the_next(fragile: LoneBox) -> None:
    source = (
        SOURCE
        + b"""
class Taken:
    def send(self, data):
        api.send(b"taken")

def dial_in_vain():
    from bento.guest import broker
    ours, theirs = broker.current(), broker.current()._control
    ours._control = Taken()
    try:
        dial()
    except ConnectionError as error:
        ours._control = theirs
        try:
            dial()
        except OSError as after:
            return [str(error), type(after).__name__]
"""
    )
    call = RemoteFunction(fragile.address, source).start("dial_in_vain")
    assert call.read(5) == b"taken"
    fragile.kill_server()
    fragile.start()
    told, after = call.value()
    assert told.startswith("the box can't dial example.test:80: its server is not running")
    assert after in ("PermissionError", "gaierror")


def test_leases_end_instances_while_no_server_runs(fragile: LoneBox) -> None:
    function = RemoteFunction(fragile.address, SOURCE, lease_s=2)
    call = function.start("echo")
    call.send(b"x")
    call.read(1)
    fragile.kill_server()
    started_s = time.monotonic()
    with pytest.raises(StreamEnded):
        call.outcome()
    assert time.monotonic() - started_s < 10


def test_the_next_server_takes_over_instances_and_tombstones(fragile: LoneBox) -> None:
    living, ended = RemoteFunction(fragile.address, SOURCE), RemoteFunction(fragile.address, SOURCE)
    assert living.start("count").value() == 1
    assert ended.start("count").value() == 1
    ended.stop()
    fragile.kill_server()
    fragile.start()
    assert living.again("count").value() == 2
    assert living.state().running
    assert ended.state().cause == "shutdown"
    living.stop()
    assert living.state().cause == "shutdown"


def test_a_stopped_box_ends_its_reaper(fragile: LoneBox) -> None:
    function = RemoteFunction(fragile.address, SOURCE)
    call = function.start("echo")
    call.send(b"x")
    call.read(1)
    assert fragile.is_reaper_running
    fragile.stop()
    assert not fragile.is_reaper_running
    with pytest.raises((StreamEnded, ConnectionError)):
        call.outcome()
