"""What tor itself would dial from this relay.

A relay dials an address if its exit policy accepts it and no other relay or authority listens there (tor's ban on
re-entry). Functions get the same, never more. Rules are tor's own lines; the matching is stem's.

>>> facts = RelayFacts(policy="accept *:80,reject *:*", listeners=frozenset({("1.2.3.4", 80)}))
>>> why_not_dialled(facts, "5.6.7.8", 80) is None
True
>>> why_not_dialled(facts, "1.2.3.4", 80)
'1.2.3.4:80 is a Tor relay'
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from bento.errors import ConfigError

if TYPE_CHECKING:
    from stem.exit_policy import ExitPolicy

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


def why_not_dialled(facts: RelayFacts, address: str, port: int) -> str | None:
    """None if tor would dial the resolved `address` from this relay; else the rule that forbids it."""
    found = normal_address(address)
    if str(found) in facts.own:
        return f"{found} is the relay's own address"
    if not is_public(found):
        return f"{found} is not a public address"
    if (str(found), port) in facts.listeners:
        return f"{found}:{port} is a Tor relay"
    try:
        is_open = is_accepted(facts.policy, str(found), port)
    except ValueError:
        return "the relay's exit policy can't be read"
    if not is_open:
        return f"the relay's exit policy rejects {found}:{port}"
    return None


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


def is_public(address: Address) -> bool:
    """Whether it is a single host's address on the public Internet."""
    if not address.is_global or address.is_multicast:
        return False
    return not any(address in network for network in _NOT_PUBLIC)


def is_accepted(policy: str, address: str, port: int) -> bool:
    """Whether rules such as "accept *:80,reject *:*" accept this very address and port."""
    return bool(_parse(policy).can_exit_to(address, port, strict=True))


def is_range_open(policy: str, low: int, high: int) -> bool:
    """Whether the rules accept, at some address, some port from `low` to `high`."""
    found = _parse(policy)
    edges = {low} | {edge for rule in found for edge in (rule.min_port, rule.max_port + 1) if low < edge <= high}
    return any(found.can_exit_to(None, port, strict=False) for port in edges)


def verify_rules(rules: Sequence[str]) -> None:
    """Check that each line is a rule of an exit policy; ConfigError names the first that is not."""
    from stem.exit_policy import ExitPolicyRule  # see _parse

    for rule in rules:
        try:
            ExitPolicyRule(rule)
        except ValueError as error:
            raise ConfigError(f"not a rule: {rule!r}: {error}", hint='write it as in a torrc: "accept *:443"') from None


@lru_cache(maxsize=8)
def _parse(policy: str) -> "ExitPolicy":
    # Imported here: a function's image holds this module for its types, and no stem.
    from stem.exit_policy import ExitPolicy

    return ExitPolicy(*(rule.strip() for rule in policy.replace("\n", ",").split(",") if rule.strip()))
