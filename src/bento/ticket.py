"""Tickets: a capability as one line of text, to be copied, mailed or shown as a QR code.

    BENTO:AEA2...            "BENTO:", then base 32 of: version, kind (1 byte each), content, checksum (6 bytes)

A ticket is a secret: whoever has it may invoke the function. It has no shutdown token. Lower case, white space and line
breaks make no difference. Upper case and base 32 stay within the alphabet of QR codes that has 5.5 bits a character.

>>> token = InvocationToken(bytes(range(32)))
>>> line = encode_ticket(FunctionTicket("AB" * 20, token))
>>> line[:10], len(line), parse_ticket(line.lower()).token == token
('BENTO:AEA2', 102, True)
"""

import base64
import hashlib
from dataclasses import dataclass
from typing import Final

from bento.errors import TicketError
from bento.tokens import InvocationToken

PREFIX: Final = "BENTO:"

MAX_TICKET_CHARS: Final = 4096
"""Read of what may be a ticket: forty times its length, white space included."""

_VERSION: Final = 1
_FUNCTION: Final = 1
"""The kind of a ticket for a function; other kinds have other contents."""

_FINGERPRINT_BYTES: Final = 20
_CHECKSUM_BYTES: Final = 6
"""48 bits: no slip of a finger passes, and with the rest it makes 60 bytes, 96 characters without a bit to spare."""

_FUNCTION_CHARS: Final = len(PREFIX) + 96
_ALPHABET: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567")


@dataclass(frozen=True)
class FunctionTicket:
    """What lets another invoke a function: its box's fingerprint (40 hex digits, upper case) and its token."""

    box: str
    token: InvocationToken


def encode_ticket(ticket: FunctionTicket) -> str:
    """The ticket as a line, without its end."""
    body = bytes([_VERSION, _FUNCTION]) + bytes.fromhex(ticket.box) + ticket.token.secret
    return PREFIX + base64.b32encode(body + _checksum(body)).decode()


def parse_ticket(text: str) -> FunctionTicket:
    """The ticket in a text.

    Raises: TicketError, which tells apart: nothing there, no ticket, cut short, too long, mistyped, of another version,
        of another kind. It names no character of the ticket.
    """
    line = "".join(text.split()).upper() if text.isascii() else text
    _verify_shape(line)
    data = _decode(line)
    body, checksum = data[:-_CHECKSUM_BYTES], data[-_CHECKSUM_BYTES:]
    if checksum != _checksum(body):
        _verify_length(line)
        raise TicketError("the ticket is mistyped: its checksum does not fit", hint="copy it again, whole")
    if body[0] != _VERSION:
        raise TicketError(f"the ticket is of version {body[0]}, this is {_VERSION}", hint="use a newer Bento")
    if body[1] != _FUNCTION:
        raise TicketError("the ticket is for something else than a function", hint="use the command it was made for")
    _verify_length(line)
    end = 2 + _FINGERPRINT_BYTES
    return FunctionTicket(body[2:end].hex().upper(), InvocationToken(body[end:]))


def _verify_shape(line: str) -> None:
    if not line:
        raise TicketError("there is no ticket: nothing was given", hint="`bento share NAME` prints one")
    if PREFIX.startswith(line):
        _verify_length(line)
    if not line.startswith(PREFIX):
        raise TicketError("this is no ticket", hint=f"a ticket is one line that begins with {PREFIX}")
    strange = [place for place, char in enumerate(line) if place >= len(PREFIX) and char not in _ALPHABET]
    if strange:
        raise TicketError(
            f"the ticket is mistyped: character {strange[0] + 1} is none of a ticket's",
            hint=f"behind {PREFIX} a ticket has the letters A to Z and the digits 2 to 7",
        )


def _decode(line: str) -> bytes:
    """The bytes of a line of a ticket's shape; TicketError if no ticket of any kind ends like this."""
    text = line.removeprefix(PREFIX)
    try:
        data = base64.b32decode(text + "=" * (-len(text) % 8))
    except ValueError:
        data = b""
    # Each ticket has one form: bits of the last character that carry nothing are 0.
    if len(data) < 2 + _CHECKSUM_BYTES or base64.b32encode(data).decode().rstrip("=") != text:
        _verify_length(line)
    return data


def _verify_length(line: str) -> None:
    if len(line) != _FUNCTION_CHARS:
        what = "cut short" if len(line) < _FUNCTION_CHARS else "too long"
        raise TicketError(
            f"the ticket is {what}: it has {len(line)} characters, of {_FUNCTION_CHARS}", hint="copy it again, whole"
        )


def _checksum(body: bytes) -> bytes:
    return hashlib.sha256(b"bento/ticket\0" + body).digest()[:_CHECKSUM_BYTES]
