import pytest

from bento.errors import ConfigError
from bento.exit_policy import RelayFacts, is_range_open, verify_rules, why_not_dialled

_FACTS = RelayFacts(
    policy="accept 127.84.1.2:7000,reject 10.0.0.0/8:*,reject 23.128.248.14:*,accept *:80,accept *:443,reject *:*",
    own=("23.128.248.14",),
    listeners=frozenset({("51.15.0.1", 443)}),
)


@pytest.mark.parametrize(
    "address", ["5.6.7.8", "::ffff:5.6.7.8", "64:ff9b::506:708", "2606:4700::1111", "2001:4860::1"]
)
def test_dials_what_the_relay_accepts(address: str) -> None:
    assert why_not_dialled(_FACTS, address, 80) is None


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
    assert says in (why_not_dialled(_FACTS, address, port) or "")


def test_a_relay_that_can_not_be_read_dials_nothing() -> None:
    assert why_not_dialled(RelayFacts(), "5.6.7.8", 80) == "the relay's exit policy rejects 5.6.7.8:80"


@pytest.mark.parametrize(
    ("low", "high", "is_open"), [(80, 80, True), (81, 442, False), (1, 65535, True), (443, 443, True)]
)
def test_tells_whether_a_range_has_an_open_port(low: int, high: int, is_open: bool) -> None:
    assert is_range_open("accept *:80,accept *:443,reject *:*", low, high) is is_open


def test_a_policy_that_can_not_be_read_dials_nothing() -> None:
    assert (
        why_not_dialled(RelayFacts(policy="accept whatever"), "5.6.7.8", 80) == "the relay's exit policy can't be read"
    )


def test_names_the_rule_that_is_none() -> None:
    with pytest.raises(ConfigError, match="accept everything"):
        verify_rules(["accept *:80", "accept everything"])
