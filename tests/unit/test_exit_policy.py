import pytest

from bento.errors import ConfigError
from bento.exit_policy import (
    RelayFacts,
    is_accepted,
    is_range_open,
    one_port,
    open_ports,
    verify_rules,
    why_not_dialled,
)

_FACTS = RelayFacts(
    policy="accept 127.84.1.2:7000,reject 10.0.0.0/8:*,reject 23.128.248.14:*,accept *:80,accept *:443,reject *:*",
    own=("23.128.248.14",),
    listeners=frozenset({("51.15.0.1", 443)}),
)


@pytest.mark.parametrize(
    "address", ["5.6.7.8", "::ffff:5.6.7.8", "64:ff9b::506:708", "2606:4700::1111", "2001:4860::1"]
)
def test_dials_what_the_relay_accepts(address: str) -> None:
    assert why_not_dialled(_FACTS, address, [one_port(80)]) is None


@pytest.mark.parametrize(
    ("address", "port", "says"),
    [
        ("5.6.7.8", 22, "rejects 5.6.7.8:22"),
        ("127.84.1.2", 7000, "not a public address"),
        ("127.0.0.1", 80, "not a public address"),
        ("10.1.2.3", 80, "not a public address"),
        ("169.254.169.254", 80, "not a public address"),
        ("0.0.0.0", 80, "not a public address"),
        ("224.0.0.1", 80, "not a public address"),
        ("::1", 80, "not a public address"),
        ("::ffff:127.0.0.1", 80, "not a public address"),
        ("64:ff9b::7f00:1", 80, "not a public address"),
        ("fe80::1%lo", 80, "not a public address"),
        ("fec0::1", 80, "not a public address"),
        ("::7f00:1", 80, "not a public address"),
        ("::808:808", 80, "not a public address"),
        ("::ffff:0:7f00:1", 80, "not a public address"),
        ("::ffff:0:10.0.0.1", 80, "not a public address"),
        ("64:ff9b:1::a00:1", 80, "not a public address"),
        ("2001:0:7f00::1", 80, "not a public address"),
        ("2002:7f00:1::", 80, "not a public address"),
        ("2002:a00:1::1", 80, "not a public address"),
        ("192.88.99.1", 80, "not a public address"),
        ("5f00::1", 80, "not a public address"),
        ("::ffff:51.15.0.1", 443, "is a Tor relay"),
        ("23.128.248.14", 80, "the relay's own address"),
        ("51.15.0.1", 443, "is a Tor relay"),
    ],
)
def test_refuses_what_tor_would_not_dial(address: str, port: int, says: str) -> None:
    assert says in (why_not_dialled(_FACTS, address, [one_port(port)]) or "")


def test_a_relay_that_can_not_be_read_dials_nothing() -> None:
    assert why_not_dialled(RelayFacts(), "5.6.7.8", [one_port(80)]) == "the relay's exit policy rejects 5.6.7.8:80"


@pytest.mark.parametrize(
    ("low", "high", "is_open"), [(80, 80, True), (81, 442, False), (1, 65535, True), (443, 443, True)]
)
def test_tells_whether_a_range_has_an_open_port(low: int, high: int, is_open: bool) -> None:
    assert is_range_open("accept *:80,accept *:443,reject *:*", low, high) is is_open


@pytest.mark.parametrize(
    ("policy", "is_open"),
    [
        ("accept 5.0.0.0/8:80,reject *:*", True),
        ("reject 5.0.0.0/8:*,accept *:80,reject *:*", True),
        ("reject *:*,accept *:80", False),
        ("accept6 *:80,reject *:*", True),
        ("reject6 *:*,accept *:80,reject *:*", True),
        ("reject *:*,accept6 *:80", False),
        ("accept6 5.6.7.8:80,reject *:*", False),
        ("reject *4:*,reject *6:*", False),
        ("reject *:81-65535", True),
        ("", False),
    ],
)
def test_a_port_is_open_if_it_is_at_some_address_of_some_family(policy: str, is_open: bool) -> None:
    assert is_range_open(policy, 80, 80) is is_open


def test_a_policy_that_can_not_be_read_dials_nothing() -> None:
    refusal = why_not_dialled(RelayFacts(policy="accept whatever"), "5.6.7.8", [one_port(80)])
    assert refusal == "the relay's exit policy can't be read"


def test_names_the_rule_that_is_none() -> None:
    with pytest.raises(ConfigError, match="accept everything"):
        verify_rules(["accept *:80", "accept everything"])


@pytest.mark.parametrize(
    ("address", "ports", "says"),
    [
        ("5.6.7.8", [range(1, 65536)], None),
        ("5.6.7.8", [range(100, 200), range(400, 444)], None),
        ("5.6.7.8", [range(100, 200)], "the relay's exit policy rejects a.test"),
        ("51.15.0.1", [range(1, 65536)], None),
        ("51.15.0.1", [range(81, 65536)], "a.test is a Tor relay"),
        ("10.0.0.1", [range(1, 65536)], "a.test is not a public address"),
        ("5.6.7.8", [range(80, 443)], "the box's policy rejects a.test"),
    ],
)
def test_of_several_ports_one_must_be_open_and_the_address_is_not_told(
    address: str, ports: list[range], says: str | None
) -> None:
    rules = "accept *:443,reject *:*" if says and "box" in says else "accept *:*"
    assert why_not_dialled(_FACTS, address, ports, box_rules=rules, named="a.test") == says


@pytest.mark.parametrize(
    ("policy", "address", "accepted"),
    [
        ("reject 1.0.0.0/8:*,accept *:80-90,reject *:*", "1.2.3.4", ()),
        ("reject 1.0.0.0/8:85,accept *:80-90,reject *:*", "1.2.3.4", (range(80, 85), range(86, 91))),
        ("accept6 1.2.3.4:80,reject *:*", "1.2.3.4", ()),
        ("accept6 *:80,reject *:*", "1.2.3.4", ()),
        ("accept6 *:80,reject *:*", "2606::1", (range(80, 81),)),
        ("accept 1.2.3.0/255.255.0.255:80,reject *:*", "1.2.9.0", (range(80, 81),)),
        ("reject *:0-1023", "1.2.3.4", (range(1024, 65536),)),
        ("", "1.2.3.4", ()),
    ],
)
def test_the_first_rule_that_names_a_port_holds(policy: str, address: str, accepted: tuple[range, ...]) -> None:
    assert open_ports(policy, address) == accepted
    assert not is_accepted(policy, address, 0)
    assert not is_accepted(policy, address, 65536)
