"""What a function asks for: a TOML block at the top of its source, in the manner of Python's inline script metadata.

    # /// bento
    # memory_bytes = 134_217_728
    # egress = ["*.example.org:443"]
    # ///

A key left out asks for its default; an unknown key is an error.

>>> parse_manifest(b"# /// bento\\n# cpu_s = 5\\n# ///\\n").cpu_s
5
"""

import ipaddress
import re
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from bento.config import MAX_NAME_CHARS, MIB, MIN_BUFFER_BYTES
from bento.errors import ManifestError

_BLOCK = re.compile(rb"^# /// bento[ \t]*\r?\n((?:#[^\r\n]*\r?\n)*?)# ///[ \t]*\r?$", re.MULTILINE)
_OPENING = re.compile(rb"^# /// bento[ \t]*\r?$", re.MULTILINE)
_DESTINATION = re.compile(
    r"(?P<host>\[[0-9A-Fa-f:.]+(?:/\d+)?\]|[^\s:\[\]]+):(?P<low>\d{1,5}|\*)(?:-(?P<high>\d{1,5}))?"
)

Amount = Annotated[int, Meta(ge=1, le=2**53)]
"""A positive number that every language's msgpack library keeps exact."""

Name = Annotated[str, Meta(min_length=1, max_length=MAX_NAME_CHARS)]


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """What one instance may use, over its whole life."""

    image: Name = "python"
    memory_bytes: Amount = 64 * MIB
    """Memory beyond what an empty instance uses."""
    cpu_s: Amount = 30
    """Processor seconds, of all its threads together."""
    wall_s: Amount | None = None
    """Seconds from spawn to end, renewals of the lease included; None asks for as long as the box grants."""
    storage_bytes: Amount = 16 * MIB
    """Files in its working folder, kept in memory."""
    buffer_bytes: Annotated[int, Meta(ge=64 * 1024, le=2**53)] = MIN_BUFFER_BYTES
    """Output kept until the client has acknowledged it."""
    egress: Annotated[tuple[Annotated[str, Meta(max_length=300)], ...], Meta(max_length=64)] = ()
    """Where it may connect to: "HOST:PORT". HOST is a name, "*.name", an address, a network or "*"; PORT one, or
    LOW-HIGH, or "*"."""
    egress_bytes: Amount = 64 * MIB
    """What its connections may carry, both ways together; matters only with `egress`. Some twenty large pages."""
    tor: Annotated[tuple[Name, ...], Meta(max_length=16)] = ()
    """Tor verbs it may use."""
    conclave: Literal["", "sgx", "tdx", "snp", "any"] = ""
    """The enclave it must run in; "" for none."""


def parse_manifest(source: bytes) -> Manifest:
    """The manifest in a function's source; the default one if there is no block.

    Raises: ManifestError for a block that is not closed, a second one, an unknown key, or a value out of range.
    """
    blocks = _BLOCK.findall(source)
    if len(blocks) != len(_OPENING.findall(source)):
        raise ManifestError(
            "the manifest's block is not closed", hint="end it with a line `# ///`, all lines begin with #"
        )
    if len(blocks) > 1:
        raise ManifestError(f"the source has {len(blocks)} manifests, it may have 1", hint="join them into one")
    return decode_manifest(_uncomment(blocks[0])) if blocks else Manifest()


def decode_manifest(toml: bytes) -> Manifest:
    """A manifest from TOML; ManifestError says what is wrong with it."""
    try:
        manifest = msgspec.toml.decode(toml, type=Manifest)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ManifestError(f"the manifest does not fit: {error}") from None
    for text in manifest.egress:
        Destination.parse(text)
    return manifest


def _uncomment(block: bytes) -> bytes:
    return b"\n".join(line[2:] if line.startswith(b"# ") else line[1:] for line in block.splitlines())


@dataclass(frozen=True)
class Destination:
    """Where connections may go: a host pattern and a range of ports."""

    host: str
    low: int
    high: int

    @staticmethod
    def parse(text: str) -> "Destination":
        """Read "HOST:PORT"; ManifestError if it is not one.

        >>> Destination.parse("*.test:80-81")
        Destination(host='*.test', low=80, high=81)
        """
        found = _DESTINATION.fullmatch(text)
        if found is None:
            raise ManifestError(f"not a destination: {text!r}", hint='write "HOST:PORT", such as "*.example.org:443"')
        if found["low"] == "*":
            low, high = 1, 65535
        else:
            low, high = int(found["low"]), int(found["high"] or found["low"])
        if (found["high"] and found["low"] == "*") or not 1 <= low <= high <= 65535:
            raise ManifestError(f"not a range of ports: {text!r}", hint="ports run from 1 to 65535, or * for all")
        return Destination(found["host"].strip("[]").lower().rstrip("."), low, high)

    @property
    def ports(self) -> range:
        return range(self.low, self.high + 1)

    def is_for(self, host: str, port: int) -> bool:
        """Whether it covers a connection to `host` as the function named it."""
        return port in self.ports and self.is_for_host(host)

    def is_for_host(self, host: str) -> bool:
        """Whether it covers `host` at its ports. A network covers addresses, no names."""
        host = host.lower().rstrip(".")
        if self.host in ("*", host):
            return True
        if self.host.startswith("*."):
            return host.endswith(self.host[1:])
        try:
            return ipaddress.ip_address(host) in ipaddress.ip_network(self.host, strict=False)
        except ValueError:
            return False
