"""What tor itself would dial from this relay.

A relay dials an address if its exit policy accepts it and no other relay or authority listens there (tor's ban on
re-entry). Functions get the same, never more. Rules are tor's own lines, read by stem.

>>> facts = RelayFacts(policy="accept *:80,reject *:*", listeners=frozenset({("1.2.3.4", 80)}))
>>> why_not_dialled(facts, "5.6.7.8", [one_port(80)]) is None
True
>>> why_not_dialled(facts, "1.2.3.4", [one_port(80)])
'1.2.3.4:80 is a Tor relay'
"""

import ipaddress
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from bento.errors import ConfigError

if TYPE_CHECKING:
    from stem.exit_policy import ExitPolicyRule

ALL_PORTS = range(1, 65536)

_NAT64 = ipaddress.ip_network("64:ff9b::/96")

_NOT_PUBLIC = tuple(
    ipaddress.ip_network(network)
    for network in (
        "::/96",  # IPv4-compatible
        "::ffff:0:0:0/96",  # IPv4-translated (SIIT)
        "2001::/32",  # Teredo
        "2002::/16",  # 6to4
        "192.88.99.0/24",  # the relays of 6to4
        "fec0::/10",  # site-local, before unique local addresses
        "5f00::/16",  # segment routing
    )
)
"""What `ipaddress` of one version of Python or another calls global. The first four carry an IPv4 address, which may be
a private one behind a translator of the machine's own network; nobody offers a service at any."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True)
class RelayFacts:
    """What a box knows of its relay.

    `policy` is the live exit policy (`GETINFO exit-policy/full`), `own` the relay's addresses, `outbound` the address
    that it dials from, and `listeners` where relays and authorities listen.
    """

    policy: str = "reject *:*"
    own: tuple[str, ...] = ()
    outbound: str | None = None
    listeners: frozenset[tuple[str, int]] = frozenset()


def why_not_dialled(
    facts: RelayFacts, address: str, ports: Sequence[range], *, box_rules: str = "accept *:*", named: str = ""
) -> str | None:
    """None if tor would dial the resolved `address` from this relay, at one of `ports` at least, and the box's own
    rules accept that too; else the rule that forbids it.

    Args:
        named: what the rule's text calls the address: the name it was found by, where the address is not to be told.
    """
    found = normal_address(address)
    named = named or str(found)
    if str(found) in facts.own:
        return f"{named} is the relay's own address"
    if not is_public(found):
        return f"{named} is not a public address"
    place = f"{named}:{ports[0].start}" if len(ports) == 1 and len(ports[0]) == 1 else named
    if _are_listeners(facts, str(found), ports):
        return f"{place} is a Tor relay"
    try:
        open_to_relay = _overlaps(ports, open_ports(facts.policy, str(found)))
    except ValueError:
        return "the relay's exit policy can't be read"
    if not open_to_relay:
        return f"the relay's exit policy rejects {place}"
    open_to_both = _overlaps(open_to_relay, open_ports(box_rules, str(found)))
    if not open_to_both:
        return f"the box's policy rejects {place}"
    if _are_listeners(facts, str(found), open_to_both):
        return f"{place} is a Tor relay"
    return None


def _are_listeners(facts: RelayFacts, address: str, ports: Iterable[range]) -> bool:
    return all((address, port) in facts.listeners for part in ports for port in part)


def one_port(port: int) -> range:
    """A range of this port alone."""
    return range(port, port + 1)


def normal_address(address: str) -> Address:
    """The address that a connection would really go to: mapped and NAT64 forms of IPv4 are IPv4.

    Raises: ValueError for what is no address.
    """
    found = ipaddress.ip_address(address.split("%", maxsplit=1)[0])
    if isinstance(found, ipaddress.IPv6Address):
        if found.ipv4_mapped:
            return found.ipv4_mapped
        if found in _NAT64:
            return ipaddress.IPv4Address(int(found) & 0xFFFFFFFF)
    return found


@lru_cache(maxsize=1024)
def is_public(address: Address) -> bool:
    """Whether it is a single host's address on the public Internet."""
    if not address.is_global or address.is_multicast:
        return False
    return not any(address in network for network in _NOT_PUBLIC)


def is_accepted(policy: str, address: str, port: int) -> bool:
    """Whether rules such as "accept *:80,reject *:*" accept this very address and port; ValueError for no address."""
    return any(port in ports for ports in open_ports(policy, address))


