"""Bring a box's processes up, and down again.

What needs root is done first: the folders, the reaper, and the relay watcher, which becomes the owner of the relay's
cookie. Then this process gives its rights away and is the server. If it is killed, the reaper lives on: the next start
takes over what it finds.
"""

import asyncio
import logging
import os
import resource
import signal
import socket
from pathlib import Path

from bento.box.accounts import become, find_user, make_folders
from bento.box.dialled import MAX_DIALLED, MAX_INSTANCE_DIALLED
from bento.box.instances import MAX_INSTANCE_STREAMS, MAX_STREAMS, limits_of
from bento.box.onion import start_onion_proxy
from bento.box.relay import FactsReader, start_watcher
from bento.box.server import MAX_CONVERSATIONS, Server, bind
from bento.box.settings import Settings
from bento.errors import BentoError, ConfigError
from bento.manifest import Manifest
from bento.policy import Grant, decide
from bento.protocol.broker import MAX_REQUESTS, Unavailable, encode_packet
from bento.protocol.messages import Package
from bento.sandbox import namespaces
from bento.sandbox.images import python_image
from bento.sandbox.libraries import packages
from bento.sandbox.link import ReaperLink
from bento.sandbox.spec import USUAL_LIMITS, Limits, SandboxConfig
from bento.sandbox.start import start_reaper
from bento.tor.process import find_program

_LOG = logging.getLogger("bento.box")

_DIALS = 1024
"""Under way at once in the whole box: 32 instances that load a page each. One more fails, and harms nothing else."""

_SPARE_DESCRIPTORS = 1024
"""The listener, links and logs, and most of all the lookups': 256 threads with a few sockets each."""


def run_box(settings: Settings) -> None:
    """Run a box until SIGTERM or SIGINT.

    Raises: ConfigError, TorUnavailable, SandboxUnavailable.
    """
    _log_to_stderr()
    is_root = namespaces.owns_uids(settings.uid_base, settings.policy.instances + settings.pool)
    account = find_user(settings) if is_root else None
    allow_descriptors(descriptors_needed(settings))
    make_folders(settings, account)
    if settings.onion:
        find_program("tor")  # while nothing is started yet
    facts = start_watcher(settings, is_root=is_root)  # first: it inherits what is open
    listener = bind(settings)
    reaper = start_reaper(sandbox_config(settings, account.uid if account else os.getuid()))
    installed = packages()  # while the reaper starts, and the code can be read: it may lie in a home of root's
    become(account)
    proxy = start_onion_proxy(settings) if settings.onion else None
    try:
        asyncio.run(_serve(settings, listener, reaper, facts, installed))
    except BaseExceptionGroup as group:
        raise find_reason(group) from None
    finally:
        if proxy is not None:
            proxy.stop()


def find_reason(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Of what tasks raised together: the first error that says what to do; the group itself if there is none."""
    found: BaseException = group.subgroup(BentoError) or group
    while isinstance(found, BaseExceptionGroup) and found is not group:
        found = found.exceptions[0]
    return found


def descriptors_needed(settings: Settings) -> int:
    """How many files the server may have open at once: conversations, streams, instances, what these have
    dialled and what they are dialling."""
    instances = settings.policy.instances
    streams = min(MAX_STREAMS, instances * MAX_INSTANCE_STREAMS)
    dialled = min(MAX_DIALLED, instances * MAX_INSTANCE_DIALLED) + min(_DIALS, instances * MAX_REQUESTS)
    return MAX_CONVERSATIONS + streams + instances + dialled + _SPARE_DESCRIPTORS


def allow_descriptors(needed: int) -> None:
    """Raise this process's limit of open files as far as it goes; ConfigError if that is not enough."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise ConfigError(
            f"the box needs {needed} open files at its busiest, the limit is {hard}",
            hint=f"raise it (LimitNOFILE={needed} in the service, ulimit -n), or allow fewer instances",
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _log_to_stderr() -> None:
    """Our own notices alone: what libraries log may name what must not be named."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("bento: box: %(message)s"))
    _LOG.addHandler(handler)
    _LOG.setLevel(logging.INFO)
    _LOG.propagate = False


def sandbox_config(settings: Settings, user: int) -> SandboxConfig:
    """How the box's sandbox is run, for a server with the uid `user`."""
    return SandboxConfig(
        run=settings.run,
        image=python_image(extra_ca=_read_ca(settings)),
        unavailable_packet=encode_packet(Unavailable()),
        server_uid=user,
        uid_base=settings.uid_base,
        slots=settings.policy.instances + settings.pool,
        waiting=_usual_limits(settings),
        pool_depth=settings.pool,
    )


def _usual_limits(settings: Settings) -> Limits:
    """What most functions get: a child that waits with these is handed over sooner."""
    usual = decide(Manifest(), settings.policy, instances=0)
    return limits_of(usual) if isinstance(usual, Grant) else USUAL_LIMITS


def _read_ca(settings: Settings) -> bytes:
    try:
        return Path(settings.extra_ca).read_bytes() if settings.extra_ca else b""
    except OSError as error:
        raise ConfigError(
            f"can't read extra_ca {settings.extra_ca}: {error.strerror}", hint="name a PEM file"
        ) from None


async def _serve(
    settings: Settings, listener: socket.socket, reaper: Path, facts: socket.socket, installed: tuple[Package, ...]
) -> None:
    link = await ReaperLink.connect(reaper)
    server = Server(settings, listener, link, FactsReader(facts), installed)
    serving = asyncio.ensure_future(server.run())
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, serving.cancel)
    try:
        await serving
    except asyncio.CancelledError:
        await server.stop()
