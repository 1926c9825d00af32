"""Start a tor process: the user's own one of the agent, a box's onion proxy, and every node of a private network.

    client_lines(...)   what Bento's own tor has in its torrc, live and in a private network alike
    start_tor(...)      writes the torrc and starts tor; returns at once
    TorProcess          what was started: pid, paths, `wait_for_control`, `stop`

Sockets stand in a directory of their own: tor wants it private (0700) and its path under 100 bytes.
"""

import os
import shutil
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bento.errors import TorUnavailable

MAX_SOCKET_PATH_BYTES: Final = 100
"""A unix socket's address holds 107; tor writes a few more of its own."""

_POLL_S: Final = 0.02
_SEARCH: Final = "/usr/local/bin:/usr/bin:/usr/local/sbin:/usr/sbin"


@dataclass(frozen=True)
class TorProcess:
    """A tor that was started. `socks` exists only if its torrc asks for it; `cookie` opens `control`."""

    process: "subprocess.Popen[bytes]"
    data: Path
    control: Path
    socks: Path
    cookie: Path
    log: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    def wait_for_control(self, limit_s: float = 30.0) -> None:
        """Wait until the control socket takes connections.

        Raises: TorUnavailable if tor ended or the limit passed; its hint is the log's end.
        """
        end = time.monotonic() + limit_s
        while not (self.control.exists() and self.cookie.exists()):
            if self.process.poll() is not None:
                raise TorUnavailable(f"tor ended with status {self.process.returncode}", hint=log_tail(self.log))
            if time.monotonic() > end:
                raise TorUnavailable(f"tor opened no control socket within {limit_s:g} s", hint=log_tail(self.log))
            time.sleep(_POLL_S)

    def stop(self, limit_s: float = 5.0) -> None:
        """End tor (it saves its state first) and wait; kill it after `limit_s`."""
        self.process.terminate()
        try:
            self.process.wait(limit_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def find_program(name: str) -> str:
    """The path of a program of Debian's package `tor`; TorUnavailable if it is not installed."""
    path = shutil.which(name) or shutil.which(name, path=_SEARCH)
    if path is None:
        raise TorUnavailable(f"the program {name} is missing")
    return path


def client_lines(socks: Path) -> list[str]:
    """The torrc of Bento's own tor, beyond what `start_tor` adds.

    ConfluxEnabled 0: with it a circuit may have two first hops, and the guard could not be told.
    """
    return [
        "ClientOnly 1",
        f"SocksPort unix:{socks}",
        "ConfluxEnabled 0",
    ]


def start_tor(
    lines: Sequence[str],
    *,
    data: Path,
    sockets: Path,
    defaults: Path | None = None,
    environment: Mapping[str, str] | None = None,
) -> TorProcess:
    """Write `data`/torrc and start tor with it; returns before tor is ready.

    Args:
        lines: the torrc beyond DataDirectory, ControlPort (`sockets`/control) and CookieAuthentication.
        data: persistent; made private. The log, `data`/notice.log, begins anew.
        sockets: a short path; made private.
        defaults: stands for /etc's defaults; None for none at all.
    Raises: TorUnavailable if tor is not installed or the socket's path is too long.
    """
    program = find_program("tor")
    for directory in (data, sockets):
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    control = _short(sockets / "control")
    own = [f"DataDirectory {data}", f"ControlPort unix:{control}", "CookieAuthentication 1"]
    torrc = data / "torrc"
    torrc.write_text("\n".join([*own, *lines, ""]))
    cookie = data / "control_auth_cookie"
    for stale in (control, cookie):
        stale.unlink(missing_ok=True)
    log = data / "notice.log"
    command = [program, "-f", str(torrc), "--defaults-torrc", str(defaults or os.devnull)]
    # Without a Log line tor writes its notices to stdout.
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment
        )
    return TorProcess(process, data, control, _short(sockets / "socks"), cookie, log)


def log_tail(log: Path, lines: int = 5) -> str:
    """The last lines of a log, with its path."""
    try:
        tail = log.read_text(errors="replace").splitlines()[-lines:]
    except OSError:
        tail = []
    return "\n".join([f"the end of {log}:", *tail])


def _short(path: Path) -> Path:
    size = len(os.fsencode(path))
    if size > MAX_SOCKET_PATH_BYTES:
        raise TorUnavailable(
            f"the socket's path has {size} bytes, tor's limit is {MAX_SOCKET_PATH_BYTES}: {path}",
            hint="use a shorter directory for sockets",
        )
    return path
