import enum
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from bento.config import MAX_INNER_BYTES, MAX_TEXT_CHARS
from bento.errors import ProtocolError, Replaced
from bento.guest.invocation import Invocation, raised, returned
from bento.protocol.framing import FrameReader, decode_inner_reply, encode_frame
from bento.protocol.inner import INPUT_WINDOW_BYTES
from bento.protocol.messages import Acknowledge, Input, Output, Raise, Return

_ONE, _OTHER = b"1" * 16, b"2" * 16


class Text(str):
    __slots__ = ()

    def __str__(self) -> str:
        raise RuntimeError("not to be asked")

    def __getitem__(self, key: object) -> str:
        raise RuntimeError("not to be asked")


class Number(int):
    def __int__(self) -> int:
        raise RuntimeError("not to be asked")


class Data(bytes):
    __slots__ = ()


class Real(float):
    pass


class Colour(enum.IntEnum):
    RED = 1


def _attached() -> tuple[Invocation, object]:
    invocation, session = Invocation(1024), object()
    invocation.attach(session, _ONE, 0, lambda: None)
    return invocation, session


def _outcome_of(value: Any) -> Return | Raise:
    invocation, session = _attached()
    invocation.finish(returned(value))
    frame = invocation.next_message(session, 0)
    assert isinstance(frame, bytes)
    (payload,) = FrameReader(MAX_INNER_BYTES).feed(frame)
    found = decode_inner_reply(payload)
    assert isinstance(found, Return | Raise)
    return found


@pytest.mark.parametrize(
    ("value", "base"),
    [
        (Text("x"), "x"),
        (Number(3), 3),
        (Data(b"x"), b"x"),
        (Real(1.5), 1.5),
        (Colour.RED, 1),
        ([Text("x"), {Text("k"): Number(1)}], ["x", {"k": 1}]),
    ],
)
def test_a_value_of_a_subclass_travels_as_its_base(value: Any, base: Any) -> None:
    assert _outcome_of(value) == Return(0, base)


@pytest.mark.parametrize("value", ["\ud800", {"a": ["\udc00"]}, {"\ud800": 1}])
def test_a_text_that_is_not_unicode_is_the_functions_error(value: Any) -> None:
    outcome = _outcome_of(value)
    assert isinstance(outcome, Raise)
    assert outcome.type == "ValueError"
    assert "surrogates not allowed" in outcome.message


def test_parts_that_are_too_large_together_are_the_functions_error() -> None:
    outcome = _outcome_of(["x" * 5_000_000] * 3)
    assert isinstance(outcome, Raise)
    assert f"15000040 bytes can't be returned, at most {MAX_INNER_BYTES}" in outcome.message


def test_a_value_that_finds_no_memory_names_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    def starve(message: Return | Raise) -> bytes:
        if isinstance(message, Raise):
            return encode_frame(message)
        raise MemoryError

    monkeypatch.setattr("bento.guest.invocation.encode_frame", starve)
    assert _outcome_of(b"x") == Raise(0, "MemoryError", "", "memory_bytes")


def test_an_exceptions_text_is_cleaned_and_cut() -> None:
    class Odd(Exception):
        def __str__(self) -> str:
            return Text("caf\udce9" + "x" * MAX_TEXT_CHARS)

    class Mute(Exception):
        def __str__(self) -> str:
            raise SystemExit

    found = raised(Odd())(7)
    assert found == Raise(7, "Odd", "caf?" + "x" * (MAX_TEXT_CHARS - 4))
    assert type(found.message) is str
    assert raised(Mute())(0) == Raise(0, "Mute", "")


def test_the_end_once_acknowledged_stays_so() -> None:
    invocation, session = _attached()
    invocation.finish(returned(None))
    invocation.accept(session, Acknowledge(0, end=True))
    invocation.accept(session, Acknowledge(0))
    assert invocation.is_done


