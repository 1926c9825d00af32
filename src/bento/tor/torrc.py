"""What a live Bento adds to a relay's torrc, and the check of its order.

Tor takes the first line of an exit policy that fits. The box's own address is accepted first, so that circuits can
end there; `ExitPolicyRejectPrivate 0` is needed, since the default swallows that line; and the two groups of rejects
restore what the default did. A relay that was no exit would with any accept line resolve host names for every Tor
client: a resolver file that names a dead server stops that.
"""

import re
from collections.abc import Sequence
from pathlib import Path

from bento.errors import ConfigError

DEAD_RESOLVER = "nameserver 127.0.0.1:1\n"
"""Contents of the resolver file: nothing listens there."""

_HINT = "put the lines that `bento box check` prints at the top of the relay's exit policy, in their order"


def relay_lines(
    address: str, port: int, own_addresses: Sequence[str], operator_policy: Sequence[str], dead_resolver: Path | None
) -> list[str]:
    """The torrc lines of a relay with a box, in order.

    Args:
        address, port: the box's loopback address.
        own_addresses: every address of the relay's host that functions must not reach through it.
        operator_policy: the `ExitPolicy` values the operator had, such as "accept *:80".
        dead_resolver: a file with DEAD_RESOLVER, for a relay that was no exit before; None for one that was.
    """
    lines = ["ExitRelay 1", "ExitPolicyRejectPrivate 0", f"ExitPolicy accept {address}:{port}"]
    lines.append("ExitPolicy reject private:*")
    lines += [f"ExitPolicy reject {_quoted(own)}:*" for own in own_addresses]
    lines += [f"ExitPolicy {rule}" for rule in operator_policy]
    if not operator_policy or operator_policy[-1].strip() != "reject *:*":
        lines.append("ExitPolicy reject *:*")
    if dead_resolver is not None:
        lines.append(f"ServerDNSResolvConfFile {dead_resolver}")
    return lines


def verify_order(policy: str, address: str, port: int, own_addresses: Sequence[str]) -> None:
    """Check a relay's live exit policy, as `GETINFO exit-policy/full` gives it.

    Raises: ConfigError for any other order than `relay_lines` makes.
    """
    found = [" ".join(line.split()) for line in re.split(r"[,\n]", policy) if line.strip()]
    _verify_ipv6([rule for rule in found if "6 " in rule], own_addresses)
    rules = [rule for rule in found if "6 " not in rule]
    if not rules or rules[0] != f"accept {address}:{port}":
        first = rules[0] if rules else "empty"
        raise ConfigError(f"the relay's exit policy must begin with accept {address}:{port}, it is {first}", hint=_HINT)
    accepts = (at for at, rule in enumerate(rules) if at and rule.startswith("accept"))
    before = set(rules[1 : next(accepts, len(rules))])
    if "reject *:*" in before or "reject *4:*" in before:
        return
    for own in (*_PRIVATE, *(own for own in own_addresses if ":" not in own)):
        if f"reject {own}:*" not in before:
            raise ConfigError(f"the relay's exit policy accepts before it rejects {own}:*", hint=_HINT)


_PRIVATE = ("0.0.0.0/8", "169.254.0.0/16", "127.0.0.0/8", "192.168.0.0/16", "10.0.0.0/8", "172.16.0.0/12")
"""The IPv4 part of tor's `private`, as tor writes it out."""

_PRIVATE_IPV6 = ("[::]/8", "[fc00::]/7", "[fe80::]/10", "[fec0::]/10", "[ff00::]/8")


def _verify_ipv6(rules: Sequence[str], own_addresses: Sequence[str]) -> None:
    """The same for tor's IPv6 rules ("accept6 ...", "reject6 ..."), which have no box to begin with."""
    accepts = (at for at, rule in enumerate(rules) if rule.startswith("accept"))
    before = set(rules[: next(accepts, len(rules))])
    if not rules or "reject6 *:*" in before:
        return
    for own in (*_PRIVATE_IPV6, *(_quoted(own) for own in own_addresses if ":" in own)):
        if f"reject6 {own}:*" not in before:
            raise ConfigError(f"the relay's exit policy accepts before it rejects {own}:*", hint=_HINT)


def _quoted(address: str) -> str:
    return f"[{address}]" if ":" in address and not address.startswith("[") else address
