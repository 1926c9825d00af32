import msgspec
import pytest

from bento.config import CHUNK_BYTES
from bento.errors import ProtocolError
from bento.manifest import Manifest
from bento.protocol.framing import encode_frame
from bento.protocol.inner import ACKNOWLEDGE_BYTES, INPUT_WINDOW_BYTES, InvocationSide, LoaderSide
from bento.protocol.messages import (
    Acknowledge,
    Input,
    Invoke,
    Load,
    Message,
    Output,
    Pad,
    Raise,
    Resume,
    Resumed,
    Return,
)

_INVOKE, _ID = bytes(32), bytes(16)


def _client() -> InvocationSide:
    return InvocationSide(_INVOKE, _ID)


def _frames(*messages: Message) -> bytes:
    return b"".join(encode_frame(message) for message in messages)


def test_a_loader_takes_load_invoke_and_input_in_one_flight() -> None:
    flight = [Load(b"x", _INVOKE), Invoke(_INVOKE, _ID, "f"), Input(0, b"abc"), Acknowledge(5)]
    assert LoaderSide().receive(_frames(*flight, Pad(bytes(10)))) == flight


@pytest.mark.parametrize("first", [Input(0, b"x"), Acknowledge(0)])
def test_a_loader_refuses_streams_of_no_invocation(first: Message) -> None:
    with pytest.raises(ProtocolError, match="NEW"):
        LoaderSide().receive(encode_frame(first))


@pytest.mark.parametrize("second", [Load(b"x", _INVOKE), Invoke(_INVOKE, _ID, "f"), Resume(_INVOKE, _ID, 0)])
def test_one_stream_is_one_session(second: Message) -> None:
    side = LoaderSide()
    side.receive(encode_frame(Invoke(_INVOKE, _ID, "f")))
    with pytest.raises(ProtocolError, match="ATTACHED"):
        side.receive(encode_frame(second))


def test_output_comes_once_whatever_is_sent_again() -> None:
    client = _client()
    assert client.receive(_frames(Output(0, b"hello"))) == [Output(0, b"hello")]
    client.begin_session()
    assert client.receive(_frames(Resumed(0), Output(0, b"hello"), Output(3, b"lo wor"))) == [
        Resumed(0),
        Output(5, b" wor"),
    ]
    assert client.received == 9


def test_missing_output_is_an_error() -> None:
    with pytest.raises(ProtocolError, match="from 0 to 5 are missing"):
        _client().receive(encode_frame(Output(5, b"x")))


def test_a_return_before_all_output_is_an_error() -> None:
    with pytest.raises(ProtocolError, match="missing"):
        _client().receive(encode_frame(Return(5)))


def test_half_a_frame_of_a_broken_stream_is_forgotten() -> None:
    client = _client()
    client.receive(encode_frame(Output(0, b"hello"))[:7])
    client.begin_session()
    assert client.receive(encode_frame(Output(0, b"hello"))) == [Output(0, b"hello")]


def test_a_resume_names_what_has_come() -> None:
    client = _client()
    client.receive(encode_frame(Output(0, b"hello")))
    assert LoaderSide().receive(client.resume()) == [Resume(_INVOKE, _ID, 5)]


def test_input_that_did_not_arrive_is_sent_again() -> None:
    client, loader = _client(), LoaderSide()
    loader.receive(client.invoke("f", ()))
    assert loader.receive(client.input(b"abc")) == [Input(0, b"abc")]
    assert loader.receive(client.input(b"")) == [Input(3, b"", end=True)]
    again = LoaderSide()
    again.receive(client.resume())
    assert again.receive(client.resend(Resumed(1))) == [Input(1, b"bc"), Input(3, b"", end=True)]


def test_input_has_a_window() -> None:
    client = _client()
    client.input(bytes(INPUT_WINDOW_BYTES))
    assert client.input_room_bytes == 0
    client.receive(encode_frame(Acknowledge(10)))
    assert client.input_room_bytes == 10


def test_a_resume_says_what_to_send_again_and_opens_no_window() -> None:
    client = _client()
    client.input(bytes(INPUT_WINDOW_BYTES))
    assert client.resend(Resumed(INPUT_WINDOW_BYTES)) == b""
    assert client.input_room_bytes == 0
    again = LoaderSide()
    again.receive(client.resume())
    assert again.receive(client.resend(Resumed(INPUT_WINDOW_BYTES - 1))) == [Input(INPUT_WINDOW_BYTES - 1, b"\0")]


def test_input_after_its_end_is_an_error() -> None:
    client = _client()
    client.input(b"")
    with pytest.raises(ProtocolError, match="ended"):
        client.input(b"x")


def test_acknowledges_what_is_safe_once_it_is_enough_and_the_end_when_told() -> None:
    client = _client()
    client.receive(encode_frame(Output(0, bytes(ACKNOWLEDGE_BYTES + 1))))
    client.receive(encode_frame(Raise(ACKNOWLEDGE_BYTES + 1, "KeyError", "x")))
    assert client.acknowledge(ACKNOWLEDGE_BYTES - 1) == b""
    assert client.acknowledge(ACKNOWLEDGE_BYTES) == encode_frame(Acknowledge(ACKNOWLEDGE_BYTES))
    assert client.acknowledge(ACKNOWLEDGE_BYTES + 1) == b""
    assert client.acknowledge_end() == encode_frame(Acknowledge(ACKNOWLEDGE_BYTES + 1, end=True))


def test_a_buffer_of_any_size_is_acknowledged_before_it_is_full() -> None:
    with pytest.raises(msgspec.ValidationError, match="buffer_bytes"):
        msgspec.convert({"buffer_bytes": ACKNOWLEDGE_BYTES}, Manifest)


def test_an_invocation_is_taken_up_where_another_client_left_it() -> None:
    client = InvocationSide(_INVOKE, _ID, b"a" * 16, received=5, sent=3)
    assert LoaderSide().receive(client.resume()) == [Resume(_INVOKE, _ID, 5, b"a" * 16)]
    assert client.input(b"") == encode_frame(Input(3, b"", end=True))
    assert client.receive(_frames(Resumed(3), Acknowledge(3, end=True), Output(5, b"x"))) == [
        Resumed(3),
        Acknowledge(3, end=True),
        Output(5, b"x"),
    ]
    assert client.is_input_there


@pytest.mark.parametrize("arrived", [2, 4])
def test_input_that_did_not_leave_whole_is_an_error_to_who_takes_up_the_rest(arrived: int) -> None:
    client = InvocationSide(_INVOKE, _ID, received=5, sent=3)
    with pytest.raises(ProtocolError, match=f"{arrived} bytes of the input have arrived, 3 were sent"):
        client.resend(Resumed(arrived))


def test_more_output_at_once_than_a_piece_is_an_error() -> None:
    with pytest.raises(ProtocolError, match="at once"):
        _client().receive(encode_frame(Output(0, bytes(CHUNK_BYTES + 1))))
