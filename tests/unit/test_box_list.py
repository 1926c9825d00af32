"""Box lists: who makes one may leave boxes out, but neither forge, alter nor replay any."""

import re

import pytest

from bento.errors import UsageError
from bento.tor.box_list import MAX_LIST_BYTES, parse_box_list
from bento.tor.descriptor import (
    MAX_AGE_S,
    MAX_DESCRIPTOR_BYTES,
    MAX_SKEW_S,
    DescriptorInvalid,
    split_descriptors,
    verify_descriptor,
)
from tests.descriptors import ITEM, NOW_S, Signer, make_descriptor, sign


@pytest.fixture(scope="module")
def signer() -> Signer:
    return Signer()


@pytest.fixture(scope="module")
def genuine(signer: Signer) -> bytes:
    return make_descriptor(signer)


def test_a_genuine_descriptor_verifies(signer: Signer, genuine: bytes) -> None:
    found = verify_descriptor(genuine, now_s=NOW_S)
    assert (found.fingerprint, found.nickname, found.contact) == (signer.fingerprint, "r5", ITEM.encode())


def test_no_bit_of_a_descriptor_can_be_changed(genuine: bytes) -> None:
    for position in range(len(genuine) - 1):
        altered = bytearray(genuine)
        altered[position] ^= 1
        with pytest.raises(DescriptorInvalid):
            verify_descriptor(bytes(altered), now_s=NOW_S)


def test_a_descriptor_signed_anew_with_another_rsa_key_is_refused(signer: Signer, genuine: bytes) -> None:
    liar = Signer(master=signer.master, signing=Signer().signing)
    body = make_descriptor(liar).partition(b"router-sig-ed25519 ")[0]
    stolen = re.search(rb"identity-ed25519\n.*?END ED25519 CERT-----\n", genuine, re.DOTALL)
    assert stolen
    body = re.sub(rb"identity-ed25519\n.*?END ED25519 CERT-----\n", lambda _: stolen[0], body, flags=re.DOTALL)
    with pytest.raises(DescriptorInvalid):
        verify_descriptor(sign(liar, body), now_s=NOW_S)


def test_a_fingerprint_of_another_key_is_refused(signer: Signer) -> None:
    liar = Signer()
    body = make_descriptor(liar).partition(b"router-sig-ed25519 ")[0]
    victim = " ".join(re.findall("....", signer.fingerprint))
    body = re.sub(rb"fingerprint [0-9A-F ]+", f"fingerprint {victim}".encode(), body)
    with pytest.raises(DescriptorInvalid, match="another key's"):
        verify_descriptor(sign(liar, body), now_s=NOW_S)


def test_a_descriptor_without_ed25519_is_refused(signer: Signer, genuine: bytes) -> None:
    body = re.sub(rb"identity-ed25519\n.*?END ED25519 CERT-----\n", b"", genuine, flags=re.DOTALL)
    with pytest.raises(DescriptorInvalid):
        verify_descriptor(sign(signer, body.partition(b"router-sig-ed25519 ")[0]), now_s=NOW_S)


@pytest.mark.parametrize(
    "line", [b"fingerprint AAAA\n", b"published 2030-01-01 00:00:00\n", b"router x 1.2.3.4 1 0 0\n"]
)
def test_a_second_line_of_what_stands_once_is_refused(signer: Signer, genuine: bytes, line: bytes) -> None:
    body = genuine.partition(b"router-sig-ed25519 ")[0] + line
    with pytest.raises(DescriptorInvalid):
        verify_descriptor(sign(signer, body), now_s=NOW_S)


@pytest.mark.parametrize(
    ("published_s", "expected"),
    [
        (NOW_S - MAX_AGE_S - 1, "days ago"),
        (NOW_S + MAX_SKEW_S + 1, "future"),
    ],
)
def test_a_descriptor_of_another_time_is_refused(signer: Signer, published_s: int, expected: str) -> None:
    with pytest.raises(DescriptorInvalid, match=expected):
        verify_descriptor(make_descriptor(signer, published_s=published_s), now_s=NOW_S)


def test_an_expired_signing_key_is_refused(signer: Signer) -> None:
    with pytest.raises(DescriptorInvalid, match="expired"):
        verify_descriptor(make_descriptor(signer, certificate_expires_s=NOW_S - 3600), now_s=NOW_S)


def test_a_descriptor_over_the_limit_is_refused(signer: Signer) -> None:
    large = make_descriptor(signer, contact="x" * MAX_DESCRIPTOR_BYTES)
    with pytest.raises(DescriptorInvalid, match=str(MAX_DESCRIPTOR_BYTES)):
        verify_descriptor(large, now_s=NOW_S)


@pytest.mark.parametrize("text", [b"", b"router\n", b"router x\nfingerprint \n", b"\xff" * 100, b"router " * 500])
def test_garbage_is_refused_and_raises_nothing_else(text: bytes) -> None:
    with pytest.raises(DescriptorInvalid):
        verify_descriptor(text, now_s=NOW_S)


def test_what_does_not_verify_is_left_out_and_counted(signer: Signer, genuine: bytes) -> None:
    other = make_descriptor(Signer(), contact="someone@example.org")
    forged = make_descriptor(Signer()).replace(b"policy=exit", b"policy=onion")
    listed = parse_box_list(b"@source x\n" + forged + b"garbage\n" + genuine + other + genuine[:400], now_s=NOW_S)
    assert [box.fingerprint for box in listed.boxes] == [signer.fingerprint]
    assert sum(listed.left_out.values()) == 3
    assert listed.left_out["no well-formed bento: item"] == 1


def test_of_two_descriptors_of_a_relay_the_newer_counts(signer: Signer, genuine: bytes) -> None:
    older = make_descriptor(signer, published_s=NOW_S - 7200, nickname="old")
    for text in (older + genuine, genuine + older):
        assert [box.nickname for box in parse_box_list(text, now_s=NOW_S).boxes] == ["r5"]


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (("accept 127.84.1.2:7000", "reject *:*"), True),
        (("reject private:*", "accept *:*"), False),
        (("accept 127.84.1.2:7001", "reject *:*"), False),
        ((), False),
    ],
)
def test_a_box_is_open_if_its_relay_accepts_its_address(policy: tuple[str, ...], expected: bool) -> None:
    listed = parse_box_list(make_descriptor(Signer(), policy=policy or ("reject *:*",)), now_s=NOW_S)
    assert listed.boxes[0].is_open is expected


def test_a_list_over_the_limit_is_refused() -> None:
    with pytest.raises(UsageError, match=str(MAX_LIST_BYTES)):
        parse_box_list(bytes(MAX_LIST_BYTES + 1), now_s=NOW_S)


def test_a_bundle_is_split_into_whole_descriptors(genuine: bytes) -> None:
    assert list(split_descriptors(genuine + b"@annotation\n" + genuine)) == [genuine, genuine]
