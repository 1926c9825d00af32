"""What a box allows, and the decision about one function.

>>> decision = decide(Manifest(cpu_s=10**6), Policy(), instances=0)
>>> [refusal.rule for refusal in decision] if not isinstance(decision, Grant) else None
['cpu_s']
"""

from typing import Annotated

import msgspec
from msgspec import Meta

from bento.config import MIB, MIN_BUFFER_BYTES
from bento.exit_policy import is_range_open, verify_rules
from bento.manifest import Amount, Destination, Manifest, Name


class Policy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one function may be granted, and how many may run. Deny by default: what is not here is not granted."""

    images: tuple[Name, ...] = ("python",)
    memory_bytes: Amount = 512 * MIB
    """Compiling 1 MB of source peaks at about 200 MB."""
    cpu_s: Amount = 600
    """Ten minutes of one core: a long computation, but a miner gains nothing."""
    wall_s: Amount = 24 * 3600
    """A day: a drop that is fetched tomorrow."""
    lease_s: Amount = 6 * 3600
    """The longest time between two renewals: an instance that nobody wants is gone the same day."""
    storage_bytes: Amount = 64 * MIB
    buffer_bytes: Amount = 8 * MIN_BUFFER_BYTES
    instances: Amount = 64
    """At once: with the default grant, 6 GiB if each used all it may."""
    egress: Annotated[tuple[str, ...], Meta(max_length=256)] = ("accept *:80", "accept *:443")
    """Rules as in a torrc, within the relay's live exit policy; what no rule accepts is rejected."""
    egress_bytes: Amount = 1024 * MIB
    """Of one instance, over its whole life: several hundred large pages, and nobody's way to download films. A relay's
    default bandwidth carries it in twenty minutes."""
    tor: tuple[Name, ...] = ()
    conclaves: tuple[Name, ...] = ()

    def __post_init__(self) -> None:
        verify_rules(self.egress)

    @property
    def egress_rules(self) -> str:
        """The rules as one text for `bento.exit_policy`."""
        return ",".join((*self.egress, "reject *:*"))


class Grant(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The limits that one instance runs under; units as in the manifest."""

    image: Name
    memory_bytes: Amount
    cpu_s: Amount
    wall_s: Amount
    storage_bytes: Amount
    buffer_bytes: Amount
    egress: tuple[str, ...] = ()
    egress_bytes: Annotated[int, Meta(ge=0, le=2**53)] = 0
    """0 where there is no egress."""


class Refusal(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One broken rule: what was asked, what the box grants, and what to do."""

    rule: str
    asked: int | str
    limit: int | str
    hint: str

    @property
    def text(self) -> str:
        return f"{self.rule}: asked for {self.asked}, this box grants {self.limit}"


_AMOUNTS = ("memory_bytes", "cpu_s", "wall_s", "storage_bytes", "buffer_bytes", "egress_bytes")


def decide(manifest: Manifest, policy: Policy, *, instances: int, lease_s: int = 1) -> Grant | tuple[Refusal, ...]:
    """A grant, or a refusal for each rule that the manifest breaks.

    Args:
        instances: how many run now.
        lease_s: the lease asked for, in seconds.
    """
    broken = [*_over(manifest, policy, lease_s), *_not_offered(manifest, policy), *_unreachable(manifest, policy)]
    if instances >= policy.instances:
        broken.append(
            Refusal("instances", instances + 1, policy.instances, "the box is full: try later, or another box")
        )
    if broken:
        return tuple(broken)
    return Grant(
        image=manifest.image,
        memory_bytes=manifest.memory_bytes,
        cpu_s=manifest.cpu_s,
        wall_s=manifest.wall_s or policy.wall_s,
        storage_bytes=manifest.storage_bytes,
        buffer_bytes=manifest.buffer_bytes,
        egress=manifest.egress,
        egress_bytes=_egress_bytes(manifest),
    )


def _over(manifest: Manifest, policy: Policy, lease_s: int) -> list[Refusal]:
    asked = {rule: getattr(manifest, rule) or 0 for rule in _AMOUNTS}
    asked |= {"egress_bytes": _egress_bytes(manifest), "lease_s": lease_s}
    return [
        Refusal(rule, amount, getattr(policy, rule), f"lower {rule}, or pick another box")
        for rule, amount in asked.items()
        if amount > getattr(policy, rule)
    ]


def _egress_bytes(manifest: Manifest) -> int:
    """What its connections may carry; without egress it asks for none, whatever the default."""
    return manifest.egress_bytes if manifest.egress else 0


def _not_offered(manifest: Manifest, policy: Policy) -> list[Refusal]:
    broken = []
    if manifest.image not in policy.images:
        broken.append(Refusal("image", manifest.image, _listed(policy.images), "use one of its images, or another box"))
    if manifest.conclave and not (
        policy.conclaves if manifest.conclave == "any" else manifest.conclave in policy.conclaves
    ):
        broken.append(Refusal("conclave", manifest.conclave, _listed(policy.conclaves), "pick a box with a conclave"))
    missing = [verb for verb in manifest.tor if verb not in policy.tor]
    if missing:
        broken.append(Refusal("tor", _listed(missing), _listed(policy.tor), "drop these verbs, or pick another box"))
    return broken


def _unreachable(manifest: Manifest, policy: Policy) -> list[Refusal]:
    """Destinations none of whose ports the box would ever dial; the resolved address is checked at each dial."""
    rules = policy.egress_rules
    return [
        Refusal("egress", text, _listed(policy.egress), "drop this destination, or pick another box")
        for text, wanted in ((text, Destination.parse(text)) for text in manifest.egress)
        if not is_range_open(rules, wanted.low, wanted.high)
    ]


def _listed(names: tuple[str, ...] | list[str]) -> str:
    return ", ".join(names) or "none"