@lru_cache(maxsize=1024)
def open_ports(policy: str, address: str) -> tuple[range, ...]:
    """The ports at which rules accept an address. The first rule that names a port holds; what none names is accepted,
    as tor has it, but no rules at all accept nothing.

    Raises: ValueError for what is no address, or no rule.
    """
    found = ipaddress.ip_address(address)
    for_some, for_all = _halves(policy, found.version)
    accepted, undecided = _match(for_some, int(found))
    return (*accepted, *(for_all if undecided == [ALL_PORTS] else _overlaps(undecided, for_all)))


@lru_cache(maxsize=16)
def _halves(policy: str, version: int) -> "tuple[tuple[_Rule, ...], tuple[range, ...]]":
    """Of the rules for a version of IP: those up to the last that is for some addresses only, and what the rest accept
    of the ports. That rest is most of a policy, and the same for every address that a function can think of."""
    rules = [rule for rule in _read(policy) if rule.version in (0, version)]
    size = max((number for number, rule in enumerate(rules, 1) if rule.mask), default=0)
    return tuple(rules[:size]), tuple(_match(rules[size:], 0)[0])


def _match(rules: "Iterable[_Rule]", address: int) -> tuple[list[range], list[range]]:
    """The ports that rules accept an address at, and those that none of them names."""
    undecided, accepted = [ALL_PORTS], list[range]()
    for rule in rules:
        if address & rule.mask == rule.network:
            if rule.is_accept:
                accepted += _overlaps(undecided, [rule.ports])
            undecided = [left for part in undecided for left in _without(part, rule.ports)]
            if not undecided:
                break
    return accepted, undecided


def is_range_open(policy: str, low: int, high: int) -> bool:
    """Whether the rules accept, at some address, some port from `low` to `high`. That several rules together may reject
    every address that a later one accepts is not seen here: each dial is checked."""
    return any(_is_open_somewhere(_read(policy), version, range(low, high + 1)) for version in (4, 6))


def _is_open_somewhere(rules: "Iterable[_Rule]", version: int, ports: range) -> bool:
    undecided = [ports]
    for rule in rules:
        if rule.version not in (0, version):
            continue
        if rule.is_accept and _overlaps(undecided, [rule.ports]):
            return True
        if rule.mask == 0:
            undecided = [left for part in undecided for left in _without(part, rule.ports)]
    return False


def verify_rules(rules: Sequence[str]) -> None:
    """Check that each line is a rule of an exit policy; ConfigError names the first that is not."""
    # Imported here: a function's image holds this module for its types, and no stem.
    from stem.exit_policy import ExitPolicyRule

    for rule in rules:
        try:
            ExitPolicyRule(rule)
        except ValueError as error:
            raise ConfigError(f"not a rule: {rule!r}: {error}", hint='write it as in a torrc: "accept *:443"') from None


class _Rule(NamedTuple):
    """A rule that is quick to match: stem takes half a millisecond for a relay's thirty. `version` 0 is any."""

    is_accept: bool
    version: int
    network: int
    mask: int
    ports: range


@lru_cache(maxsize=8)
def _read(policy: str) -> tuple[_Rule, ...]:
    from stem.exit_policy import ExitPolicyRule  # see verify_rules

    rules = [(text, ExitPolicyRule(text)) for text in _texts(policy)]
    named = (
        _Rule(rule.is_accept, *_network(rule), range(rule.min_port, rule.max_port + 1))
        for text, rule in rules
        if not (text.split(" ")[0].endswith("6") and rule.get_address_type() == "IPv4")  # tor ignores such a rule
    )
    return (*named, _Rule(bool(rules), 0, 0, 0, ALL_PORTS))


def _network(rule: "ExitPolicyRule") -> tuple[int, int, int]:
    """IP's version, or 0 for any; the network; its mask."""
    if rule.is_address_wildcard():
        return 0, 0, 0
    address, mask = ipaddress.ip_address(rule.address), int(ipaddress.ip_address(rule.get_mask()))
    return address.version, int(address) & mask, mask


def _texts(policy: str) -> list[str]:
    return [rule.strip() for rule in policy.replace("\n", ",").split(",") if rule.strip()]


def _overlaps(some: Iterable[range], others: Sequence[range]) -> list[range]:
    return [
        range(max(one.start, other.start), min(one.stop, other.stop))
        for one in some
        for other in others
        if one.start < other.stop and other.start < one.stop
    ]


def _without(ports: range, taken: range) -> Iterable[range]:
    left = (range(ports.start, min(ports.stop, taken.start)), range(max(ports.start, taken.stop), ports.stop))
    return [part for part in left if part]
