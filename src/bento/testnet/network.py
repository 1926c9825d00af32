"""A private Tor network as an object."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from bento.errors import NetworkDown, UsageError, from_wire
from bento.testnet import instance, namespace
from bento.testnet.boot import BOOT_LIMIT_S
from bento.testnet.layout import MAX_LATENCY_MS, BoxPlan, Options, boxes_for
from bento.testnet.status import AgentTor, Status, with_host_pids
from bento.tor.process import find_program, log_tail

DOWN_LIMIT_S: Final = 5.0
"""The promise of `down`; after most of it the supervisor is killed, which ends all the rest at once."""
_KILL_AFTER_S: Final = 4.5
_REQUEST_LIMIT_S: Final = 20.0
_POLL_S: Final = 0.02
_ENDED: Final = b'{"error": "the network ended", "code": "network-down", "hint": ""}'


class Network:
    """The private network whose files are in `directory`, up or not.

    Args:
        directory: its keys, consensus and logs; kept between starts.
        boxes: how many, or what they are to be like.
        latency_ms: delay of each link between relays and of clients to them, one way.
        is_detached: leave it up when this process ends.
    Raises: UsageError if boxes or latency are out of range.
    """

    def __init__(
        self,
        directory: Path | str,
        *,
        boxes: int | Sequence[BoxPlan] = 0,
        latency_ms: int = 0,
        is_detached: bool = False,
    ) -> None:
        self.directory = Path(directory).absolute()
        plans = boxes_for(boxes) if isinstance(boxes, int) else tuple(boxes)
        boxes_for(len(plans))
        if not 0 <= latency_ms <= MAX_LATENCY_MS:
            raise UsageError(f"a latency of {latency_ms} ms was asked for, the limit is 0 to {MAX_LATENCY_MS}")
        self._options = Options(str(self.directory), plans, latency_ms, is_detached)
        self._channel: socket.socket | None = None
        self._janitor: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self, say: Callable[[str], None] = lambda step: None) -> None:
        """Start it and return when it is ready; `say` is told of each step.

        Raises: NetworkDown if it is up already or can't start; TorUnavailable without tor.
        """
        for program in ("tor", "tor-gencert"):
            find_program(program)
        self._make_directory()
        if not instance.clean_if_dead(self.directory):
            raise NetworkDown(f"a network is up in {self.directory} already", hint="`bento net down` ends it")
        self._launch()
        try:
            self._await_ready(say)
        except BaseException:
            self.stop()
            raise
        if self._options.is_detached:
            self._let_go()

    def stop(self) -> bool:
        """End every process of it and remove what they leave, within DOWN_LIMIT_S; False if it was not up."""
        was_up = not instance.clean_if_dead(self.directory)
        if was_up:
            with contextlib.suppress(OSError, NetworkDown):
                self._ask({"op": "down"}, limit_s=1.0)
            self._await_down()
        self._let_go()
        return was_up

    def wait(self) -> None:
        """Wait until it ends, however it does. Only for the one who started it, and not detached."""
        if self._channel:
            self._channel.settimeout(None)
            while self._channel.recv(4096):
                pass

    def status(self) -> Status:
        """Raises: NetworkDown if it is not up."""
        found = msgspec.convert(self._ask({"op": "status"}), Status)
        return with_host_pids(found, self.supervisor_pid)

    @property
    def supervisor_pid(self) -> int:
        """The supervisor's pid on this host; killing it ends the network. Raises: NetworkDown if it is not up."""
        return self._up().supervisor_pid

    def site(self, name: str, folder: Path | str) -> None:
        """Serve `folder` at http://`name`/ and https://`name`/ inside, from now on; `name` ends in .test."""
        self._ask({"op": "site", "name": name, "folder": str(Path(folder).absolute())})

    def start_box(self, name: str) -> None:
        """Start a box, such as "box0", whose server has ended."""
        self._ask({"op": "box", "name": name})

    def command(self, argv: Sequence[str]) -> list[str]:
        """The command line that runs `argv` inside, for `subprocess` or `exec`; its status is passed through."""
        return namespace.inside(self.supervisor_pid, argv, Path.cwd())

    def exec(self, argv: Sequence[str], **options: Any) -> "subprocess.CompletedProcess[Any]":
        """`subprocess.run` inside the network; `options` are its own."""
        return subprocess.run(self.command(argv), **options)

    @contextlib.contextmanager
    def agent_tor(self, state: Path | str) -> Iterator[AgentTor]:
        """A user's own tor for the block, one for each state directory."""
        with self._connect() as connection:
            connection.settimeout(_REQUEST_LIMIT_S)
            yield msgspec.convert(_exchange(connection, {"op": "agent_tor", "state": str(state)}), AgentTor)

    def _make_directory(self) -> None:
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self.directory.chmod(0o711 if namespace.is_root() else 0o700)
            (self.directory / "lock").touch()
        except OSError as error:
            raise NetworkDown(
                f"the directory {self.directory} can't be used: {error.strerror}", hint="name another with --dir"
            ) from None

    def _launch(self) -> None:
        ours, theirs = socket.socketpair()
        command = [sys.executable, "-m", "bento.testnet", msgspec.json.encode(self._options).decode()]
        with theirs, (self.directory / "supervisor.log").open("wb") as log:
            self._janitor = subprocess.Popen(
                [*command, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        self._channel = ours

    def _await_ready(self, say: Callable[[str], None]) -> None:
        assert self._channel
        self._channel.settimeout(BOOT_LIMIT_S + DOWN_LIMIT_S)
        with self._channel.makefile("rb") as lines:
            for line in lines:
                message = json.loads(line)
                if "error" in message:
                    raise from_wire(message["code"], message["error"], message["hint"])
                if "ready" in message:
                    return
                say(message["step"])
        log = log_tail(self.directory / "supervisor.log")
        raise NetworkDown("the network's supervisor ended while it started", hint=log)

    def _await_down(self) -> None:
        started = time.monotonic()
        is_killed = False
        while not instance.clean_if_dead(self.directory):
            waited_s = time.monotonic() - started
            if waited_s > _KILL_AFTER_S and not is_killed:
                with contextlib.suppress(NetworkDown, ProcessLookupError):
                    os.kill(self.supervisor_pid, signal.SIGKILL)
                is_killed = True
            if waited_s > 2 * DOWN_LIMIT_S:
                raise NetworkDown(f"the network in {self.directory} did not end within {2 * DOWN_LIMIT_S:g} s")
            time.sleep(_POLL_S)

    def _let_go(self) -> None:
        if self._channel:
            self._channel.close()
            self._channel = None
        if self._janitor and not self._options.is_detached:
            self._janitor.wait(DOWN_LIMIT_S)
        self._janitor = None

    def _up(self) -> instance.Instance:
        if instance.clean_if_dead(self.directory) or not (found := instance.recorded(self.directory)):
            raise NetworkDown(
                f"no network is up in {self.directory}", hint=f"bento net up --detach --dir {self.directory}"
            )
        return found

    def _connect(self) -> socket.socket:
        found = self._up()
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(str(found.socket))
        except OSError as error:
            connection.close()
            raise NetworkDown(f"the network's supervisor does not answer: {error.strerror}") from None
        return connection

    def _ask(self, request: dict[str, str], limit_s: float = _REQUEST_LIMIT_S) -> Any:
        with self._connect() as connection:
            connection.settimeout(limit_s)
            return _exchange(connection, request)


def default_directory() -> Path:
    """BENTO_NET if it is set, else bento/net in the XDG state directory."""
    if chosen := os.environ.get("BENTO_NET"):
        return Path(chosen)
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "bento" / "net"


def _exchange(connection: socket.socket, request: dict[str, str]) -> Any:
    try:
        connection.sendall(json.dumps(request).encode() + b"\n")
        with connection.makefile("rb") as replies:
            reply = json.loads(replies.readline() or _ENDED)
    except OSError as error:
        raise NetworkDown(f"the network's supervisor does not answer: {error}") from None
    if "error" in reply:
        raise from_wire(reply["code"], reply["error"], reply["hint"])
    return reply
