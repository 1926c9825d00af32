"""A relay's own descriptor, checked: both of its signatures, and that both keys vouch for each other.

    descriptor = verify_descriptor(text, now_s=time.time())
    print(descriptor.fingerprint, descriptor.contact)

A whole descriptor is signed twice, by the RSA identity whose hash is the fingerprint and by an ed25519 key that the
relay's ed25519 identity has certified; each signature covers the other key. So whoever passes one on can't change it.
Source: dir-spec, "Server descriptor format"; cert-spec.
"""

import base64
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from bento.errors import BentoError

MAX_DESCRIPTOR_BYTES: Final = 20_000
"""Tor's own limit for what a relay may upload."""

MAX_AGE_S: Final = 7 * 86400
"""A relay publishes anew every 18 hours, but a list is fetched and passed on by people, so a week. What a relay said
before that (another address, another policy) is not to be replayed."""

MAX_SKEW_S: Final = 3600
"""How far ahead of this clock a relay's may be; tor itself warns at this difference."""

_SIGNED_BY_ED25519: Final = b"Tor router descriptor signature v1"
_CERT_SIGNING_KEY: Final = 4
_EXTENSION_SIGNED_WITH: Final = 4


class DescriptorInvalid(BentoError):
    """A descriptor that is malformed, forged, altered, or of another time."""

    code = "descriptor"


@dataclass(frozen=True)
class Descriptor:
    """What a relay says of itself. `fingerprint` is 40 hex digits; `policy` its exit policy's lines, in order."""

    fingerprint: str
    nickname: str
    published_s: int
    contact: str
    policy: tuple[str, ...]


def split_descriptors(text: bytes) -> Iterator[bytes]:
    """Each descriptor of a bundle, not checked; whatever stands between them is left out."""
    end = b"\n-----END SIGNATURE-----\n"
    for piece in re.split(rb"(?m)^(?=router )", text)[1:]:
        whole, found, _ = piece.partition(end)
        yield whole + found


def verify_descriptor(text: bytes, *, now_s: float) -> Descriptor:
    """Check one descriptor, from "router" through its RSA signature.

    Raises: DescriptorInvalid says what is wrong with it.
    """
    if len(text) > MAX_DESCRIPTOR_BYTES:
        raise DescriptorInvalid(f"{len(text)} bytes, tor's limit is {MAX_DESCRIPTOR_BYTES}")
    try:
        return _verify(text, now_s)
    except (ValueError, KeyError, IndexError, InvalidSignature, TypeError) as error:
        raise DescriptorInvalid(f"does not verify: {type(error).__name__}: {error}") from None


