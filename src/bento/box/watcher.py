"""The relay watcher: a process of its own that may read the relay's control cookie, and tells the server what it needs
to know, nothing else."""

import ipaddress
import logging
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

from bento.box.accounts import become, become_owner
from bento.box.relay import encode_facts
from bento.box.settings import Relay
from bento.errors import TorUnavailable
from bento.exit_policy import RelayFacts
from bento.tor.control import Control

_LOG = logging.getLogger("bento.box")

_POLL_S = 1.0
"""How often the exit policy is read again: a change is in force within twice this."""

_COOKIE_POLL_S = 0.2

_CONSENSUS_POLLS = 60
"""How many of these until the relays' addresses are read again, unless tor says that a consensus is new."""

_ROUTER = re.compile(
    r"^r \S+ \S+ \S+ \S+ \S+ (?P<address>\S+) (?P<orport>[0-9]{1,5}) (?P<dirport>[0-9]{1,5})$", re.MULTILINE
)
_EXTRA = re.compile(r"^a \[?(?P<address>[0-9A-Fa-f:.]+?)\]?:(?P<port>[0-9]{1,5})$", re.MULTILINE)
_AUTHORITY = re.compile(r"(?:^|\s)(?P<address>[0-9]+\.[0-9]+\.[0-9]+\.[0-9]+):(?P<dirport>[0-9]{1,5})(?:\s|$)")
_LAST_PORT = 65535


class ServerGone(Exception):
    """The other end of the channel is closed: nobody wants facts any more."""


def run(relay: Relay, channel: socket.socket, *, is_root: bool) -> None:
    """Wait for the relay's cookie, become its owner, and watch; a relay may start after its box."""
    cookie = Path(relay.cookie)
    try:
        while is_root and not cookie.exists():
            _wait(channel, _COOKIE_POLL_S)
        if is_root:
            become_owner(cookie)
        else:
            become(None)
        watch(relay, channel)
    except ServerGone:
        return


def watch(relay: Relay, channel: socket.socket) -> None:
    """Tell the facts whenever they change. While the relay can't be asked or understood, they are the empty ones,
    which allow no dial at all.

    Raises: ServerGone.
    """
    told: RelayFacts | None = None
    trouble = ""
    while True:
        try:
            with Control.connect(relay.control_path, Path(relay.cookie)) as connection:
                for facts in _follow(connection, relay.outbound):
                    told = _tell(channel, facts, told)
                    trouble = ""
                    _wait(channel, 0)
        except ServerGone:
            raise
        except TorUnavailable:
            pass
        except Exception as error:  # noqa: BLE001 - whatever the relay says, it is asked again
            if trouble != (trouble := type(error).__name__):
                _LOG.warning("the relay watcher does not understand its relay: %s", trouble)
        told = _tell(channel, RelayFacts(), told)
        _wait(channel, _POLL_S)


def read_facts(control: Control, outbound: str | None) -> RelayFacts:
    """Ask a relay all that a box must know of it."""
    return RelayFacts(
        policy=control.get_info("exit-policy/full").replace("\n", ","),
        own=tuple(sorted(set(_own_addresses(control)))),
        outbound=outbound or next(iter(_outbound(control)), None),
        listeners=frozenset(_listeners(control)),
    )


def _follow(control: Control, outbound: str | None) -> Iterator[RelayFacts]:
    changed = threading.Event()
    control.listen(["CONF_CHANGED", "NEWCONSENSUS"], lambda event: changed.set())
    facts = read_facts(control, outbound)
    polls = 0
    while True:
        yield facts
        polls += 1
        if changed.wait(_POLL_S) or polls % _CONSENSUS_POLLS == 0:
            changed.clear()
            facts = read_facts(control, outbound)
        else:
            policy = control.get_info("exit-policy/full").replace("\n", ",")
            facts = RelayFacts(policy, facts.own, facts.outbound, facts.listeners)


def _own_addresses(control: Control) -> Iterator[str]:
    """The relay's addresses on the network; its loopback ones, the box's among them, are private to begin with."""
    for address in _addresses(control):
        if not address.is_loopback:
            yield str(address)


def _addresses(control: Control) -> Iterator[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    for key in ("address/v4", "address/v6"):
        try:
            yield ipaddress.ip_address(control.get_info(key).strip("[]"))
        except (TorUnavailable, ValueError):
            continue
    for value in (*control.get_conf("ORPort"), *control.get_conf("Address"), *_outbound(control)):
        host = value.split(" ")[0].rpartition(":")[0] if ":" in value else value.split(" ")[0]
        try:
            yield ipaddress.ip_address(host.strip("[]"))
        except ValueError:
            continue


def _outbound(control: Control) -> tuple[str, ...]:
    return control.get_conf("OutboundBindAddressExit") or control.get_conf("OutboundBindAddress")


def _listeners(control: Control) -> Iterator[tuple[str, int]]:
    """Where relays and authorities listen: what tor's own ban on re-entry covers."""
    text = control.get_info("ns/all")
    for router in _ROUTER.finditer(text):
        yield from _place(router["address"], router["orport"])
        yield from _place(router["address"], router["dirport"])
    for extra in _EXTRA.finditer(text):
        yield from _place(extra["address"], extra["port"])
    for line in control.get_conf("DirAuthority"):
        for authority in _AUTHORITY.finditer(line):
            yield from _place(authority["address"], authority["dirport"])


def _place(address: str, port: str) -> Iterator[tuple[str, int]]:
    """One place to listen; none if nobody could."""
    try:
        found = str(ipaddress.ip_address(address))
    except ValueError:
        return
    if 0 < int(port) <= _LAST_PORT:
        yield found, int(port)


def _tell(channel: socket.socket, facts: RelayFacts, told: RelayFacts | None) -> RelayFacts:
    """Send what the server does not know yet. Returns: what it knows now."""
    if facts != told:
        try:
            channel.sendall(encode_facts(facts))
        except OSError:
            raise ServerGone from None
    return facts


def _wait(channel: socket.socket, wait_s: float) -> None:
    """Wait so long for the server to go; ServerGone once it has."""
    channel.settimeout(wait_s)
    try:
        channel.recv(1)
    except (BlockingIOError, TimeoutError):
        return
    except OSError:
        pass
    finally:
        channel.settimeout(None)
    raise ServerGone
