"""What a stranger may send to a box: each has its answer, no stream hangs, and other sessions go on."""

import socket

import msgspec
import pytest

from bento.errors import ManifestError, NoSuchInstance, ProtocolError, SourceError, VersionMismatch
from bento.protocol.framing import encode_frame
from bento.protocol.messages import Describe, Hello, Raise, Status
from bento.protocol.outer import ClientSide
from tests.lone_box import LoneBox
from tests.wire import WAIT_S, RemoteFunction, ask, running


def _answer_to(box: LoneBox, data: bytes, end: bool = False) -> bytes:
    """All that the box says to these bytes, until it closes."""
    with socket.create_connection(box.address, WAIT_S) as stream:
        stream.sendall(data)
        if end:
            stream.shutdown(socket.SHUT_WR)
        return b"".join(iter(lambda: stream.recv(65536), b""))


def _error_of(answer: bytes) -> None:
    side = ClientSide()
    side.send(Describe())
    side.receive(answer)


def _frame(message: object) -> bytes:
    payload = msgspec.msgpack.encode(message)
    return len(payload).to_bytes(4, "big") + payload


_HELLO = encode_frame(Hello(1))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"\0\0\0\0", "0 bytes"),
        (b"GET / HTTP/1.1\r\n\r\n", "1195725856 bytes"),
        (b"\0\0\0\1\xc1", "not a message"),
        (_frame({"t": "hello", "version": 1, "x": 1}), "unknown field"),
        (_HELLO + _frame({"t": "nope"}), "not a message"),
        (_HELLO + _HELLO, "may not come"),
        (encode_frame(Describe()), "may not come"),
        (_HELLO + b"\0\1\0\1", "65537 bytes"),
    ],
)
def test_what_is_no_message_is_answered_and_closed(box: LoneBox, data: bytes, says: str) -> None:
    with pytest.raises(ProtocolError, match=says):
        _error_of(_answer_to(box, data))


def test_a_truncated_message_is_answered(box: LoneBox) -> None:
    with pytest.raises(ProtocolError, match="ended after"):
        _error_of(_answer_to(box, _HELLO + b"\0\0\0\x20abc", end=True))


def test_another_version_is_told_which_one_is_spoken(box: LoneBox) -> None:
    with pytest.raises(VersionMismatch, match="speaks version 1, not 2"):
        _error_of(_answer_to(box, encode_frame(Hello(2))))


def test_a_refusal_arrives_whole_behind_a_large_flight(box: LoneBox) -> None:
    with pytest.raises(VersionMismatch):
        _error_of(_answer_to(box, encode_frame(Hello(2)) + bytes(4 * 2**20), end=True))


def test_an_unknown_instance_is_told(box: LoneBox) -> None:
    with pytest.raises(NoSuchInstance):
        ask(box.address, Status(bytes(32)))


@pytest.mark.parametrize(
    "source", [b"def f(:\n", b"x = '\0'", b"\xff\xfe", b"(" * 300, b"def f():\n\treturn 1\n        x"]
)
def test_a_source_that_does_not_parse_is_told(box: LoneBox, source: bytes) -> None:
    with running(RemoteFunction(box.address, source)) as function, pytest.raises(SourceError, match="does not parse"):
        function.start("f").outcome()


@pytest.mark.parametrize(("source", "kind"), [(b"1/0", "ZeroDivisionError"), (b"raise SystemExit", "SystemExit")])
def test_a_source_that_raises_is_told_like_a_call(box: LoneBox, source: bytes, kind: str) -> None:
    with running(RemoteFunction(box.address, source)) as function:
        outcome = function.start("f").outcome()
    assert isinstance(outcome, Raise)
    assert outcome.type == kind


def test_a_manifest_with_an_unknown_key_never_leaves_the_client(box: LoneBox) -> None:
    with pytest.raises(ManifestError, match="ram"):
        RemoteFunction(box.address, b"# /// bento\n# ram = 1\n# ///\n").start("f")


def test_deeply_nested_source_and_values_end_no_more_than_their_instance(box: LoneBox) -> None:
    source = b"def g():\n    x = []\n    for _ in range(100): x = [x]\n    return x\n"
    with running(RemoteFunction(box.address, source + b"y = " + b"-" * 50_000 + b"1")) as function:
        outcome = function.start("g").outcome()
    assert isinstance(outcome, Raise)
    assert outcome.type == "MemoryError"  # what CPython's parser says of it
    with running(RemoteFunction(box.address, source)) as function:
        outcome = function.start("g").outcome()
    assert isinstance(outcome, Raise)
    assert "nested deeper" in outcome.message


def test_other_sessions_go_on_through_all_of_it(box: LoneBox) -> None:
    with running(
        RemoteFunction(box.address, b"def echo():\n    while data := api.recv():\n        api.send(data)")
    ) as function:
        call = function.start("echo")
        for number in range(20):
            _answer_to(box, b"\0\0\0\1\xc1")
            call.send(b"%02d" % number)
            call.read(2 * number + 2)
        call.send(b"")
        call.value()
        assert call.output == b"".join(b"%02d" % number for number in range(20))
