"""A consensus made current again."""

from cryptography.hazmat.primitives.asymmetric import rsa

from bento.testnet.consensus import nicknames, renewed

KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
CONSENSUS = """network-status-version 3 microdesc
vote-status consensus
valid-after 2026-01-01 00:00:00
fresh-until 2026-01-01 00:00:20
valid-until 2026-01-01 00:01:00
r one AAAA 2026-01-01 00:00:00 45.64.33.10 9001 0
s Fast Running Valid
r two AAAA 2026-01-01 00:00:00 45.65.33.10 9001 0
s Fast Valid
directory-footer
directory-signature sha256 AAAA BBBB
-----BEGIN SIGNATURE-----
AAAA
-----END SIGNATURE-----
"""


def test_the_dates_are_around_now_and_nothing_else_changes() -> None:
    text = renewed(CONSENSUS, KEY, now_s=1_800_000_001.5)
    assert text
    assert "valid-after 2027-01-15 08:00:00\nfresh-until 2027-01-15 08:00:20\nvalid-until 2027-01-15 08:01:00\n" in text
    changed = set(CONSENSUS.splitlines()) - set(text.splitlines())
    assert len(changed) == 4  # three dates, one signature


def test_another_renewal_signs_other_bytes() -> None:
    texts = {renewed(CONSENSUS, KEY, now_s=now_s) for now_s in (1.8e9, 1.8e9, 1.9e9)}
    assert len(texts) == 2


def test_refuses_what_is_no_consensus_of_one_authority() -> None:
    assert renewed("", KEY, now_s=1.8e9) is None
    assert renewed(CONSENSUS + CONSENSUS, KEY, now_s=1.8e9) is None
    assert renewed(CONSENSUS.replace("valid-until", "valid"), KEY, now_s=1.8e9) is None


def test_only_running_relays_count() -> None:
    assert nicknames(CONSENSUS) == {"one"}
