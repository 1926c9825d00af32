"""Which box to ask: pure. One at random among those whose item fits, on a refusal the next; never every box."""

from collections.abc import Sequence
from random import Random
from typing import Final

from bento.errors import BoxUnreachable, Refused, UsageError
from bento.manifest import Manifest
from bento.policy import Refusal
from bento.tor.box_item import BoxItem
from bento.tor.box_list import ListedBox

MAX_ASKED: Final = 3
"""Boxes asked for one function: more would tell ever more operators what someone wants to run."""


def item_refusals(manifest: Manifest, item: BoxItem) -> tuple[Refusal, ...]:
    """The rules that a manifest breaks by the box's item alone; the box's policy may have more."""
    broken = []
    if manifest.image not in item.images:
        offered = ", ".join(item.images) or "none"
        broken.append(Refusal("image", manifest.image, offered, "use one of its images, or another box"))
    if manifest.conclave and (item.conclave is None or manifest.conclave not in ("any", item.conclave)):
        broken.append(Refusal("conclave", manifest.conclave, item.conclave or "none", "pick a box with a conclave"))
    if manifest.egress and item.policy != "exit":
        asked = ", ".join(manifest.egress)
        broken.append(Refusal("egress", asked, f"none (class {item.policy})", "pick a box of class exit"))
    if manifest.tor and item.policy == "storage":
        broken.append(Refusal("tor", ", ".join(manifest.tor), "none (class storage)", "pick a box of another class"))
    return tuple(broken)


def choose_boxes(boxes: Sequence[ListedBox], manifest: Manifest, random: Random) -> list[ListedBox]:
    """The boxes to ask, in order, MAX_ASKED at most.

    Raises: BoxUnreachable if the list is empty; Refused if no box fits, with each rule that one broke.
    """
    if not boxes:
        raise BoxUnreachable("the box list names no box", hint="get a newer list")
    broken = {box.fingerprint: item_refusals(manifest, box.item) for box in boxes}
    fitting = [box for box in boxes if not broken[box.fingerprint]]
    if not fitting:
        rules = {refusal.rule: refusal for refusals in broken.values() for refusal in refusals}
        raise Refused(
            list(rules.values()), hint=f"none of the {len(boxes)} boxes fits; `bento check FILE` shows what each lacks"
        )
    return random.sample(fitting, min(MAX_ASKED, len(fitting)))


def find_box(boxes: Sequence[ListedBox], fingerprint: str) -> ListedBox:
    """The box of this fingerprint, with or without $, in upper or lower case.

    Raises: UsageError for what is no fingerprint; BoxUnreachable if the list has no such box.
    """
    wanted = fingerprint.removeprefix("$").upper()
    if len(wanted) != 40 or not set(wanted) <= set("0123456789ABCDEF"):
        hint = "`bento boxes` shows fingerprints, 40 hex digits each"
        if any(box.nickname == fingerprint for box in boxes):
            hint = f"{fingerprint} is a nickname, which any relay may take; {hint}"
        raise UsageError(f"not a fingerprint: {fingerprint!r}", hint=hint)
    for box in boxes:
        if box.fingerprint == wanted:
            return box
    raise BoxUnreachable(f"the box list has no box {wanted}", hint="`bento boxes` shows those it has")
