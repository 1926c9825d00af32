"""What a stranger, or a guest, does to take the whole box down: it goes on serving others."""

import contextlib
import socket
import time
from pathlib import Path

import pytest

from bento.box.instances import MAX_INSTANCE_STREAMS
from bento.config import MAX_OUTER_BYTES
from bento.errors import NoSuchInstance
from bento.errors import Refused as RefusedError
from bento.protocol.framing import FrameReader, decode_outer_reply, encode_frame, encode_pad
from bento.protocol.messages import Connect, Describe, Description, Hello, Refused, Renew, Renewed
from bento.protocol.outer import ClientSide
from tests.lone_box import LoneBox
from tests.wire import RemoteFunction, StreamEnded, ask, running

SOURCE = b"""
import time

def hello():
    return "hello"

def sleep(seconds):
    api.send("started")
    time.sleep(seconds)

def leave():
    import os
    os._exit(0)
"""


@pytest.fixture(autouse=True)
def _still_there(box: LoneBox) -> object:
    """After each attack the same server serves the next one."""
    yield
    assert box.process.poll() is None, box.log
    assert isinstance(ask(box.address, Describe()), Description)


def test_the_largest_manifest_is_decided_like_any(box: LoneBox) -> None:
    names = ", ".join(f'"{number:02}.{"x" * 280}.test:80"' for number in range(64))
    source = f"# /// bento\n# egress = [{names}]\n# ///\n".encode() + SOURCE
    # A limit of its own would be an answer too.
    with running(RemoteFunction(box.address, source)) as function, contextlib.suppress(RefusedError):
        assert function.start("hello").value() == "hello"


def test_a_renewal_at_the_end_of_the_wall_time_is_answered(box: LoneBox) -> None:
    function = RemoteFunction(box.address, b"# /// bento\n# wall_s = 2\n# ///\n" + SOURCE)
    function.start("hello").value()
    renewal = Renew(function.token.instance, function.shutdown_token.shutdown, 60)
    end_s = time.monotonic() + 3
    while time.monotonic() < end_s:
        try:
            answer = ask(box.address, renewal)
            assert isinstance(answer, Renewed)
            assert answer.lease_s <= 2
        except NoSuchInstance:
            pass
        time.sleep(0.01)
    assert function.state().rule == "wall_s"


def test_a_flood_of_renewals_ends_with_its_stream(box: LoneBox) -> None:
    with running(RemoteFunction(box.address, SOURCE)) as function:
        function.start("hello").value()
        renewal = encode_frame(Renew(function.token.instance, function.shutdown_token.shutdown, 60))
        assert "messages before the hand-over" in _last_word(box, encode_frame(Hello(1)) + renewal * 5000)
        assert function.again("hello").value() == "hello"


def test_a_stream_of_pads_ends_and_holds_nobody_up(box: LoneBox) -> None:
    assert "messages before the hand-over" in _last_word(box, encode_frame(Hello(1)) + encode_pad(24) * 100_000)


def test_the_same_spawn_after_the_end_is_no_second_instance(box: LoneBox) -> None:
    function = RemoteFunction(box.address, SOURCE)
    with pytest.raises(StreamEnded):
        function.start("leave").outcome()
    for _ in range(3):
        with pytest.raises(NoSuchInstance, match="exit"):
            function.start("hello").value()
    assert not function.state().running


def test_streams_that_clients_close_are_let_go(box: LoneBox) -> None:
    hoard = b"""
import os, socket
def hoard():
    # Close what the loader was given behind its back: no shutdown, so no hang-up.
    for number in range(4, 200):
        try: os.close(number)
        except OSError: pass
"""
    with running(RemoteFunction(box.address, SOURCE + hoard)) as function:
        function.start("hello").value()
        before = _descriptors(box)
        for _ in range(40):
            call = function.again("hoard")
            time.sleep(0.01)
            call.stream.close()
        deadline_s = time.monotonic() + 10
        while _descriptors(box) > before + 5:
            assert time.monotonic() < deadline_s, f"{_descriptors(box)} descriptors, {before} before"
            time.sleep(0.1)


def test_connections_of_one_instance_have_a_limit(box: LoneBox) -> None:
    with running(RemoteFunction(box.address, SOURCE)) as function, contextlib.ExitStack() as streams:
        function.start("hello").value()
        before = _descriptors(box)
        for _ in range(MAX_INSTANCE_STREAMS + 20):
            stream = streams.enter_context(socket.create_connection(box.address, 30))
            stream.sendall(ClientSide().send(Connect(function.token.route)))
            stream.recv(1)
        assert MAX_INSTANCE_STREAMS // 2 < _descriptors(box) - before <= MAX_INSTANCE_STREAMS


def _last_word(box: LoneBox, data: bytes) -> str:
    """Send it all; the code of the refusal that the box ends with, and its message."""
    with socket.create_connection(box.address, 30) as stream:
        stream.settimeout(30)
        with contextlib.suppress(OSError):
            stream.sendall(data)
        answers = b"".join(iter(lambda: stream.recv(65536), b""))
    *_, last = FrameReader(MAX_OUTER_BYTES).feed(answers)
    refused = decode_outer_reply(last)
    assert isinstance(refused, Refused)
    return f"{refused.code}: {refused.message}"


def _descriptors(box: LoneBox) -> int:
    return len(list(Path(f"/proc/{box.process.pid}/fd").iterdir()))
