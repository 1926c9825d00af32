"""Bring a box's processes up, and down again.

What needs root is done first: the reaper, and the relay watcher, which becomes the owner of the relay's cookie. Then
this process gives its rights away and is the server. If it is killed, the reaper lives on: the next start takes over
what it finds.
"""

import asyncio
import contextlib
import logging
import os
import pwd
import signal
import socket
import sys
from pathlib import Path

from bento.box.onion import start_onion_proxy
from bento.box.relay import FactsReader, is_closed, watch
from bento.box.server import Server, bind
from bento.box.settings import Settings
from bento.errors import ConfigError
from bento.protocol.broker import Unavailable, encode_packet
from bento.sandbox import namespaces
from bento.sandbox.images import python_image
from bento.sandbox.link import ReaperLink
from bento.sandbox.spec import SandboxConfig
from bento.sandbox.start import start_reaper

_LOG = logging.getLogger("bento.box")


def run_box(settings: Settings) -> None:
    """Run a box until SIGTERM or SIGINT.

    Raises: ConfigError, TorUnavailable, SandboxUnavailable.
    """
    _log_to_stderr()
    is_root = namespaces.owns_uids(settings.uid_base, settings.policy.instances + settings.pool)
    user = find_user(settings) if is_root else os.getuid()
    _make_directories(settings, user)
    facts = _start_watcher(settings, is_root)  # first: it inherits what is open
    listener = bind(settings)
    reaper = start_reaper(sandbox_config(settings, user))
    if is_root:
        _become(user)
    _verify_entry(settings)
    proxy = start_onion_proxy(settings) if settings.onion else None
    try:
        asyncio.run(_serve(settings, listener, reaper, facts))
    finally:
        if proxy is not None:
            proxy.stop()


def _log_to_stderr() -> None:
    """Our own notices alone: what libraries log may name what must not be named."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("bento: box: %(message)s"))
    _LOG.addHandler(handler)
    _LOG.setLevel(logging.INFO)
    _LOG.propagate = False


def find_user(settings: Settings) -> int:
    """The uid that a box started as root gives its server; ConfigError if none is named, or it is root."""
    name = settings.user
    hint = "create one with: adduser --system bento, and set user"
    if name is None:
        raise ConfigError("a box started as root needs a user to become", hint=hint)
    try:
        user = int(name) if name.isdigit() else pwd.getpwnam(name).pw_uid
    except KeyError:
        raise ConfigError(f"there is no user {name}", hint=hint) from None
    if user == 0:
        raise ConfigError("the box's user must not be root", hint=hint)
    return user


def sandbox_config(settings: Settings, user: int) -> SandboxConfig:
    """How the box's sandbox is run."""
    return SandboxConfig(
        run=settings.run,
        image=python_image(extra_ca=_read_ca(settings)),
        unavailable_packet=encode_packet(Unavailable()),
        server_uid=user,
        uid_base=settings.uid_base,
        slots=settings.policy.instances + settings.pool,
        pool_depth=settings.pool,
    )


def _read_ca(settings: Settings) -> bytes:
    try:
        return Path(settings.extra_ca).read_bytes() if settings.extra_ca else b""
    except OSError as error:
        raise ConfigError(
            f"can't read extra_ca {settings.extra_ca}: {error.strerror}", hint="name a PEM file"
        ) from None


def _make_directories(settings: Settings, user: int) -> None:
    for directory in (Path(settings.state), Path(settings.run), settings.onion_directory):
        try:
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            _give(directory, user)
        except OSError as error:
            raise ConfigError(f"can't make {directory}: {error.strerror}", hint="check state and run") from None
    service = settings.onion_directory / "service"
    for path in (service, *service.glob("*")):
        if path.exists():
            _give(path, user)


def _give(path: Path, user: int) -> None:
    if path.stat().st_uid != user:
        os.chown(path, user, user)


def _start_watcher(settings: Settings, is_root: bool) -> socket.socket:
    """Fork the relay watcher. Returns: the server's end of its channel, whose closing ends it."""
    ours, theirs = socket.socketpair()
    if os.fork() == 0:
        ours.close()
        with contextlib.suppress(BaseException):
            if is_root:
                _become(_owner_of(Path(settings.relay.cookie), theirs))
            watch(settings.relay.control_path, Path(settings.relay.cookie), settings.relay.outbound, theirs)
        os._exit(0)
    theirs.close()
    return ours


def _owner_of(cookie: Path, channel: socket.socket) -> int:
    """Whose the relay's cookie is; a relay that starts after its box is waited for."""
    while not cookie.exists():
        if is_closed(channel, wait_s=1):
            sys.exit()
    return cookie.stat().st_uid


def _become(user: int) -> None:
    if user:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)


def _verify_entry(settings: Settings) -> None:
    for directory in (settings.state, settings.run):
        if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
            hint = "every folder above it must let that user pass"
            raise ConfigError(f"the user {os.getuid()} of the box can't enter {directory}", hint=hint)


async def _serve(settings: Settings, listener: socket.socket, reaper: Path, facts: socket.socket) -> None:
    link = await ReaperLink.connect(reaper)
    server = Server(settings, listener, link, FactsReader(facts))
    serving = asyncio.ensure_future(server.run())
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, serving.cancel)
    try:
        await serving
    except asyncio.CancelledError:
        await link.stop()
