"""The relay watcher: a process of its own that may read the relay's control cookie, and tells the server what it needs
to know, nothing else. The server never comes near the relay's control port.

`watch` is the process, `FactsReader` the server's end of it.
"""

import asyncio
import ipaddress
import logging
import re
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec

from bento.errors import TorUnavailable
from bento.exit_policy import RelayFacts
from bento.tor.control import Control

_LOG = logging.getLogger("bento.box")

_POLL_S = 1.0
"""How often the exit policy is read again: a change is in force within twice this."""

_CONSENSUS_POLLS = 60
"""How many of these until the relays' addresses are read again, unless tor says that a consensus is new."""

_LENGTH_BYTES = 4
_ROUTER = re.compile(r"^r \S+ \S+ \S+ \S+ \S+ (?P<address>\S+) (?P<orport>\d+) (?P<dirport>\d+)$", re.MULTILINE)
_EXTRA = re.compile(r"^a \[?(?P<address>[0-9A-Fa-f:.]+?)\]?:(?P<port>\d+)$", re.MULTILINE)
_AUTHORITY = re.compile(r"(?:^|\s)(?P<address>\d+\.\d+\.\d+\.\d+):(?P<dirport>\d+)(?:\s|$)")


def watch(control: Path, cookie: Path, outbound: str | None, channel: socket.socket) -> None:
    """Tell the facts whenever they change, until the other end of `channel` closes. While the relay can't be asked,
    the facts are the empty ones, which allow no dial at all."""
    told: RelayFacts | None = None
    while True:
        try:
            with Control.connect(control, cookie) as connection:
                for facts in _follow(connection, outbound):
                    if facts != told:
                        _tell(channel, facts)
                        told = facts
                    elif is_closed(channel):
                        return
        except TorUnavailable:
            if told != RelayFacts():
                told = RelayFacts()
                _tell(channel, told)
        except OSError:
            return
        if is_closed(channel, _POLL_S):
            return


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
        for port in (int(router["orport"]), int(router["dirport"])):
            if port:
                yield router["address"], port
    for extra in _EXTRA.finditer(text):
        yield str(ipaddress.ip_address(extra["address"])), int(extra["port"])
    for line in control.get_conf("DirAuthority"):
        for authority in _AUTHORITY.finditer(line):
            yield authority["address"], int(authority["dirport"])


def _tell(channel: socket.socket, facts: RelayFacts) -> None:
    payload = msgspec.msgpack.encode(facts)
    channel.sendall(len(payload).to_bytes(_LENGTH_BYTES, "big") + payload)


def is_closed(channel: socket.socket, wait_s: float = 0) -> bool:
    """Whether the server has gone; waits so long for it to go."""
    channel.settimeout(wait_s)
    try:
        return channel.recv(1) == b""
    except (BlockingIOError, TimeoutError):
        return False
    finally:
        channel.settimeout(None)


class FactsReader:
    """The server's end: `current` is what the relay would dial now."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self.current = RelayFacts()

    async def run(self) -> None:
        """Follow the watcher. If it ends, nothing may be dialled any more."""
        reader, writer = await asyncio.open_connection(sock=self._channel)
        try:
            while True:
                size = int.from_bytes(await reader.readexactly(_LENGTH_BYTES), "big")
                self.current = msgspec.msgpack.decode(await reader.readexactly(size), type=RelayFacts)
                if self.current == RelayFacts():
                    _LOG.warning("the relay's control port can't be read: functions may not dial")
        except (asyncio.IncompleteReadError, OSError, msgspec.DecodeError):
            _LOG.error("the relay watcher has ended: functions may not dial")
            self.current = RelayFacts()
        finally:
            writer.close()