def _verify(text: bytes, now_s: float) -> Descriptor:
    lines = text.decode("ascii", "surrogateescape").split("\n")
    fingerprint = _only(lines, "fingerprint").replace(" ", "")
    _verify_rsa(text, fingerprint)
    _verify_ed25519(text, _only(lines, "master-key-ed25519"), now_s)
    published_s = int(datetime.strptime(_only(lines, "published"), "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC).timestamp())
    if published_s > now_s + MAX_SKEW_S:
        raise DescriptorInvalid("published in the future")
    if published_s < now_s - MAX_AGE_S:
        raise DescriptorInvalid(f"published more than {MAX_AGE_S // 86400} days ago")
    contacts = [line.removeprefix("contact ") for line in lines if line.startswith("contact ")]
    policy = tuple(line for line in lines if line.startswith(("accept ", "reject ")))
    return Descriptor(fingerprint, _only(lines, "router").split()[0], published_s, "\n".join(contacts), policy)


def _verify_rsa(text: bytes, fingerprint: str) -> None:
    """The RSA identity fits the fingerprint and signed everything up to its signature."""
    key = load_pem_public_key(_after(text, b"\nsigning-key\n", b"RSA PUBLIC KEY"))
    if not isinstance(key, rsa.RSAPublicKey):
        raise DescriptorInvalid("the signing key is no RSA key")
    named = hashlib.sha1(key.public_bytes(Encoding.DER, PublicFormat.PKCS1), usedforsecurity=False)
    if named.hexdigest().upper() != fingerprint:
        raise DescriptorInvalid("the fingerprint is another key's")
    signed, keyword, signature = _cut(text, b"\nrouter-signature\n")
    # Tor signs the bare SHA-1, without the algorithm's name before it.
    digest = hashlib.sha1(signed + keyword, usedforsecurity=False).digest()
    if key.recover_data_from_signature(_object(signature, b"SIGNATURE"), padding.PKCS1v15(), None) != digest:
        raise DescriptorInvalid("the RSA signature is another text's")


def _verify_ed25519(text: bytes, master_key: str, now_s: float) -> None:
    """The ed25519 identity certified the key that signed everything up to its signature."""
    certificate = _object(_after(text, b"\nidentity-ed25519\n", b"ED25519 CERT"), b"ED25519 CERT")
    identity = _decoded(master_key.encode() + b"=")
    signing_key = _verify_certificate(certificate, identity, now_s)
    signed, keyword, signature = _cut(text, b"\nrouter-sig-ed25519 ")
    digest = hashlib.sha256(_SIGNED_BY_ED25519 + signed + keyword).digest()
    encoded = signature.split(b"\n", 1)[0]
    ed25519.Ed25519PublicKey.from_public_bytes(signing_key).verify(_decoded(encoded + b"=="), digest)


def _verify_certificate(certificate: bytes, identity: bytes, now_s: float) -> bytes:
    """The key (32 bytes) that `identity` certified as its signing key."""
    version, kind, hours, key_type = certificate[0], certificate[1], certificate[2:6], certificate[6]
    if (version, kind, key_type) != (1, _CERT_SIGNING_KEY, 1):
        raise DescriptorInvalid(f"a certificate of version {version}, kind {kind}, for key type {key_type}")
    if int.from_bytes(hours, "big") * 3600 < now_s:
        raise DescriptorInvalid("the certificate of its signing key has expired")
    if _certifier(certificate) != identity:
        raise DescriptorInvalid("the certificate is another identity's")
    ed25519.Ed25519PublicKey.from_public_bytes(identity).verify(certificate[-64:], certificate[:-64])
    return certificate[7:39]


def _certifier(certificate: bytes) -> bytes:
    """The key (32 bytes) in the extension that says who signed; b"" if there is none."""
    rest = certificate[40:-64]
    while len(rest) >= 4:
        size, kind = int.from_bytes(rest[:2], "big"), rest[2]
        if kind == _EXTENSION_SIGNED_WITH and size == 32:
            return rest[4:36]
        rest = rest[4 + size :]
    return b""


def _only(lines: list[str], keyword: str) -> str:
    """The rest of the line of this keyword, which stands there once."""
    found = [line for line in lines if line.startswith(f"{keyword} ")]
    if len(found) != 1:
        raise DescriptorInvalid(f"{len(found)} lines of {keyword}, it needs 1")
    return found[0][len(keyword) + 1 :]


def _cut(text: bytes, keyword: bytes) -> tuple[bytes, bytes, bytes]:
    """The text before a keyword that stands there once, the keyword, and what follows."""
    if text.count(keyword) != 1:
        raise DescriptorInvalid(f"{text.count(keyword)} times {keyword.decode().strip()}, it needs 1")
    return text.partition(keyword)


def _after(text: bytes, keyword: bytes, label: bytes) -> bytes:
    """The PEM object that follows a keyword."""
    begin, end = b"-----BEGIN %b-----\n" % label, b"-----END %b-----\n" % label
    rest = _cut(text, keyword)[2]
    if not rest.startswith(begin) or end not in rest:
        raise DescriptorInvalid(f"no {label.decode()} behind {keyword.decode().strip()}")
    return rest[: rest.index(end) + len(end)]


def _object(pem: bytes, label: bytes) -> bytes:
    body = pem.removeprefix(b"-----BEGIN %b-----\n" % label).partition(b"-----END %b-----" % label)[0]
    return _decoded(body.replace(b"\n", b""))


def _decoded(text: bytes) -> bytes:
    """Base64 in its one canonical form: else a descriptor could be changed where nobody signs for it."""
    data = base64.b64decode(text, validate=True)
    if base64.b64encode(data) != text:
        raise DescriptorInvalid("base64 that is not canonical")
    return data
