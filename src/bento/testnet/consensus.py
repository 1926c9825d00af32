"""The consensus that a stopped network left, made current again: pure.

Tor takes no consensus that is more than a day over its time, and a new one takes a vote of seven seconds. The network
has its authority's key, so it moves the three dates and signs again; the relays listed are the same.

Source: Tor directory protocol, version 3 (dir-spec), sections "Consensus status documents" and "Signing".
"""

import base64
import hashlib
import re
from datetime import UTC, datetime
from typing import Final

from cryptography.hazmat.primitives.asymmetric import rsa

_FRESH_S: Final = 20
_VALID_S: Final = 60
"""As the authority's own votes would make them with V3AuthVotingInterval 20."""


def renewed(consensus: str, key: rsa.RSAPrivateKey, *, now_s: float) -> str | None:
    """The consensus with dates around `now_s` (Unix time), signed by the authority's signing key.

    Returns: None if it is no consensus, or has another number of signatures than one.
    """
    parts = re.split(r"^(directory-signature )", consensus, flags=re.MULTILINE)
    if len(parts) != 3:
        return None
    signed, word, signature = parts
    for keyword, after_s in (("valid-after", -1), ("fresh-until", _FRESH_S - 1), ("valid-until", _VALID_S - 1)):
        date = datetime.fromtimestamp(int(now_s) + after_s, UTC).strftime("%Y-%m-%d %H:%M:%S")
        signed, count = re.subn(rf"^{keyword} .+$", f"{keyword} {date}", signed, flags=re.MULTILINE)
        if count != 1:
            return None
    identity = signature.partition("\n")[0]
    # Only flavored consensuses name their digest; the plain one is of the days of SHA-1.
    digest = hashlib.sha256 if identity.startswith("sha256 ") else hashlib.sha1
    return signed + word + identity + "\n" + _signature(digest((signed + word).encode()).digest(), key)


def nicknames(consensus: str) -> set[str]:
    """The relays that a consensus lists as running."""
    entries = re.findall(r"^r (\S+) .*?^s ([^\n]*)", consensus, re.MULTILINE | re.DOTALL)
    return {nickname for nickname, flags in entries if "Running" in flags.split()}


def _signature(digest: bytes, key: rsa.RSAPrivateKey) -> str:
    """Tor's form: the bare digest, padded as in PKCS #1 v1.5 without naming its algorithm."""
    numbers = key.private_numbers()
    size = key.key_size // 8
    padded = b"\x00\x01" + b"\xff" * (size - 3 - len(digest)) + b"\x00" + digest
    signed = pow(int.from_bytes(padded), numbers.d, numbers.public_numbers.n).to_bytes(size)
    text = base64.b64encode(signed).decode()
    wrapped = "\n".join(text[at : at + 64] for at in range(0, len(text), 64))
    return f"-----BEGIN SIGNATURE-----\n{wrapped}\n-----END SIGNATURE-----\n"
