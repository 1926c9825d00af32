"""Server descriptors signed as tor signs them, for tests."""

import base64
import hashlib
import textwrap
from dataclasses import dataclass, field
from datetime import UTC, datetime

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from bento.tor.box_item import BoxItem

NOW_S = 1_800_000_000
ITEM = BoxItem("127.84.1.2", 7000, "a" * 56, ("python",), None, "exit")


@dataclass
class Signer:
    """A relay's keys. RSA of 1024 bits is what tor's identities have."""

    rsa: RSAPrivateKey = field(default_factory=lambda: generate_private_key(65537, 1024))
    master: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    signing: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)

    @property
    def fingerprint(self) -> str:
        der = self.rsa.public_key().public_bytes(Encoding.DER, PublicFormat.PKCS1)
        return hashlib.sha1(der).hexdigest().upper()

    def certificate(self, expires_s: float, kind: int = 4) -> bytes:
        head = bytes([1, kind]) + int(expires_s / 3600).to_bytes(4, "big") + b"\x01" + _raw(self.signing)
        body = head + b"\x01" + b"\x00\x20\x04\x00" + _raw(self.master)
        return body + self.master.sign(body)

    def sign_rsa(self, text: bytes) -> bytes:
        """PKCS #1 v1.5 over the bare SHA-1, which no library makes."""
        numbers = self.rsa.private_numbers()
        padded = b"\x00\x01" + b"\xff" * (128 - 23) + b"\x00" + hashlib.sha1(text).digest()
        return pow(int.from_bytes(padded, "big"), numbers.d, numbers.public_numbers.n).to_bytes(128, "big")


def make_descriptor(
    signer: Signer,
    *,
    contact: str | None = None,
    published_s: float = NOW_S - 3600,
    certificate_expires_s: float = NOW_S + 86400,
    policy: tuple[str, ...] = ("accept 127.84.1.2:7000", "reject *:*"),
    nickname: str = "r5",
) -> bytes:
    """A whole descriptor, from "router" through its RSA signature."""
    fingerprint = " ".join(textwrap.wrap(signer.fingerprint, 4))
    rsa_pem = signer.rsa.public_key().public_bytes(Encoding.PEM, PublicFormat.PKCS1).decode()
    lines = [
        f"router {nickname} 45.70.33.10 9001 0 0",
        "identity-ed25519",
        _pem("ED25519 CERT", signer.certificate(certificate_expires_s)).rstrip(),
        "master-key-ed25519 " + base64.b64encode(_raw(signer.master)).decode().rstrip("="),
        "published " + datetime.fromtimestamp(published_s, UTC).strftime("%Y-%m-%d %H:%M:%S"),
        f"fingerprint {fingerprint}",
        "signing-key",
        rsa_pem.rstrip(),
        f"contact {ITEM.encode() if contact is None else contact}",
        *policy,
    ]
    return sign(signer, "\n".join([*lines, ""]).encode())


def sign(signer: Signer, body: bytes) -> bytes:
    """Append both signatures."""
    body += b"router-sig-ed25519 "
    digest = hashlib.sha256(b"Tor router descriptor signature v1" + body).digest()
    body += base64.b64encode(signer.signing.sign(digest)).rstrip(b"=") + b"\nrouter-signature\n"
    return body + _pem("SIGNATURE", signer.sign_rsa(body)).encode()


def _raw(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes_raw()


def _pem(label: str, data: bytes) -> str:
    body = "\n".join(textwrap.wrap(base64.b64encode(data).decode(), 64))
    return f"-----BEGIN {label}-----\n{body}\n-----END {label}-----\n"
