"""The torrcs of a private network: pure.

`defaults_lines` make any tor a member: the authority, quick timing, and every safeguard that TestingTorNetwork turns
off back at its live default. A node's own torrc is then what a live one would be.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from bento.testnet.keys import AuthorityKeys
from bento.testnet.layout import BOX_PORT, DIR_PORT, OR_PORT, Layout, Relay
from bento.tor.torrc import relay_lines

SAFEGUARDS: Final = (
    "ClientRejectInternalAddresses 1",
    "ClientDNSRejectInternalAddresses 1",
    "EnforceDistinctSubnets 1",
    "ExitPolicyRejectPrivate 1",
    "ExtendAllowPrivateAddresses 0",
    "DirAllowPrivateAddresses 0",
    "CountPrivateBandwidth 0",
    "AuthDirMaxServersPerAddr 2",
    "TestingEnableConnBwEvent 0",
    "TestingEnableCellStatsEvent 0",
)
"""What TestingTorNetwork turns off and needs not to, at tor's live defaults. Timing alone stays as it sets it."""

PREDICTS_NO_CIRCUITS: Final = "__DisablePredictedCircuits 1"
"""For the start alone; `Boot` takes it back, so that a relay that is up does as a live one."""

_FIRST_INTERVAL_S: Final = 20
"""Between votes while there is no consensus: time enough for the relays to publish, then the vote is moved. Tor wants
the offset below V3AuthVotingInterval as well."""

_AUTHORITY_TIMING: Final = (
    "AuthoritativeDirectory 1",
    "V3AuthoritativeDirectory 1",
    "V3AuthVotingInterval 20",
    "V3AuthVoteDelay 2",
    "V3AuthDistDelay 2",
    f"TestingV3AuthInitialVotingInterval {_FIRST_INTERVAL_S}",
    "TestingV3AuthInitialVoteDelay 2",
    "TestingV3AuthInitialDistDelay 2",
    # Flags that relays earn in days; Exit is earned at once, by the policy.
    "TestingDirAuthVoteGuard *",
    "TestingDirAuthVoteHSDir *",
    "TestingMinExitFlagThreshold 0",
    "TestingMinFastFlagThreshold 0",
)


def defaults_lines(authority: Relay, keys: AuthorityKeys) -> list[str]:
    """The lines of the file for `--defaults-torrc`."""
    place = f"orport={OR_PORT} no-v2 v3ident={keys.v3ident} {authority.address}:{DIR_PORT}"
    return [
        "TestingTorNetwork 1",
        f"DirAuthority {authority.nickname} {place} {keys.fingerprint}",
        *SAFEGUARDS,
        # From a hundred circuits over one machine a tor learns to give one up after 20 ms, and then loses most.
        "LearnCircuitBuildTimeout 0",
        # Made-up addresses have no country; each tor saves 10 MB and a moment.
        "GeoIPFile /dev/null",
        "GeoIPv6File /dev/null",
    ]


def relay_torrc(layout: Layout, relay: Relay, *, contact: str, dead_resolver: Path) -> list[str]:
    """The lines of a relay that is no authority.

    Args:
        contact: its ContactInfo; "" for none.
        dead_resolver: the resolver file for a relay that was no exit before its box came.
    """
    lines = _relay_lines(layout, relay)
    if contact:
        lines.append(f"ContactInfo {contact}")
    return lines + _policy_lines(relay, dead_resolver)


def vote_offset(first_s: float) -> int:
    """TestingV3AuthVotingStartOffset of an authority that knows no consensus and makes one at `first_s` (Unix time)."""
    return math.ceil(first_s) % _FIRST_INTERVAL_S


def authority_torrc(layout: Layout, *, now_s: float) -> list[str]:
    """The lines of the authority; if it knows no consensus, it makes none soon after `now_s` (Unix time)."""
    authority = layout.authority
    return [
        *_relay_lines(layout, authority),
        f"DirPort {authority.address}:{DIR_PORT}",
        f"TestingV3AuthVotingStartOffset {vote_offset(now_s - 2)}",
        *_AUTHORITY_TIMING,
    ]


def outbound_line(address: str) -> str:
    """The address a tor dials from: without it a client would seem to come from the relay that it dials."""
    return f"OutboundBindAddress {address}"


def _relay_lines(layout: Layout, relay: Relay) -> list[str]:
    ports = [f"ORPort {relay.address}:{OR_PORT} IPv4Only"]
    if layout.latency_ms:
        ports = [
            f"ORPort {relay.address}:{OR_PORT} NoListen IPv4Only",
            f"ORPort {relay.listen}:{OR_PORT} NoAdvertise IPv4Only",
        ]
    return [
        f"Nickname {relay.nickname}",
        f"Address {relay.address}",
        *ports,
        outbound_line(relay.address),
        "SocksPort 0",
        # A relay publishes once it has tested itself, which takes circuits, which take a consensus.
        "AssumeReachable 1",
        # Until the network is ready: circuits that relays build for themselves took a third of a start's CPU time.
        PREDICTS_NO_CIRCUITS,
    ]


def _policy_lines(relay: Relay, dead_resolver: Path) -> list[str]:
    if relay.box and relay.box.plan.is_open:
        resolver = None if relay.box.plan.is_exit else dead_resolver
        return relay_lines(relay.box.address, BOX_PORT, [relay.address], relay.exit_policy, resolver)
    if relay.exit_policy[0].startswith("accept"):
        return ["ExitRelay 1", *_exit_rules(relay.exit_policy)]
    return []


def _exit_rules(policy: Sequence[str]) -> list[str]:
    return [f"ExitPolicy {rule}" for rule in policy]
