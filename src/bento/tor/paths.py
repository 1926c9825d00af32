"""Which relays a circuit to a box goes through: pure.

The guard is tor's own choice: of the guards it lists, the first that its own circuits use (tor puts another one first
only where the exit is the guard itself). Where the box is the guard's kin, tor's next one. The middle is drawn as
path-spec, "Choosing middles", says: weighed by bandwidth and position, apart by family and /16 from both others.

>>> [guard.fingerprint[0] for guard in parse_guards("$" + "A" * 40 + "~x up\\n$" + "B" * 40 + " down 2026-01-01")]
['A', 'B']
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from bento.tor.consensus import Consensus, Relay


@dataclass(frozen=True)
class Guard:
    """A line of `GETINFO entry-guards`."""

    fingerprint: str
    is_usable: bool


def parse_guards(text: str) -> list[Guard]:
    """The guards in tor's order of preference."""
    guards = []
    for line in text.splitlines():
        name, _, status = line.strip().partition(" ")
        if name.startswith("$") and len(name) >= 41:
            guards.append(Guard(name[1:41], status.split(" ")[0] in ("up", "never-connected")))
    return guards


def parse_first_hops(circuit_status: str, ours: Collection[str]) -> frozenset[str]:
    """The first relays of tor's own circuits, out of `GETINFO circuit-status`; `ours` are ids to leave out."""
    hops = set()
    for line in circuit_status.splitlines():
        words = line.split()
        if len(words) < 3 or words[0] in ours or words[1] not in ("BUILT", "GUARD_WAIT"):
            continue
        if "PURPOSE=GENERAL" in words and "ONEHOP_TUNNEL" not in line:
            hops.add(words[2][1:41])
    return frozenset(hops)


def order_guards(guards: Sequence[Guard], used: Collection[str]) -> list[str]:
    """Fingerprints of the guards to take, best first: those that tor uses, then the others that it would."""
    usable = [guard.fingerprint for guard in guards if guard.is_usable]
    return [name for name in usable if name in used] + [name for name in usable if name not in used]


def weigh_middles(consensus: Consensus, guard: Relay, box: Relay) -> dict[str, int]:
    """The weight of each relay that may stand between two others, families not looked at."""
    apart = {guard.network, box.network}
    return {
        relay.fingerprint: relay.bandwidth * _position_weight(relay, consensus.weights)
        for relay in consensus.relays.values()
        if {"Running", "Fast"} <= relay.flags and relay.network not in apart
    }


def draw(weights: Mapping[str, int], random: Random) -> str:
    """One of the keys, by weight; evenly if all weigh nothing. There must be one."""
    names = list(weights)
    return random.choices(names, [weights[name] for name in names] if any(weights.values()) else None)[0]


def _position_weight(relay: Relay, weights: Mapping[str, int]) -> int:
    """How much of a relay's bandwidth the middle position may use, in parts of 10,000."""
    is_exit = "Exit" in relay.flags and "BadExit" not in relay.flags
    name = {(False, False): "Wmm", (True, False): "Wmg", (False, True): "Wme", (True, True): "Wmd"}
    return weights.get(name["Guard" in relay.flags, is_exit], 10_000)
