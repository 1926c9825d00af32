"""The plan of a private network and its torrcs, without any of it running."""

import ipaddress
import itertools
from pathlib import Path

import pytest

from bento.errors import UsageError
from bento.testnet import BoxPlan, Network
from bento.testnet.keys import AuthorityKeys
from bento.testnet.layout import MAX_BOXES, Layout, boxes_for, client_address, plan, web_address
from bento.testnet.namespace import PUBLIC_RANGE
from bento.testnet.torrc import SAFEGUARDS, authority_torrc, defaults_lines, relay_torrc, vote_offset

KEYS = AuthorityKeys("A" * 40, "B" * 40)


def layout(*boxes: BoxPlan, latency_ms: int = 0) -> Layout:
    return plan(Path("/var/net"), Path("/tmp/bento-x"), boxes, latency_ms)


def policy(lines: list[str]) -> list[str]:
    return [line.removeprefix("ExitPolicy ") for line in lines if line.startswith("ExitPolicy ")]


def torrc(plan: BoxPlan) -> list[str]:
    found = layout(plan)
    return relay_torrc(found, found.relays[-1], contact="bento:x", dead_resolver=Path("/var/net/dead"))


def test_every_relay_has_a_public_address_in_a_16_of_its_own() -> None:
    addresses = [ipaddress.ip_address(relay.address) for relay in layout(*[BoxPlan()] * MAX_BOXES).relays]
    assert all(address.is_global for address in addresses)
    assert len({address.packed[:2] for address in addresses}) == len(addresses) == 6 + MAX_BOXES


def test_all_addresses_are_local_to_the_network() -> None:
    found = [relay.address for relay in layout(*[BoxPlan()] * MAX_BOXES).relays]
    found += [client_address(number) for number in range(1000)] + [web_address(f"{n}.test") for n in range(100)]
    assert all(ipaddress.ip_address(address) in ipaddress.ip_network(PUBLIC_RANGE) for address in found)
    assert len({client_address(number) for number in range(1000)}) == 1000


def test_each_box_has_a_loopback_address_and_uids_of_its_own() -> None:
    boxes = layout(*[BoxPlan()] * MAX_BOXES).boxes
    assert all(ipaddress.ip_address(box.address).is_loopback for box in boxes)
    assert len({box.address for box in boxes}) == len({box.uid for box in boxes}) == MAX_BOXES
    bases = sorted(box.uid_base for box in boxes)
    assert all(one + 65_536 <= other for one, other in itertools.pairwise(bases))
    assert bases[-1] + 65_536 < 2**32


def test_most_boxes_are_exits() -> None:
    assert [box.is_exit for box in boxes_for(6)] == [True, True, False, True, True, False]


@pytest.mark.parametrize("count", [-1, MAX_BOXES + 1])
def test_refuses_a_number_of_boxes_out_of_range(count: int) -> None:
    with pytest.raises(UsageError, match=f"{count} boxes .* limit is 0 to {MAX_BOXES}"):
        boxes_for(count)


def test_refuses_a_latency_out_of_range(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="limit is 0 to 2000"):
        Network(tmp_path, latency_ms=2001)


def test_an_open_box_is_accepted_first_then_internal_addresses_are_rejected() -> None:
    assert policy(torrc(BoxPlan())) == [
        "accept 127.84.1.2:7000",
        "reject private:*",
        "reject 45.70.33.10:*",
        "accept *:80",
        "accept *:443",
        "reject *:*",
    ]


def test_a_box_at_a_relay_that_was_no_exit_brings_a_dead_resolver() -> None:
    assert "ServerDNSResolvConfFile /var/net/dead" in torrc(BoxPlan(is_exit=False))
    assert not any(line.startswith("ServerDNS") for line in torrc(BoxPlan()))


def test_a_box_that_is_not_open_leaves_the_relay_as_it_was() -> None:
    lines = torrc(BoxPlan(is_open=False))
    assert policy(lines) == ["accept *:80", "accept *:443", "reject *:*"]
    assert not any(line.startswith("ExitPolicyRejectPrivate") for line in lines)
    assert "ContactInfo bento:x" in lines


def test_latency_moves_the_listener_behind_the_advertised_address() -> None:
    found = layout(latency_ms=25)
    lines = relay_torrc(found, found.relays[1], contact="", dead_resolver=Path("/x"))
    assert [line for line in lines if line.startswith("ORPort")] == [
        "ORPort 45.65.33.10:9001 NoListen IPv4Only",
        "ORPort 127.64.1.1:9001 NoAdvertise IPv4Only",
    ]


def test_the_defaults_name_the_authority_and_restore_every_safeguard() -> None:
    lines = defaults_lines(layout().authority, KEYS)
    authority = f"DirAuthority authority orport=9001 no-v2 v3ident={'B' * 40} 45.64.33.10:9030 {'A' * 40}"
    assert authority in lines
    assert set(SAFEGUARDS) <= set(lines)


def test_the_first_vote_waits_for_the_relays_and_can_be_moved_nearer() -> None:
    for now_s in range(1_800_000_000, 1_800_000_040):
        lines = dict(line.split(" ", 1) for line in authority_torrc(layout(), now_s=now_s))
        interval = int(lines["TestingV3AuthInitialVotingInterval"])
        next_s = interval - (now_s - int(lines["TestingV3AuthVotingStartOffset"])) % interval
        assert next_s > 15
        assert (now_s + 2 - vote_offset(now_s + 1.5)) % interval == 0
        assert vote_offset(now_s) < int(lines["V3AuthVotingInterval"])
