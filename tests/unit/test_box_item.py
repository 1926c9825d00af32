import pytest

from bento.errors import ConfigError
from bento.tor.box_item import BoxItem
from bento.tor.torrc import relay_lines, verify_order

_ITEM = BoxItem("127.84.1.2", 7000, "a" * 56, ("python", "browser"), "sgx", "exit")
_WORD = _ITEM.encode()


def test_an_item_is_found_beside_what_else_the_operator_says() -> None:
    assert BoxItem.parse(f"email:me[]example.org {_WORD} url:https://example.org") == _ITEM


@pytest.mark.parametrize(
    "contact",
    [
        "",
        "bento:",
        _WORD.replace("bento:1", "bento:2"),
        _WORD.replace("127.84.1.2", "10.0.0.1"),
        _WORD.replace("127.84.1.2", "127.84.1.256"),
        _WORD.replace(":7000", ":0"),
        _WORD.replace(":7000", ":65536"),
        _WORD.replace("a" * 56, "a" * 55),
        _WORD.replace("sgx", "maybe"),
        _WORD.replace("python", "Python"),
        _WORD + ";x=1",
        f"{_WORD} {_WORD}",
    ],
)
def test_what_is_not_one_well_formed_item_is_none(contact: str) -> None:
    assert BoxItem.parse(contact) is None


def test_an_item_that_does_not_fit_the_grammar_is_not_written() -> None:
    with pytest.raises(ConfigError, match="not a box item"):
        BoxItem("127.84.1.2", 7000, None, ("with space",), None, "exit").encode()


_OWN = ["23.128.248.14"]
_FULL = (
    "accept 127.84.1.2:7000,reject 0.0.0.0/8:*,reject 169.254.0.0/16:*,reject 127.0.0.0/8:*,reject 192.168.0.0/16:*,"
    "reject 10.0.0.0/8:*,reject 172.16.0.0/12:*,reject 23.128.248.14:*,accept *:80,reject *:*"
)


def test_the_lines_for_a_relay_stand_in_their_order() -> None:
    assert relay_lines("127.84.1.2", 7000, _OWN, ["accept *:80"], None) == [
        "ExitRelay 1",
        "ExitPolicyRejectPrivate 0",
        "ExitPolicy accept 127.84.1.2:7000",
        "ExitPolicy reject private:*",
        "ExitPolicy reject 23.128.248.14:*",
        "ExitPolicy accept *:80",
        "ExitPolicy reject *:*",
    ]


_FULL_IPV6 = (
    "reject6 [::]/8:*,reject6 [fc00::]/7:*,reject6 [fe80::]/10:*,reject6 [fec0::]/10:*,reject6 [ff00::]/8:*,"
    "reject6 [2001:db8::5]:*,accept6 *:80,reject6 *:*"
)


def test_the_order_holds_for_ipv6_too() -> None:
    verify_order(f"reject6 *:*,{_FULL}", "127.84.1.2", 7000, [*_OWN, "2001:db8::5"])
    verify_order(f"{_FULL},{_FULL_IPV6}", "127.84.1.2", 7000, [*_OWN, "2001:db8::5"])
    with pytest.raises(ConfigError, match="2001:db8::6"):
        verify_order(f"{_FULL},{_FULL_IPV6}", "127.84.1.2", 7000, [*_OWN, "2001:db8::6"])
    with pytest.raises(ConfigError, match="before it rejects"):
        verify_order(f"{_FULL},accept6 *:80,{_FULL_IPV6}", "127.84.1.2", 7000, _OWN)


def test_the_right_order_is_accepted() -> None:
    verify_order(_FULL, "127.84.1.2", 7000, _OWN)
    verify_order("accept 127.84.1.2:7000,reject *:*", "127.84.1.2", 7000, _OWN)


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        ("", "must begin"),
        ("reject *:*", "must begin"),
        (_FULL.replace("accept 127.84.1.2:7000,", ""), "must begin"),
        (_FULL.replace("reject 127.0.0.0/8:*,", ""), "before it rejects 127.0.0.0/8"),
        (_FULL.replace("reject 23.128.248.14:*,", ""), "before it rejects 23.128.248.14"),
        ("accept 127.84.1.2:7000,accept *:80," + _FULL, "before it rejects"),
    ],
)
def test_every_other_order_is_refused(policy: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        verify_order(policy, "127.84.1.2", 7000, _OWN)
