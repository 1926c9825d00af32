"""Tell an operator whether a box would work here, and what to do if not: `bento box check`.

Nothing is taken on trust: a sandbox is really started, the relay is asked for the policy it really has, and a circuit
that really ends at this relay is built through the network, by a tor of the check's own.
"""

import asyncio
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import SystemRandom

from msgspec import structs

from bento.box.accounts import find_user
from bento.box.server import bind
from bento.box.settings import Settings
from bento.box.start import sandbox_config
from bento.box.watcher import read_facts
from bento.config import ONION_PORT
from bento.errors import BentoError, BoxUnreachable, ConfigError, TorUnavailable
from bento.exit_policy import RelayFacts
from bento.sandbox.link import ReaperLink
from bento.sandbox.namespaces import owns_uids
from bento.sandbox.spec import SandboxConfig
from bento.sandbox.start import start_reaper
from bento.tor.box_item import BoxItem
from bento.tor.circuits import Circuits, allow_exit_to_self
from bento.tor.control import CommandRejected, Control
from bento.tor.process import TorProcess, client_lines, start_tor
from bento.tor.socks import ReplyReader, encode_connect
from bento.tor.torrc import relay_lines, verify_order

_REACH_S = 180
"""A new tor on the live network is ready in half a minute; a slow line takes a few."""

_SETTLE_S = 30
"""A relay rebuilds its descriptor within seconds of a change."""

_BOOTSTRAP_POLL_S = 0.2
_USERNAME = "check"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    is_fine: bool
    text: str
    hint: str = ""


def check_box(settings: Settings) -> Iterator[Finding]:
    """Look at everything a box needs, one by one; each finding comes as soon as it is known."""
    yield Finding(True, f"the configuration is well formed; the box listens on {settings.address}:{settings.port}")
    yield _finding(lambda: _check_sandbox(settings))
    try:
        control = Control.connect(settings.relay.control_path, Path(settings.relay.cookie))
    except TorUnavailable as error:
        yield Finding(False, error.message, "is the relay running? name its control socket and cookie in [relay]")
        return
    with control:
        yield _finding(lambda: _check_policy(settings, control))
        yield _finding(lambda: _check_resolver(settings, control))
        yield _finding(lambda: _check_contact(settings, control))
        fingerprint = control.get_info("fingerprint")
    yield _finding(lambda: _check_reach(settings, fingerprint))


def _finding(look: Callable[[], str]) -> Finding:
    try:
        return Finding(True, look())
    except BentoError as error:
        return Finding(False, error.message, error.hint)


def _check_sandbox(settings: Settings) -> str:
    """Start a sandbox of its own, and stop it."""
    if owns_uids(settings.uid_base, settings.policy.instances):
        find_user(settings)
    run = Path(tempfile.mkdtemp(prefix="bento-"))
    try:
        config = structs.replace(sandbox_config(settings, os.getuid()), run=str(run), slots=1, pool_depth=1)
        tier = asyncio.run(_try_reaper(config))
    finally:
        shutil.rmtree(run, ignore_errors=True)
    weaker = "" if tier != "rlimits" else " (no cgroup is delegated: memory and threads are limited for each process)"
    return f"functions can be confined; limits by {tier}{weaker}"


async def _try_reaper(config: SandboxConfig) -> str:
    link = await ReaperLink.connect(start_reaper(config))
    tier = link.tier
    await link.stop()
    return tier


def _settled_facts(control: Control) -> RelayFacts:
    """The relay's facts; a tor that was just started or changed has none for some seconds."""
    end_s = time.monotonic() + _SETTLE_S
    while True:
        try:
            return read_facts(control, None)
        except CommandRejected:
            if time.monotonic() > end_s:
                raise
            time.sleep(_BOOTSTRAP_POLL_S)


def _check_policy(settings: Settings, control: Control) -> str:
    facts = _settled_facts(control)
    try:
        verify_order(facts.policy, settings.address, settings.port, facts.own)
    except ConfigError as error:
        ours = relay_lines(settings.address, settings.port, facts.own, [], None)
        had = [rule for rule in control.get_conf("ExitPolicy") if f"ExitPolicy {rule}" not in ours[:-1]]
        wanted = relay_lines(settings.address, settings.port, facts.own, had, None)
        hint = f"in {settings.relay.torrc}, in this order:\n" + "\n".join(f"        {line}" for line in wanted)
        raise ConfigError(error.message, hint=hint) from None
    return "the relay's exit policy accepts the box first, then rejects private and own addresses"


