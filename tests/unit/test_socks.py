"""SOCKS without waiting: tor's answers in whatever pieces they come."""

import pytest

from bento.errors import ProtocolError
from bento.tor.socks import ReplyReader, SocksRefused, encode_connect

GRANTED = bytes.fromhex("05000001 00000000 0000")
GRANTED_BY_NAME = bytes.fromhex("05000003 03616263 0050")
GRANTED_V6 = bytes.fromhex("05000004") + bytes(18)


@pytest.mark.parametrize("greeting", [b"\x05\x02", b""])
@pytest.mark.parametrize("granted", [GRANTED, GRANTED_BY_NAME, GRANTED_V6])
def test_data_behind_the_answers_is_kept_however_it_is_cut(greeting: bytes, granted: bytes) -> None:
    text = greeting + b"\x01\x00" + granted + b"data"
    for cut in range(len(text)):
        reader = ReplyReader()
        early = reader.feed(text[:cut])
        late = reader.feed(text[cut:]) if early is None else early + text[cut:]
        assert late == b"data"


@pytest.mark.parametrize("reply", [1, 2, 5, 0xF0])
def test_a_refusal_says_why(reply: int) -> None:
    with pytest.raises(SocksRefused, match="no connection to the box") as found:
        ReplyReader().feed(b"\x05\x02\x01\x00\x05" + bytes([reply, 0, 1, 0, 0, 0, 0, 0, 0]))
    assert found.value.reply == reply


@pytest.mark.parametrize("text", [b"\x05\xff", b"HTTP/1.0 501", b"\x05\x02\x01\x01"])
def test_what_is_no_tor_of_ours_is_refused(text: bytes) -> None:
    with pytest.raises(ProtocolError):
        ReplyReader().feed(text)


def test_connect_is_greeting_name_and_request_in_one() -> None:
    assert encode_connect("ab", "127.84.1.2", 7000) == bytes.fromhex("050102 0102616201 78 05010001 7f540102 1b58")
    assert encode_connect("a", "x.onion", 80).endswith(b"\x05\x01\x00\x03\x07x.onion\x00\x50")
