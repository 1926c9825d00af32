"""Choosing a path: tor's own guard, a weighed middle, nobody's kin beside each other."""

import base64
from random import Random

import pytest

from bento.errors import TorUnavailable
from bento.tor.consensus import Consensus, Families, Relay, is_kin, parse_consensus, parse_families
from bento.tor.paths import draw, order_guards, parse_first_hops, parse_guards, weigh_middles

A, B, C, D = ("A" * 40, "B" * 40, "C" * 40, "D" * 40)
WEIGHTS = {"Wmm": 10000, "Wmg": 4000, "Wme": 0, "Wmd": 0}


def relay(name: str, address: str = "1.2.3.4", flags: str = "Fast Running Valid", bandwidth: int = 10) -> Relay:
    return Relay(name, f"nick{name[0].lower()}", address, frozenset(flags.split()), bandwidth)


def identity(fingerprint: str) -> str:
    return base64.b64encode(bytes.fromhex(fingerprint)).decode().rstrip("=")


CONSENSUS = f"""network-status-version 3 microdesc
valid-after 2026-11-22 10:00:00
dir-source authority {A} 45.64.33.10 45.64.33.10 9030 9001
contact nobody
vote-digest {A}
r one {identity(A)} 2038-01-01 00:00:00 45.65.33.10 9001 0
m vnLXlQ0fTbuCsYQ
s Exit Fast Guard Running Stable V2Dir Valid
v Tor 0.4.9.11
w Bandwidth=1200
r two {identity(B)} 2038-01-01 00:00:00 45.66.33.10 9001 0
a [2001:db8::1]:9001
m vnLXlQ0fTbuCsYQ
s Fast Running Valid
w Bandwidth=5 Unmeasured=1
directory-footer
bandwidth-weights Wbd=0 Wmm=10000 Wmg=4131 Wgd=-1
directory-signature x
"""


def test_a_consensus_gives_relays_flags_bandwidths_and_weights() -> None:
    found = parse_consensus(CONSENSUS)
    assert set(found.relays) == {A, B}
    assert found.relays[A].bandwidth == 1200
    assert "Guard" in found.relays[A].flags
    assert (found.relays[B].nickname, found.relays[B].address, found.relays[B].bandwidth) == ("two", "45.66.33.10", 5)
    assert found.weights["Wmg"] == 4131


@pytest.mark.parametrize("entry", ["\nr x\n", "\nr x !! 2038-01-01 00:00:00 1.2.3.4 1 0\n"])
def test_a_broken_consensus_is_a_clear_error(entry: str) -> None:
    with pytest.raises(TorUnavailable, match="does not parse"):
        parse_consensus("network-status-version 3" + entry)


def test_the_guard_is_the_first_that_tor_itself_uses() -> None:
    guards = parse_guards(f"${A}~a never-connected\n${B}~b up\n${C}~c down 2026-11-22 10:00:00\n${D}~d up")
    assert order_guards(guards, {D}) == [D, A, B]
    assert order_guards(guards, {B, D, C}) == [B, D, A]
    assert order_guards(guards, set()) == [A, B, D]


def test_first_hops_are_those_of_tors_own_built_circuits() -> None:
    status = "\n".join(
        [
            f"1 BUILT ${A}~a,${B}~b,${C}~c BUILD_FLAGS=NEED_CAPACITY PURPOSE=GENERAL",
            f"2 BUILT ${B}~b,${A}~a,${C}~c BUILD_FLAGS=NEED_CAPACITY PURPOSE=GENERAL",
            f"3 BUILT ${C}~c BUILD_FLAGS=ONEHOP_TUNNEL,IS_INTERNAL PURPOSE=GENERAL",
            f"4 EXTENDED ${D}~d BUILD_FLAGS=NEED_CAPACITY PURPOSE=GENERAL",
            f"5 BUILT ${D}~d,${A}~a PURPOSE=HS_CLIENT_HSDIR",
            "6 LAUNCHED BUILD_FLAGS=NEED_CAPACITY PURPOSE=GENERAL",
        ]
    )
    assert parse_first_hops(status, {"2"}) == {A}


def test_middles_are_weighed_by_bandwidth_and_position() -> None:
    relays = [
        relay(A, "10.1.0.1"),
        relay(B, "10.2.0.1", "Fast Running Valid Guard"),
        relay(C, "10.3.0.1", "Fast Running Valid Exit"),
        relay(D, "10.4.0.1", "Fast Running Valid Exit BadExit", bandwidth=3),
    ]
    guard, box = relay("E" * 40, "10.5.0.1"), relay("F" * 40, "10.6.0.1")
    found = weigh_middles(Consensus({one.fingerprint: one for one in relays}, WEIGHTS), guard, box)
    assert found == {A: 100_000, B: 40_000, C: 0, D: 30_000}


def test_a_middle_shares_no_network_with_guard_or_box_and_is_fast_and_running() -> None:
    guard, box = relay(A, "10.1.0.1"), relay(B, "10.2.0.1")
    others = [relay(C, "10.1.9.9"), relay(D, "10.2.9.9"), relay("E" * 40, "10.3.0.1", "Running Valid")]
    consensus = Consensus({one.fingerprint: one for one in (guard, box, *others)}, {})
    assert weigh_middles(consensus, guard, box) == {}


def test_drawing_follows_the_weights() -> None:
    random = Random(1)
    drawn = [draw({A: 3, B: 1, C: 0}, random) for _ in range(2000)]
    assert 1400 < drawn.count(A) < 1600
    assert C not in drawn


def test_drawing_is_even_where_nobody_weighs_anything() -> None:
    random = Random(1)
    assert {draw({A: 0, B: 0}, random) for _ in range(50)} == {A, B}


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (Families(frozenset({B})), Families(frozenset({A})), True),
        (Families(frozenset({B})), Families(), False),  # only one of them says so
        (Families(frozenset({"nickb"})), Families(frozenset({A})), True),
        (Families(ids=frozenset({"ed25519:k"})), Families(ids=frozenset({"ed25519:k", "ed25519:l"})), True),
        (Families(ids=frozenset({"ed25519:k"})), Families(ids=frozenset({"ed25519:l"})), False),
        (Families(), Families(), False),
    ],
)
def test_kin_are_those_who_both_say_so_or_share_a_family_id(one: Families, other: Families, expected: bool) -> None:
    assert is_kin(relay(A, "10.1.0.1"), one, relay(B, "10.2.0.1"), other) is expected


def test_relays_of_one_network_are_kin() -> None:
    assert is_kin(relay(A, "10.1.0.1"), Families(), relay(B, "10.1.200.1"), Families())


def test_a_microdescriptor_names_families() -> None:
    found = parse_families(f"onion-key\nfamily ${A} ${B.lower()}=x Bob\nfamily-ids ed25519:k weird:l\nid ed25519 y")
    assert found == Families(frozenset({A, B, "bob"}), frozenset({"ed25519:k", "weird:l"}))