def _check_resolver(settings: Settings, control: Control) -> str:
    """A relay that accepts nothing but its box must not resolve names for the whole network."""
    rules = _settled_facts(control).policy.split(",")
    others = [rule for rule in rules if rule.startswith("accept") and settings.address not in rule]
    if others:
        return "the relay is an exit; it resolves names as it did before"
    files = control.get_conf("ServerDNSResolvConfFile")
    text = Path(files[0]).read_text(errors="replace") if files and Path(files[0]).is_file() else ""
    servers = [line.split()[1] for line in text.splitlines() if line.startswith("nameserver ")]
    if not servers or not all(server.startswith("127.") for server in servers):
        raise ConfigError(
            "the relay was no exit before, and with the box's accept line it resolves names for any Tor client",
            hint='set ServerDNSResolvConfFile to a file that holds only: "nameserver 127.0.0.1:1"',
        )
    return "the relay resolves no names for others"


def _check_contact(settings: Settings, control: Control) -> str:
    contact = " ".join(control.get_conf("ContactInfo"))
    found = BoxItem.parse(contact)
    if found != settings.item:
        said = "has no well-formed bento: item" if found is None else f"says {found.encode()}"
        raise ConfigError(
            f"the relay's ContactInfo {said}",
            hint=f"add this word to ContactInfo in {settings.relay.torrc}: {settings.item.encode()}",
        )
    return "the relay's ContactInfo names the box"


def _check_reach(settings: Settings, fingerprint: str) -> str:
    """Reach the box as a user does, with a new tor: over a circuit that ends at this relay, else by onion service."""
    folder = Path(tempfile.mkdtemp(prefix="bento-"))
    defaults = settings.onion.defaults_torrc if settings.onion else None
    try:
        tor = start_tor(
            client_lines(folder / "sockets" / "socks"),
            data=folder / "data",
            sockets=folder / "sockets",
            defaults=Path(defaults) if defaults else None,
        )
        try:
            return asyncio.run(_reach(settings, fingerprint, tor))
        finally:
            tor.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


async def _reach(settings: Settings, fingerprint: str, tor: TorProcess) -> str:
    try:
        async with asyncio.timeout(_REACH_S):
            await asyncio.to_thread(tor.wait_for_control)
            with Control.connect(tor.control, tor.cookie) as control:
                while "PROGRESS=100" not in control.get_info("status/bootstrap-phase"):  # noqa: ASYNC110
                    await asyncio.sleep(_BOOTSTRAP_POLL_S)
                if allow_exit_to_self(control):
                    await _dial(settings, tor, control, fingerprint)
                    return "the box can be reached over a circuit that ends at its relay"
                await _dial(settings, tor, control, None)
                return "the box can be reached by its onion service; users' tors allow no other way on this network"
    except TimeoutError:
        raise BoxUnreachable(
            f"the box was not reached within {_REACH_S} s", hint="is the relay in the consensus?"
        ) from None


async def _dial(settings: Settings, tor: TorProcess, control: Control, fingerprint: str | None) -> None:
    """Open a stream to the box: over a circuit to the relay of this fingerprint, or None by its onion service."""
    host, port = settings.address, settings.port
    if fingerprint is None:
        if settings.onion_address is None:
            raise BoxUnreachable(
                "only an onion service can be reached on this network", hint="add [onion], and run once"
            )
        host, port = f"{settings.onion_address}.onion", ONION_PORT
    circuits = Circuits(control, SystemRandom())
    await circuits.take_over()
    following = asyncio.ensure_future(circuits.run())
    listener = _listener_unless_running(settings)
    try:
        circuits.route(_USERNAME, await circuits.build(fingerprint) if fingerprint else None)
        reader, writer = await asyncio.open_unix_connection(str(tor.socks))
        writer.write(encode_connect(_USERNAME, host, port))
        replies = ReplyReader()
        while replies.feed(await reader.read(1024)) is None:
            if reader.at_eof():
                raise BoxUnreachable("tor closed the stream to the box")
        writer.close()
    finally:
        following.cancel()
        if listener is not None:
            listener.close()


def _listener_unless_running(settings: Settings) -> socket.socket | None:
    """Something for the circuit to end at: the box, or else a socket in its place."""
    try:
        listener = bind(settings)
    except ConfigError:
        return None
    listener.listen()
    return listener
