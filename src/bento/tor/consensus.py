"""What the network agrees on: its relays with flags and bandwidth, the weights of positions, and relays' families.

    consensus = parse_consensus(control.get_info("dir/status-vote/current/consensus-microdesc"))
    families = parse_families(control.get_info(f"md/id/{fingerprint}"))

Pure, and only as much as choosing a path needs. Source: dir-spec, "Microdescriptor consensus" and "Computing
microdescriptors".
"""

import base64
import ipaddress
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from bento.errors import TorUnavailable


@dataclass(frozen=True)
class Relay:
    """A relay of the consensus; `bandwidth` is its consensus weight, in no unit that matters."""

    fingerprint: str
    nickname: str
    address: str
    flags: frozenset[str] = frozenset()
    bandwidth: int = 0

    @property
    def network(self) -> ipaddress.IPv4Network:
        """The /16 that no two relays of a circuit may share."""
        return ipaddress.IPv4Network(f"{self.address}/16", strict=False)


@dataclass(frozen=True)
class Consensus:
    """`relays` by fingerprint; `weights` are the bandwidth-weights, such as "Wmm": 10000."""

    relays: Mapping[str, Relay]
    weights: Mapping[str, int]


@dataclass(frozen=True)
class Families:
    """Whom a relay calls its family: `named` holds fingerprints and nicknames (in lower case), `ids` family ids."""

    named: frozenset[str] = field(default=frozenset())
    ids: frozenset[str] = field(default=frozenset())


def parse_consensus(text: str) -> Consensus:
    """Read a microdescriptor consensus; TorUnavailable if it is none."""
    weights: dict[str, int] = {}
    for line in text[text.rfind("\ndirectory-footer") :].splitlines():
        if line.startswith("bandwidth-weights "):
            weights = {name: int(value) for name, _, value in (word.partition("=") for word in line.split()[1:])}
    try:
        relays = {relay.fingerprint: relay for relay in _parse_relays(text)}
    except (ValueError, IndexError) as error:
        raise TorUnavailable(f"tor's consensus does not parse: {error}", hint="try again") from None
    return Consensus(relays, weights)


def parse_families(microdescriptor: str) -> Families:
    """The families in a microdescriptor.

    >>> sorted(parse_families("family $" + "A" * 40 + "~x Bob\\nfamily-ids ed25519:k\\n").named) == ["A" * 40, "bob"]
    True
    """
    named: set[str] = set()
    ids: set[str] = set()
    for line in microdescriptor.splitlines():
        keyword, *words = line.split() or [""]
        if keyword == "family":
            named |= {word[1:41].upper() if word.startswith("$") else word.lower() for word in words}
        if keyword == "family-ids":
            ids |= set(words)
    return Families(frozenset(named), frozenset(ids))


def is_kin(one: Relay, ones: Families, other: Relay, others: Families) -> bool:
    """Whether two relays must not stand on one circuit: the same, in one /16, or each other's family."""
    if one.fingerprint == other.fingerprint or one.network == other.network or ones.ids & others.ids:
        return True
    return _names(ones, other) and _names(others, one)


def _names(families: Families, relay: Relay) -> bool:
    return relay.fingerprint in families.named or relay.nickname.lower() in families.named


def _parse_relays(text: str) -> Iterator[Relay]:
    for entry in text.split("\nr ")[1:]:
        first, *lines = entry.split("\n")
        nickname, identity, _, _, address, *_ = first.split()
        flags: frozenset[str] = frozenset()
        bandwidth = 0
        for line in lines:
            if line.startswith("s "):
                flags = frozenset(line.split()[1:])
            elif line.startswith("w Bandwidth="):
                bandwidth = int(line.split()[1].partition("=")[2])
        fingerprint = base64.b64decode(identity + "=", validate=True).hex().upper()
        yield Relay(fingerprint, nickname, address, flags, bandwidth)
