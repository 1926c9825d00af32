"""Keys that must exist before the tor that uses them: the authority's, onion services', the web's CA.

Each function makes what is missing in its directory and otherwise reads what is there.
"""

import base64
import hashlib
import re
import subprocess
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import trustme
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from bento.errors import NetworkDown
from bento.tor.process import find_program

_CERTIFICATE_MONTHS = 24
"""The longest that tor-gencert makes."""
_RENEW_BEFORE_S = 30 * 24 * 3600
"""No start may outlive the certificate."""


@dataclass(frozen=True)
class AuthorityKeys:
    """`fingerprint` of its relay identity, `v3ident` of its signing identity; hexadecimal."""

    fingerprint: str
    v3ident: str


def authority_keys(data: Path, dir_address: str, *, now_s: float) -> AuthorityKeys:
    """The keys of the directory authority whose DataDirectory is `data`; first use takes 0.4 to 3 s.

    A certificate that ends soon after `now_s` (Unix time) is made anew, with another v3ident.
    """
    keys = data / "keys"
    keys.mkdir(mode=0o700, parents=True, exist_ok=True)
    data.chmod(0o700)
    identity = keys / "secret_id_key"
    certificate = keys / "authority_certificate"
    if not identity.exists():
        # Tor's relay identity has 1024 bits and no other size.
        _write_private(identity, _pem(rsa.generate_private_key(public_exponent=65537, key_size=1024)))  # noqa: S505
    if not certificate.exists() or _expires_s(certificate) < now_s + _RENEW_BEFORE_S:
        for old in keys.glob("authority_*"):
            old.unlink()
        _make_certificate(keys, dir_address)
    key = serialization.load_pem_private_key(identity.read_bytes(), None)
    public = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.PKCS1)
    # Tor's own fingerprints are SHA-1: not ours to choose.
    fingerprint = hashlib.sha1(public, usedforsecurity=False).hexdigest().upper()
    return AuthorityKeys(fingerprint, _certified(certificate, "fingerprint"))


def signing_key(data: Path) -> rsa.RSAPrivateKey:
    """What the authority whose DataDirectory is `data` signs a consensus with."""
    key = serialization.load_pem_private_key((data / "keys" / "authority_signing_key").read_bytes(), None)
    assert isinstance(key, rsa.RSAPrivateKey)
    return key


def onion_service(directory: Path) -> str:
    """The 56 letters of the onion service whose HiddenServiceDir is `directory`."""
    hostname = directory / "hostname"
    if not hostname.exists():
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        seed = ed25519.Ed25519PrivateKey.generate()
        public = seed.public_key().public_bytes_raw()
        _write_private(directory / "hs_ed25519_secret_key", _tagged(b"secret", _expanded(seed.private_bytes_raw())))
        _write_private(directory / "hs_ed25519_public_key", _tagged(b"public", public))
        _write_private(hostname, f"{onion_address(public)}.onion\n".encode())
    return hostname.read_text().strip().removesuffix(".onion")


def onion_address(public: bytes) -> str:
    """The address of a version 3 onion service without `.onion` (rend-spec-v3, section 6)."""
    checksum = hashlib.sha3_256(b".onion checksum" + public + b"\x03").digest()[:2]
    return base64.b32encode(public + checksum + b"\x03").decode().lower()


def certificate_authority(certificate: Path) -> trustme.CA:
    """The CA of the network's web server; its key stands beside the certificate as ca.key."""
    key = certificate.with_suffix(".key")
    if not (certificate.exists() and key.exists()):
        authority = trustme.CA(organization_name="Bento private network", organization_unit_name="web")
        _write_private(key, authority.private_key_pem.bytes())
        certificate.write_bytes(authority.cert_pem.bytes())
        return authority
    return trustme.CA.from_pem(certificate.read_bytes(), key.read_bytes())


def _expires_s(certificate: Path) -> float:
    return datetime.fromisoformat(_certified(certificate, "dir-key-expires") + "+00:00").timestamp()


def _certified(certificate: Path, keyword: str) -> str:
    found = re.search(rf"^{keyword} (.+)$", certificate.read_text(), re.MULTILINE)
    if found is None:
        raise NetworkDown(f"{certificate} is damaged", hint=f"remove {certificate.parent.parent} and start again")
    return found[1]


def _make_certificate(keys: Path, dir_address: str) -> None:
    command = [find_program("tor-gencert"), "--create-identity-key", "--passphrase-fd", "0"]
    command += ["-m", str(_CERTIFICATE_MONTHS), "-a", dir_address]
    # The identity key's passphrase protects nothing here: the signing key beside it is plain.
    done = subprocess.run(command, cwd=keys, input=b"private\n", capture_output=True, timeout=60)
    if done.returncode:
        raise NetworkDown("tor-gencert could not make the authority's keys", hint=done.stderr.decode(errors="replace"))


def _expanded(seed: bytes) -> bytes:
    """The form in which tor keeps an ed25519 secret: its SHA-512, clamped (RFC 8032, section 5.1.5)."""
    digest = bytearray(hashlib.sha512(seed).digest())
    digest[0] &= 248
    digest[31] = digest[31] & 63 | 64
    return bytes(digest)


def _tagged(kind: bytes, key: bytes) -> bytes:
    return (b"== ed25519v1-" + kind + b": type0 ==").ljust(32, b"\0") + key


def _pem(key: rsa.RSAPrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )


def _write_private(path: Path, content: bytes) -> None:
    path.touch(mode=0o600)
    path.write_bytes(content)