def test_a_call_that_was_given_up_keeps_no_output_gets_no_input_and_takes_no_more() -> None:
    invocation, session = _attached()
    invocation.send(bytes(1000))
    with ThreadPoolExecutor() as pool:
        sending = pool.submit(invocation.send, bytes(1000))
        invocation.accept(session, Acknowledge(0, end=True))
        with pytest.raises(BrokenPipeError):
            sending.result(10)
    assert invocation.is_done
    assert not invocation.is_finished
    assert invocation.recv() == b""
    assert invocation._outbox.held_bytes == 0
    assert invocation.next_message(session, 0) is None
    with pytest.raises(BrokenPipeError):
        invocation.send(b"x")


def test_a_new_attachment_hears_again_how_much_input_was_taken() -> None:
    invocation, session = _attached()
    invocation.accept(session, Input(0, b"abc"))
    assert invocation.recv() == b"abc"
    assert invocation.next_message(session, 0) == Acknowledge(3)
    again = object()
    assert invocation.attach(again, _ONE, 0, lambda: None) == 3
    assert invocation.next_message(again, 0) == Acknowledge(3)


def test_output_acknowledged_before_it_was_sent_is_an_error() -> None:
    invocation, session = _attached()
    invocation.send(b"hello")
    invocation.accept(session, Acknowledge(5))
    invocation.send(b"x")
    with pytest.raises(ProtocolError, match="offset 0"):
        invocation.next_message(session, 0)
    assert invocation.next_message(session, 5) == Output(5, b"x")


def test_an_attachment_that_was_replaced_does_not_come_back() -> None:
    invocation, _ = _attached()
    invocation.attach(object(), _OTHER, 0, lambda: None)
    for _ in range(2):
        with pytest.raises(Replaced):
            invocation.attach(object(), _ONE, 0, lambda: None)
    invocation.attach(object(), _OTHER, 0, lambda: None)


def test_an_attachment_that_failed_replaces_none() -> None:
    invocation, session = _attached()
    with pytest.raises(ProtocolError):
        invocation.attach(object(), _OTHER, 1, lambda: None)
    invocation.attach(session, _ONE, 0, lambda: None)


def test_what_a_replaced_session_still_says_changes_nothing() -> None:
    invocation, old = _attached()
    invocation.send(b"hello")
    new = object()
    invocation.attach(new, _OTHER, 2, lambda: None)
    invocation.accept(old, Acknowledge(5))
    assert invocation.next_message(new, 2) == Output(2, b"llo")


def test_input_that_has_arrived_to_its_end_is_confirmed_before_it_is_taken() -> None:
    invocation, session = _attached()
    invocation.accept(session, Input(0, b"abc", end=True))
    assert invocation.next_message(session, 0) == Acknowledge(0, end=True)
    again = object()
    invocation.attach(again, _ONE, 0, lambda: None)
    assert invocation.next_message(again, 0) == Acknowledge(0, end=True)


def test_who_resumes_from_what_is_forgotten_is_told_what_is_kept() -> None:
    invocation, session = _attached()
    invocation.send(b"hello")
    invocation.accept(session, Acknowledge(3))
    for received in (2, 6):
        with pytest.raises(ProtocolError, match=f"from byte {received}: bytes 3 to 5 are kept"):
            invocation.attach(object(), _ONE, received, lambda: None)


def test_a_replaced_session_changes_nothing_even_if_the_newer_one_has_left() -> None:
    invocation, old = _attached()
    invocation.send(b"hello")
    new = object()
    invocation.attach(new, _OTHER, 2, lambda: None)
    invocation.leave(new)
    invocation.accept(old, Acknowledge(5))
    invocation.attach(object(), _OTHER, 2, lambda: None)


def test_input_beyond_the_window_is_not_kept_however_often_it_comes() -> None:
    invocation, session = _attached()
    piece = bytes(INPUT_WINDOW_BYTES)
    invocation.accept(session, Input(0, piece))
    for _ in range(3):
        with pytest.raises(ProtocolError, match="nobody acknowledged"):
            invocation.accept(session, Input(len(piece), b"x" * 100))
        assert invocation.attach(session, _ONE, 0, lambda: None) == len(piece)
    assert invocation.recv() == piece
