import pytest

from bento.config import FLIGHT_BYTES, KIB, MAX_CODE_BYTES, MAX_INNER_BYTES, MAX_OUTER_BYTES, MIB
from bento.errors import ProtocolError
from bento.protocol.framing import PAD_BYTES, FrameReader, decode_outer_request, encode_frame, encode_pad, pad_flight
from bento.protocol.messages import Describe, Invoke, Load, Pad


def test_flights_have_the_fixed_sizes_and_the_smallest_is_small() -> None:
    assert FLIGHT_BYTES[0] <= 16 * KIB
    for size in (1, 100, FLIGHT_BYTES[0] - 25, FLIGHT_BYTES[0] - 20, FLIGHT_BYTES[0], FLIGHT_BYTES[1] - 21):
        assert len(pad_flight(bytes(size))) in FLIGHT_BYTES


def test_a_flight_is_followed_by_one_pad() -> None:
    padded = pad_flight(encode_frame(Describe()))
    found = [decode_outer_request(payload) for payload in FrameReader(MAX_OUTER_BYTES).feed(padded)]
    assert [type(message) for message in found] == [Describe, Pad]


@pytest.mark.parametrize(
    "left",
    [21, 22, PAD_BYTES - 1, PAD_BYTES, PAD_BYTES + 1, PAD_BYTES + 20, PAD_BYTES + 21, 3 * PAD_BYTES + 7, 24 * MIB],
)
def test_pads_fill_whatever_is_left_each_within_the_smaller_limit(left: int) -> None:
    flight = bytes(FLIGHT_BYTES[-1] - left)
    padded = pad_flight(flight)
    assert len(padded) == FLIGHT_BYTES[-1]
    for payload in FrameReader(MAX_OUTER_BYTES).feed(padded[len(flight) :]):
        assert isinstance(decode_outer_request(payload), Pad)


def test_the_largest_source_and_arguments_fit_a_flight() -> None:
    flight = encode_frame(Load(bytes(MAX_CODE_BYTES), bytes(32)))
    flight += encode_frame(Invoke(bytes(32), bytes(16), "f", (bytes(MAX_INNER_BYTES - 1024),)))
    assert len(pad_flight(flight + bytes(MAX_OUTER_BYTES))) == FLIGHT_BYTES[-1]


def test_a_flight_over_the_largest_size_says_what_to_do() -> None:
    with pytest.raises(ProtocolError, match="can be sent at once") as caught:
        pad_flight(bytes(FLIGHT_BYTES[-1]))
    assert "stdin" in caught.value.hint


@pytest.mark.parametrize("total", [21, 22, 276, 277, 300, 65_560])
def test_pads_can_have_every_length(total: int) -> None:
    frame = encode_pad(total)
    assert len(frame) == total
    (payload,) = FrameReader(MAX_INNER_BYTES).feed(frame)
    assert isinstance(decode_outer_request(payload), Pad)


def test_a_frame_at_the_limit_passes_and_one_byte_more_does_not() -> None:
    assert list(FrameReader(5).feed(b"\0\0\0\5abcde")) == [b"abcde"]
    with pytest.raises(ProtocolError, match="the limit is 5"):
        list(FrameReader(5).feed(b"\0\0\0\6"))


@pytest.mark.parametrize("value", [2**64, object(), -(2**63) - 1])
def test_values_that_can_not_travel_are_refused(value: object) -> None:
    with pytest.raises(ProtocolError, match="can't be sent"):
        encode_frame(Invoke(bytes(32), bytes(16), "f", (value,)))
