"""SOCKS 5 as tor speaks it, without waiting: everything up to CONNECT is sent at once, the answers are read later.

>>> reader = ReplyReader()
>>> reader.feed(bytes.fromhex("0100" "05000001 00000000 0000") + b"data")
b'data'
"""

import ipaddress
from typing import Final

from bento.errors import BoxUnreachable, ProtocolError

NOT_ALLOWED: Final = 2
"""The relay's exit policy refuses the address."""

_REASONS: Final = {
    1: "the circuit broke or tor gave up",
    NOT_ALLOWED: "the relay does not let circuits end at the box",
    3: "the network is unreachable from the relay",
    4: "the box can't be found: its onion service is not there, or the circuit broke",
    5: "its server is down: nothing listens at its address",
    6: "no answer in time",
    0xF0: "its onion service has no descriptor: it is down",
    0xF1: "its onion service's descriptor is not valid",
    0xF2: "its onion service could not be introduced to",
    0xF3: "no rendezvous with its onion service",
    0xF6: "its onion address is not valid",
    0xF7: "its onion service did not answer in time",
}


class SocksRefused(BoxUnreachable):
    """Tor could not connect; `reply` is the number it answered with."""

    def __init__(self, reply: int) -> None:
        super().__init__(f"no connection to the box: {_REASONS.get(reply, f'SOCKS error {reply}')}")
        self.reply = reply


def encode_connect(username: str, host: str, port: int) -> bytes:
    """Greeting, user name (tor isolates streams by it) and CONNECT, in one."""
    name = username.encode()
    greeting = b"\x05\x01\x02"
    login = b"\x01" + bytes([len(name)]) + name + b"\x01x"
    return greeting + login + b"\x05\x01\x00" + _encode_host(host) + port.to_bytes(2, "big")


def _encode_host(host: str) -> bytes:
    try:
        return b"\x01" + ipaddress.IPv4Address(host).packed
    except ipaddress.AddressValueError:
        name = host.encode("ascii")
        return b"\x03" + bytes([len(name)]) + name


class ReplyReader:
    """Tor's answers to `encode_connect`: to the greeting (which tor leaves out when all came in one write), to the
    user name, and to CONNECT.
    """

    def __init__(self) -> None:
        self._held = b""

    def feed(self, data: bytes) -> bytes | None:
        """What came behind the answers, once they are whole; None until then.

        Raises: SocksRefused, ProtocolError.
        """
        self._held += data
        answers = self._held.removeprefix(_METHOD)
        if answers[:2] not in (_LOGIN, _LOGIN[:1], b"") and self._held != _METHOD[:1]:
            raise ProtocolError("tor did not take the SOCKS user name", hint="is this Bento's own tor?")
        reply = answers[2:]
        if len(reply) >= 2 and reply[1] != 0:
            raise SocksRefused(reply[1])
        if len(reply) < 5:
            return None
        size = 4 + {1: 4, 3: reply[4] + 1, 4: 16}.get(reply[3], 4) + 2
        return reply[size:] if len(reply) >= size else None


_METHOD: Final = b"\x05\x02"
_LOGIN: Final = b"\x01\x00"
