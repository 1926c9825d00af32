"""Tickets: the vectors, and every way in which one can be spoilt."""

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bento.errors import TicketError
from bento.ticket import MAX_TICKET_CHARS, PREFIX, FunctionTicket, encode_ticket, parse_ticket
from bento.tokens import InvocationToken

VECTORS: dict[str, Any] = json.loads((Path(__file__).parent.parent / "vectors" / "tickets.json").read_text())
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
QR_ALPHANUMERIC = frozenset("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ $%*+-./:")

TICKETS = st.builds(
    FunctionTicket,
    st.binary(min_size=20, max_size=20).map(lambda data: data.hex().upper()),
    st.binary(min_size=32, max_size=32).map(InvocationToken),
)


def spoilt(line: str) -> str:
    """The message of the error that a text is refused with."""
    with pytest.raises(TicketError) as found:
        parse_ticket(line)
    assert found.value.hint
    assert found.value.exit_status == 2
    return found.value.message


def made(body: bytes) -> str:
    """A whole ticket of any content."""
    checksum = hashlib.sha256(b"bento/ticket\0" + body).digest()[:6]
    return PREFIX + base64.b32encode(body + checksum).decode().rstrip("=")


@pytest.mark.parametrize("vector", VECTORS["good"], ids=lambda vector: vector["name"])
def test_a_good_vector_is_its_ticket(vector: dict[str, Any]) -> None:
    ticket = FunctionTicket(vector["box"], InvocationToken(bytes.fromhex(vector["invocation_token"])))
    assert parse_ticket(vector["ticket"]) == ticket
    assert encode_ticket(ticket) == "".join(vector["ticket"].upper().split())


@pytest.mark.parametrize("vector", VECTORS["bad"], ids=lambda vector: vector["name"])
def test_a_bad_vector_is_refused_for_its_reason(vector: dict[str, Any]) -> None:
    assert spoilt(vector["ticket"]).startswith(vector["error"])


@given(TICKETS)
def test_a_ticket_comes_back_as_it_was(ticket: FunctionTicket) -> None:
    assert parse_ticket(encode_ticket(ticket)) == ticket


@given(TICKETS)
def test_a_ticket_is_one_short_line_of_a_qr_code_s_alphabet(ticket: FunctionTicket) -> None:
    line = encode_ticket(ticket)
    assert len(line) == 102
    assert set(line) <= QR_ALPHANUMERIC


@given(TICKETS, st.lists(st.tuples(st.integers(0, 102), st.sampled_from(" \n\t\r")), max_size=20), st.booleans())
def test_case_white_space_and_line_breaks_make_no_difference(
    ticket: FunctionTicket, spaces: list[tuple[int, str]], is_lower: bool
) -> None:
    line = encode_ticket(ticket)
    for place, space in spaces:
        line = line[:place] + space + line[place:]
    assert parse_ticket(line.lower() if is_lower else line) == ticket


@given(TICKETS, st.integers(0, 101), st.sampled_from(ALPHABET + "0189:-=é"))
def test_one_wrong_character_is_noticed(ticket: FunctionTicket, place: int, char: str) -> None:
    line = encode_ticket(ticket)
    if line[place] != char:
        spoilt(line[:place] + char + line[place + 1 :])


@given(TICKETS, st.integers(0, 101))
def test_one_missing_or_doubled_character_is_noticed(ticket: FunctionTicket, place: int) -> None:
    line = encode_ticket(ticket)
    spoilt(line[:place] + line[place + 1 :])
    spoilt(line[:place] + line[place] + line[place:])


@given(TICKETS, st.integers(0, 101), st.integers(0, 101))
def test_two_swapped_characters_are_noticed(ticket: FunctionTicket, one: int, other: int) -> None:
    chars = list(encode_ticket(ticket))
    if chars[one] != chars[other]:
        chars[one], chars[other] = chars[other], chars[one]
        spoilt("".join(chars))


@given(TICKETS, st.integers(1, 101))
def test_a_ticket_cut_short_says_how_much_is_there(ticket: FunctionTicket, length: int) -> None:
    assert f"cut short: it has {length} characters, of 102" in spoilt(encode_ticket(ticket)[:length])


@given(TICKETS, TICKETS)
def test_two_tickets_in_a_row_are_too_long(one: FunctionTicket, other: FunctionTicket) -> None:
    line = encode_ticket(one) + encode_ticket(other).removeprefix(PREFIX)
    assert "too long: it has 198 characters, of 102" in spoilt(line)


@given(st.text(max_size=200))
def test_any_text_is_refused_plainly(text: str) -> None:
    spoilt(text)


@given(st.binary(max_size=300))
def test_any_content_is_refused_plainly(data: bytes) -> None:
    spoilt(made(data))


def test_other_versions_and_kinds_are_told_apart_whatever_their_length() -> None:
    for size in (0, 1, 20, 52, 53, 200):
        assert "of version 2" in spoilt(made(b"\x02\x01" + bytes(size)))
        assert "something else" in spoilt(made(b"\x01\x02" + bytes(size)))


def test_the_longest_text_that_is_read_is_refused() -> None:
    assert "too long" in spoilt(PREFIX + "A" * (MAX_TICKET_CHARS - len(PREFIX)))


def test_an_error_shows_nothing_of_the_ticket() -> None:
    line = encode_ticket(FunctionTicket("AB" * 20, InvocationToken(bytes(range(32)))))
    for text in (line[:-1], line[:-1] + "0", line[:-1] + ("A" if line[-1] != "A" else "B"), line + "A"):
        assert line[10:20] not in spoilt(text)
