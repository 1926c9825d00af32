"""Host names, looked up by the box: what `socket` and an event loop offer, for functions that can't ask a name server.

An address written as one is never looked up: the C library reads it, in every notation that it knows.
"""

import asyncio
import socket
from dataclasses import dataclass
from typing import Any, Final

from bento.guest.broker import Family, current, wait, wait_in_loop

Entry = tuple[Any, ...]
"""(family, type, proto, canonical name, address), as from `socket.getaddrinfo`."""

_FAMILIES: Final[dict[int, Family]] = {socket.AF_UNSPEC: "any", socket.AF_INET: "4", socket.AF_INET6: "6"}

_SERVICES: Final = {"domain": 53, "http": 80, "https": 443, "imap": 143, "imaps": 993, "smtp": 25, "ssh": 22}
"""An image has no /etc/services; these are what people write out."""

_read_numeric = socket.getaddrinfo


@dataclass(frozen=True)
class Lookup:
    """The arguments of one `getaddrinfo`; `host` and `port` in any form that it takes."""

    host: str | bytes | None
    port: str | bytes | int | None
    family: int = 0
    kind: int = 0
    proto: int = 0
    flags: int = 0

    def numeric(self) -> list[Entry] | None:
        """The answer without asking the box; None if it has to be asked.

        Raises: gaierror, also if it may not be asked.
        """
        host = self._ascii()
        if host and host.lower() in (b"localhost", socket.gethostname().encode()) and not self._is_numeric_only:
            # As /etc/hosts has it anywhere: smtplib, for one, asks for its own name, which is none of the grant's.
            host = b"::1" if self.family == socket.AF_INET6 else b"127.0.0.1"
        try:
            return self._read(host)
        except socket.gaierror as error:
            if error.errno != socket.EAI_NONAME or not host or self._is_numeric_only:
                raise
            if self.family not in _FAMILIES:
                raise socket.gaierror(socket.EAI_FAMILY, "ai_family not supported") from None
            return None

    def question(self) -> tuple[str, int, Family]:
        """Host, port and family, as the broker takes them."""
        return (self._ascii() or b"").decode("ascii", "replace"), self._port(), _FAMILIES[self.family]

    def entries(self, addresses: tuple[str, ...]) -> list[Entry]:
        """The answer, from the box's; streams only unless another type is asked for, since nothing else is dialled."""
        found: list[Entry] = []
        for address in addresses:
            kind = self.kind or socket.SOCK_STREAM
            read = _read_numeric(address.encode(), self._port(), 0, kind, self.proto, socket.AI_NUMERICHOST)
            found += [entry for entry in read if self.family in (0, entry[0])]
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        if self.flags & socket.AI_CANONNAME:
            found[0] = (*found[0][:3], self.question()[0], found[0][4])
        return found

    @property
    def _is_numeric_only(self) -> bool:
        return bool(self.flags & socket.AI_NUMERICHOST)

    def _read(self, host: bytes | None) -> list[Entry]:
        flags = (self.flags | socket.AI_NUMERICHOST) & ~socket.AI_ADDRCONFIG
        port = None if self.port is None else self._port()
        return [*_read_numeric(host, port, self.family, self.kind, self.proto, flags)]

    def _ascii(self) -> bytes | None:
        if not isinstance(self.host, str):
            return self.host
        # The codec for other alphabets is slow to import; what is wrong with an ASCII name, the box says.
        return self.host.encode("ascii" if self.host.isascii() else "idna")

    def _port(self) -> int:
        port = self.port or 0
        if isinstance(port, bytes):
            port = port.decode("ascii", "replace")
        if isinstance(port, str):
            port = int(port) if port.isdecimal() else _SERVICES.get(port, -1)
        if not 0 <= port <= 65535:
            raise socket.gaierror(socket.EAI_SERVICE, f"no such port: {self.port!r}")
        return port


def look_up(asked: Lookup) -> list[Entry]:
    """The entries of a lookup.

    Raises: gaierror; PermissionError if the grant does not cover the name; OSError if the box can't answer.
    """
    found = asked.numeric()
    return asked.entries(wait(current().resolve(*asked.question()))) if found is None else found


async def look_up_in_loop(asked: Lookup) -> list[Entry]:
    """The same, while the event loop goes on."""
    found = asked.numeric()
    return asked.entries(await wait_in_loop(current().resolve(*asked.question()))) if found is None else found


def _getaddrinfo(
    host: str | bytes | None,
    port: str | bytes | int | None,
    family: int = 0,
    type: int = 0,  # noqa: A002 (callers name it)
    proto: int = 0,
    flags: int = 0,
) -> list[Entry]:
    return look_up(Lookup(host, port, family, type, proto, flags))


def _gethostbyname(hostname: str) -> str:
    return _gethostbyname_ex(hostname)[2][0]


def _gethostbyname_ex(hostname: str) -> tuple[str, list[str], list[str]]:
    entries = look_up(Lookup(hostname or "0.0.0.0", None, socket.AF_INET, socket.SOCK_STREAM))  # noqa: S104
    return hostname, [], [entry[4][0] for entry in entries]


def _gethostbyaddr(ip_address: str) -> None:
    raise socket.herror(1, f"the box looks up no names of addresses, so none of {ip_address}")


_write_numeric = socket.getnameinfo


def _getnameinfo(sockaddr: tuple[Any, ...], flags: int) -> tuple[str, str]:
    return _write_numeric(sockaddr, flags | socket.NI_NUMERICHOST | socket.NI_NUMERICSERV)


async def _loop_getaddrinfo(
    _: asyncio.AbstractEventLoop,
    host: str | bytes | None,
    port: str | bytes | int | None,
    *,
    family: int = 0,
    type: int = 0,  # noqa: A002 (callers name it)
    proto: int = 0,
    flags: int = 0,
) -> list[Entry]:
    return await look_up_in_loop(Lookup(host, port, family, type, proto, flags))


async def _loop_getnameinfo(_: asyncio.AbstractEventLoop, sockaddr: tuple[Any, ...], flags: int = 0) -> tuple[str, str]:
    return _getnameinfo(sockaddr, flags)


def install() -> None:
    """Put these in the place of what `socket` and event loops have."""
    for function in (_getaddrinfo, _gethostbyname, _gethostbyname_ex, _gethostbyaddr, _getnameinfo):
        setattr(socket, function.__name__[1:], function)
    for method in (_loop_getaddrinfo, _loop_getnameinfo):
        setattr(asyncio.BaseEventLoop, method.__name__.removeprefix("_loop_"), method)
