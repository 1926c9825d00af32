"""Reach the user's agent; start it if there is none. Of several commands at once one starts it, the others wait.

The command makes the agent's listening socket and hands it to the agent, so it can connect at once.
"""

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Final

from bento.client import agent_messages
from bento.client.lock import locked
from bento.client.profile import Profile
from bento.errors import NetworkDown, TorUnavailable

START_LIMIT_S: Final = 15.0
"""For another command's start of the agent: a Python start takes 0.2 s, on a busy machine a few."""

_BACKLOG: Final = 64
_CONNECT_LIMIT_S: Final = 5.0
"""An agent that accepts nobody for so long is as good as none."""


async def connect_agent(profile: Profile) -> socket.socket:
    """A non-blocking connection to the agent of this state directory and network.

    Raises: NetworkDown if the private network is not there; TorUnavailable if the agent can't be started.
    """
    _verify_network(profile)
    profile.agent.mkdir(mode=0o700, parents=True, exist_ok=True)
    connection = _connect(profile)
    if connection is None:
        connection = await _connect_or_start(profile)
    if connection is None:
        raise TorUnavailable("the agent that keeps Bento's tor did not start", hint="try again")
    return connection


async def _connect_or_start(profile: Profile) -> socket.socket | None:
    try:
        async with locked(profile.agent / "starting", START_LIMIT_S):
            connection = _connect(profile)
            if connection is None:
                await asyncio.to_thread(_start, profile)
                connection = _connect(profile)
            return connection
    except TimeoutError:
        raise TorUnavailable(
            f"another command has been starting the agent for {START_LIMIT_S:g} s", hint="end it, then try again"
        ) from None


def _verify_network(profile: Profile) -> None:
    if profile.net is not None and not (profile.net / "instance.json").exists():
        raise NetworkDown(f"no network is up in {profile.net}", hint=f"bento net up --detach --dir {profile.net}")


def _connect(profile: Profile) -> socket.socket | None:
    """A connection, or None if no agent is there. Only a socket of this very user is trusted."""
    try:
        address = (profile.agent / "address").read_text()
    except FileNotFoundError:
        return None
    connection = agent_messages.new_socket()
    connection.settimeout(_CONNECT_LIMIT_S)
    try:
        connection.connect(address)
    except OSError:
        connection.close()
        return None
    if agent_messages.peer_user(connection) != os.geteuid():
        connection.close()
        return None
    connection.setblocking(False)
    return connection


def _start(profile: Profile) -> None:
    address = profile.agent / "address"
    _remove_stale(address)
    directory = Path(tempfile.mkdtemp(prefix="bento-agent-", dir=_short_directory()))
    with agent_messages.new_socket() as listener:
        listener.bind(str(directory / "agent"))
        listener.listen(_BACKLOG)
        fresh = address.with_suffix(".new")
        fresh.write_text(str(directory / "agent"))
        fresh.rename(address)
        command = [sys.executable, "-P", "-m", "bento.client.agent", str(listener.fileno()), str(profile.state)]
        with open(agent_log(profile), "wb", opener=_open_private) as log:
            process = subprocess.Popen(
                [*command, str(profile.net or "")],
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                pass_fds=[listener.fileno()],
                start_new_session=True,
            )
    # It forks at once and its first process ends.
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(START_LIMIT_S)


def agent_log(profile: Profile) -> Path:
    """Where an agent that fails writes why: nothing of boxes, circuits or functions."""
    return profile.agent / "agent.log"


def _open_private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _remove_stale(address: Path) -> None:
    """Remove the socket of an agent that was killed."""
    with contextlib.suppress(OSError):
        directory = Path(address.read_text()).parent
        if directory.stat().st_uid == os.geteuid() and directory.name.startswith("bento-agent-"):
            shutil.rmtree(directory, ignore_errors=True)


def _short_directory() -> str | None:
    """Where sockets' paths stay short; the runtime directory is this user's alone."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    return runtime if runtime and len(runtime) < 40 and os.access(runtime, os.W_OK) else "/tmp"  # noqa: S108 - mkdtemp
