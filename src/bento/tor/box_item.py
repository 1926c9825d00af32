"""The `bento:` item in a relay's ContactInfo: how a relay says that a box runs beside it.

    bento:1;addr=127.84.1.2:7000;onion=-;images=python;conclave=-;policy=exit

One word without spaces, beside whatever else the operator has there (the ContactInfo Information Sharing
Specification allows it). Fields stand in this order; `-` means none; lists are joined by `+`.

>>> item = BoxItem("127.84.1.2", 7000, None, ("python",), None, "exit")
>>> BoxItem.parse("email:a[]b.org " + item.encode()) == item
True
"""

import ipaddress
import re
from dataclasses import dataclass

from bento.errors import ConfigError

_ITEM = re.compile(
    r"(?:^|\s)bento:1;addr=(?P<address>[0-9.]{7,15}):(?P<port>[0-9]{1,5})"
    r";onion=(?P<onion>-|[a-z2-7]{56})"
    r";images=(?P<images>-|[a-z0-9_]{1,32}(?:\+[a-z0-9_]{1,32}){0,15})"
    r";conclave=(?P<conclave>-|sgx|tdx|snp|simulated)"
    r";policy=(?P<policy>storage|onion|exit)(?:\s|$)"
)

POLICY_CLASSES = ("storage", "onion", "exit")
"""What functions may reach: nothing, onion services only, or what the relay's exit policy allows."""


@dataclass(frozen=True)
class BoxItem:
    """Where a box listens and what it offers.

    `address` is one of the relay's loopback addresses; `onion` the 56 letters before `.onion`, or None;
    `conclave` is "sgx", "tdx", "snp", "simulated" or None; `policy` one of POLICY_CLASSES.
    """

    address: str
    port: int
    onion: str | None
    images: tuple[str, ...]
    conclave: str | None
    policy: str

    def encode(self) -> str:
        """The item as one word; ConfigError if a field does not fit the grammar."""
        text = (
            f"bento:1;addr={self.address}:{self.port};onion={self.onion or '-'};images={'+'.join(self.images) or '-'}"
            f";conclave={self.conclave or '-'};policy={self.policy}"
        )
        if BoxItem.parse(text) != self:
            raise ConfigError(f"not a box item: {text}", hint="PROTOCOL.md, section 7, has its grammar")
        return text

    @staticmethod
    def parse(contact: str) -> "BoxItem | None":
        """The item in a ContactInfo line; None if there is none, or more than one, or it is not well formed."""
        found = list(_ITEM.finditer(contact))
        if len(found) != 1 or contact.count("bento:") != 1:
            return None
        fields = found[0].groupdict()
        port = int(fields["port"])
        if not (is_loopback(fields["address"]) and 0 < port < 65536):
            return None
        images = () if fields["images"] == "-" else tuple(fields["images"].split("+"))
        onion, conclave = (None if fields[name] == "-" else fields[name] for name in ("onion", "conclave"))
        return BoxItem(fields["address"], port, onion, images, conclave, fields["policy"])


def is_loopback(address: str) -> bool:
    """Whether the text is an IPv4 loopback address: a box listens on nothing else."""
    try:
        return ipaddress.IPv4Address(address).is_loopback
    except ipaddress.AddressValueError:
        return False
