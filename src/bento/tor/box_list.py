"""Where users know boxes from: a bundle of whole, signed server descriptors whose ContactInfo has a `bento:` item.

    boxes = parse_box_list(Path("boxes.list").read_bytes(), now_s=time.time())
    print([box.fingerprint for box in boxes.boxes], boxes.left_out)

Whoever makes a list can leave a box out, but neither forge nor alter one. A descriptor that does not verify is left
out and counted; it never spoils the others.
"""

from dataclasses import dataclass
from typing import Final

from bento.config import MIB
from bento.errors import UsageError
from bento.exit_policy import is_accepted
from bento.tor.box_item import BoxItem
from bento.tor.descriptor import DescriptorInvalid, split_descriptors, verify_descriptor

MAX_LIST_BYTES: Final = 32 * MIB
"""As if each of today's 9,000 relays had a box: their descriptors have 3 KB each."""


@dataclass(frozen=True)
class ListedBox:
    """A box as its relay describes it. `is_open`: the relay lets circuits end at the box."""

    fingerprint: str
    nickname: str
    published_s: int
    item: BoxItem
    is_open: bool


@dataclass(frozen=True)
class BoxList:
    """The boxes by fingerprint, and for each reason how many descriptors were left out."""

    boxes: tuple[ListedBox, ...]
    left_out: dict[str, int]


def parse_box_list(text: bytes, *, now_s: float) -> BoxList:
    """Read a bundle; of several descriptors of one relay the newest counts.

    Raises: UsageError for a bundle over MAX_LIST_BYTES.
    """
    if len(text) > MAX_LIST_BYTES:
        raise UsageError(
            f"the box list has {len(text)} bytes, at most {MAX_LIST_BYTES} are read", hint="get another list"
        )
    boxes: dict[str, ListedBox] = {}
    left_out: dict[str, int] = {}
    for descriptor in split_descriptors(text):
        try:
            box = _parse_box(descriptor, now_s)
        except DescriptorInvalid as error:
            left_out[error.message] = left_out.get(error.message, 0) + 1
            continue
        known = boxes.get(box.fingerprint)
        if known is None or box.published_s > known.published_s:
            boxes[box.fingerprint] = box
    return BoxList(tuple(boxes[fingerprint] for fingerprint in sorted(boxes)), left_out)


def _parse_box(text: bytes, now_s: float) -> ListedBox:
    descriptor = verify_descriptor(text, now_s=now_s)
    item = BoxItem.parse(descriptor.contact)
    if item is None:
        raise DescriptorInvalid("no well-formed bento: item")
    return ListedBox(
        descriptor.fingerprint, descriptor.nickname, descriptor.published_s, item, _is_open(descriptor.policy, item)
    )


def _is_open(policy: tuple[str, ...], item: BoxItem) -> bool:
    try:
        return is_accepted(",".join(policy), item.address, item.port)
    except ValueError:
        return False
