"""One tor's control port: questions, orders and events. The only module that knows `stem`.

    with Control.connect(Path("/run/x/control"), Path("/var/x/control_auth_cookie")) as control:
        print(control.get_info("version"))
        control.listen(["CIRC", "STREAM"], print)

Of stem only the connection is used (framing, cookie, threads): its own wrappers swallow what listeners raise, cache
answers, and lack what newer tors say.

`Control`          a connection; every method may be called from any thread and blocks until tor has answered
`Event`            one asynchronous event, split into words and keywords
`CommandRejected`  tor understood and said no
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import stem
import stem.connection
import stem.control
import stem.socket

from bento.errors import TorUnavailable

_WORD = re.compile(r'\s*(?:(?P<key>[A-Za-z0-9_]+)=)?(?P<value>"(?:[^"\\]|\\.)*"|\S+)')


class CommandRejected(TorUnavailable):
    """Tor answered with an error; `status` is its number (5xx)."""

    default_hint = "try again; if it stays so, this tor is too old or was set up by someone else"

    def __init__(self, command: str, status: int, text: str) -> None:
        super().__init__(f"tor rejected {command}: {text}")
        self.status = status


@dataclass(frozen=True)
class Event:
    """An asynchronous event of tor.

    >>> parse_event('STREAM 5 NEW 0 127.84.1.2:7000 PURPOSE=USER SOCKS_USERNAME="x y"').keywords["SOCKS_USERNAME"]
    'x y'
    """

    kind: str
    words: tuple[str, ...]
    keywords: Mapping[str, str]


def parse_event(text: str) -> Event:
    """Split the first line of an event, without its status number."""
    words: list[str] = []
    keywords: dict[str, str] = {}
    for found in _WORD.finditer(text.partition("\n")[0]):
        value = _unquoted(found["value"])
        if found["key"]:
            keywords[found["key"]] = value
        else:
            words.append(value)
    return Event(words[0] if words else "", tuple(words[1:]), keywords)


class Control:
    """An authenticated connection. `TorUnavailable` comes from every method once it is closed."""

    def __init__(self, connection: "_Connection") -> None:
        self._connection = connection

    @staticmethod
    def connect(control: Path, cookie: Path) -> "Control":
        """Connect to a unix control socket with the contents of the cookie's file.

        Raises: TorUnavailable if nobody listens there or the cookie does not open it.
        """
        try:
            connection = _Connection(stem.socket.ControlSocketFile(str(control)))
            stem.connection.authenticate_safecookie(connection, str(cookie))
        except (stem.ControllerError, stem.connection.AuthenticationFailure) as error:
            raise TorUnavailable(f"no control of tor at {control}: {error}", hint="is this tor running?") from None
        return Control(connection)

    def __enter__(self) -> "Control":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close; whoever waits for an answer gets TorUnavailable."""
        self._connection.close()

    def get_info(self, key: str) -> str:
        """The answer to `GETINFO key`."""
        answer = self._ask(f"GETINFO {key}")[0]
        return answer.removeprefix(f"{key}=").removeprefix("\n")

    def get_conf(self, name: str) -> tuple[str, ...]:
        """The values of an option; one that stands at its default and has none gives ()."""
        lines = [line for line in self._ask(f"GETCONF {name}") if "=" in line]
        return tuple(_unquoted(line.partition("=")[2]) for line in lines)

    def set_conf(self, options: Mapping[str, str]) -> None:
        self._ask("SETCONF " + " ".join(f'{name}="{value}"' for name, value in options.items()))

    def listen(self, kinds: Sequence[str], callback: Callable[[Event | None], None]) -> None:
        """Have `callback` called, from a thread of stem's, for each event; with None when the connection has closed."""
        self._connection.callback = callback
        self._ask("SETEVENTS " + " ".join(kinds))

    def extend_circuit(self, path: Sequence[str] = ()) -> str:
        """Begin a circuit through the relays of these fingerprints, or of tor's own choice; returns its id."""
        hops = ",".join(f"${fingerprint}" for fingerprint in path)
        return self._ask(f"EXTENDCIRCUIT 0 {hops}".rstrip())[0].split()[1]

    def attach_stream(self, stream: str, circuit: str) -> None:
        """Attach a stream that waits for it; circuit "0" lets tor choose."""
        self._ask(f"ATTACHSTREAM {stream} {circuit}")

    def close_stream(self, stream: str, reason: int) -> None:
        """Close a stream; `reason` is a RELAY_END reason of tor-spec, which its SOCKS reply will carry."""
        self._ask(f"CLOSESTREAM {stream} {reason}")

    def close_circuit(self, circuit: str) -> None:
        self._ask(f"CLOSECIRCUIT {circuit}")

    def _ask(self, command: str) -> list[str]:
        """The lines of tor's answer."""
        if "\n" in command or "\r" in command:
            raise ValueError("a control command is one line")
        try:
            answer = self._connection.msg(command).content()
        except stem.ControllerError as error:
            raise TorUnavailable(f"the connection to tor is lost: {error}", hint="try again") from None
        status, _, text = answer[-1]
        if not status.startswith("2"):
            raise CommandRejected(command.split(maxsplit=1)[0], int(status), text)
        return [line for _, _, line in answer]


class _Connection(stem.control.BaseController):  # type: ignore[misc] # stem has no types
    """stem's connection, with its two hooks made plain calls."""

    def __init__(self, socket: Any) -> None:
        self.callback: Callable[[Event | None], None] = lambda event: None
        super().__init__(socket)
        self.add_status_listener(self._report_closing, spawn=False)

    def _handle_event(self, message: Any) -> None:
        self.callback(parse_event(str(message)))

    def _report_closing(self, controller: Any, state: str, at_s: float) -> None:
        if state == stem.control.State.CLOSED:
            self.callback(None)


def _unquoted(value: str) -> str:
    if len(value) >= 2 and value[0] == value[-1] == '"':
        return re.sub(r"\\(.)", r"\1", value[1:-1])
    return value
