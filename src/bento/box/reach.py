"""What one instance may reach: its grant, the names it has resolved, the box's policy and the relay's live facts."""

import ipaddress
import socket
from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Literal

from bento.exit_policy import ALL_PORTS, RelayFacts, normal_address, one_port, why_not_dialled
from bento.manifest import Destination
from bento.policy import Grant, Policy
from bento.protocol.broker import MAX_ADDRESSES

Facts = Callable[[], RelayFacts]
Family = Literal["any", "4", "6"]

_MAX_LEARNT = 256 * MAX_ADDRESSES
"""Addresses remembered of one instance: those of 256 names, more than a page has hosts. The newest are kept."""

_MAX_LOOKED_AT = 4 * MAX_ADDRESSES
"""Of one answer: no honest name has so many, and each check takes the server some microseconds."""


class Denied(Exception):
    """The rule that forbids it, in words for the function."""


class Reach:
    """An address may be dialled if the grant covers it, or covers a name that this very instance has resolved to it, at
    that port; and if relay and box would dial it at that moment."""

    def __init__(self, grant: Grant, policy: Policy, facts: Facts) -> None:
        self._destinations = tuple(Destination.parse(text) for text in grant.egress)
        self._box_rules = policy.egress_rules
        self._facts = facts
        self._learnt: OrderedDict[str, int] = OrderedDict()
        """By address the destinations that cover a name of it, a bit for each: sets of them would be megabytes."""

    @property
    def outbound(self) -> str | None:
        """The address that the relay dials from."""
        return self._facts().outbound

    def ports(self, host: str, port: int) -> list[range]:
        """The ports at which the grant covers a host: of these `port` alone, unless it is 0.

        Raises: Denied if there is none.
        """
        granted = [one.ports for one in self._destinations if one.is_for_host(host)]
        if port:
            granted = [one_port(port)] if any(port in ports for ports in granted) else []
        if not granted:
            raise Denied(f"{host}{f':{port}' if port else ''} is not in the grant's egress")
        return granted

    def choose(self, host: str, port: int, family: Family, found: Sequence[str]) -> tuple[str, ...]:
        """Of the addresses that a host was found to have, those that may be dialled; from now on they may be.

        Raises: Denied, with the first one's rule, if none may; gaierror if there is none of that family. Neither tells
            an address: what the machine's name server says of its own network is nobody's business.
        """
        ports = self.ports(host, port)
        of_family = (text for text in found if family == "any" or (":" in text) == (family == "6"))
        wanted = dict.fromkeys(str(normal_address(text)) for text in islice(of_family, _MAX_LOOKED_AT))
        if not wanted:
            raise socket.gaierror(socket.EAI_NONAME, "no address")
        chosen, refusals = list[str](), list[str]()
        for address in wanted:
            if refusal := self._why_not(address, ports, host):
                refusals.append(refusal)
            else:
                chosen.append(address)
                if len(chosen) == MAX_ADDRESSES:
                    break
        if not chosen:
            raise Denied(refusals[0])
        granted = sum(1 << number for number, one in enumerate(self._destinations) if one.is_for_host(host))
        for address in chosen:
            self._learn(address, granted)
        return tuple(chosen)

    def verify_dial(self, text: str, port: int) -> str:
        """Check that an address may be dialled now. Returns: the address, as the kernel is to be told it.

        Raises: Denied.
        """
        address = literal(text)
        if address is None:
            raise Denied(f"{text} is not an address: a name is resolved first")
        if port not in ALL_PORTS:
            raise Denied(f"{port} is not a port")
        learnt = self._learnt.get(address, 0)
        if not any(learnt >> number & 1 and port in one.ports for number, one in enumerate(self._destinations)):
            self.ports(address, port)
        if refusal := self._why_not(address, [one_port(port)], address):
            raise Denied(refusal)
        return address

    def _why_not(self, address: str, ports: Sequence[range], named: str) -> str | None:
        return why_not_dialled(self._facts(), address, ports, box_rules=self._box_rules, named=named)

    def _learn(self, address: str, granted: int) -> None:
        self._learnt[address] = self._learnt.pop(address, 0) | granted
        while len(self._learnt) > _MAX_LEARNT:
            self._learnt.popitem(last=False)


def literal(host: str) -> str | None:
    """The address that a host's text is, as `normal_address` has it; None if it is a name."""
    try:
        return str(normal_address(str(ipaddress.ip_address(host.rstrip(".")))))
    except ValueError:
        return None
