"""Which boxes are asked: a few random ones that fit, never all."""

from random import Random

import pytest

from bento.client.choose import MAX_ASKED, choose_boxes, find_box, item_refusals
from bento.errors import BoxUnreachable, Refused, UsageError
from bento.manifest import Manifest
from bento.tor.box_item import BoxItem
from bento.tor.box_list import ListedBox


def box(number: int, policy: str = "exit", *, images: str = "python", conclave: str | None = None) -> ListedBox:
    item = BoxItem("127.84.1.2", 7000, None, tuple(images.split()), conclave, policy)
    return ListedBox(f"{number:040X}", f"r{number}", 0, item, True)


def test_three_boxes_at_most_are_asked_and_only_those_that_fit() -> None:
    boxes = [box(number, "exit" if number % 2 else "storage") for number in range(20)]
    chosen = choose_boxes(boxes, Manifest(egress=("*:80",)), Random(1))
    assert len(chosen) == len(set(chosen)) == MAX_ASKED
    assert all(found.item.policy == "exit" for found in chosen)


def test_every_box_that_fits_may_be_the_first() -> None:
    boxes = [box(number) for number in range(5)]
    assert {choose_boxes(boxes, Manifest(), Random(seed))[0] for seed in range(100)} == set(boxes)


def test_where_none_fits_each_rule_is_named() -> None:
    with pytest.raises(Refused) as found:
        choose_boxes([box(1, "storage"), box(2, "onion")], Manifest(image="browser", egress=("*:80",)), Random(1))
    assert {getattr(refusal, "rule", "") for refusal in found.value.refusals} == {"image", "egress"}


def test_an_empty_list_is_a_clear_error() -> None:
    with pytest.raises(BoxUnreachable, match="names no box"):
        choose_boxes([], Manifest(), Random(1))


@pytest.mark.parametrize(
    ("manifest", "found", "rules"),
    [
        (Manifest(), box(1), []),
        (Manifest(image="browser"), box(1), ["image"]),
        (Manifest(image="browser"), box(1, images="python browser"), []),
        (Manifest(conclave="sgx"), box(1), ["conclave"]),
        (Manifest(conclave="sgx"), box(1, conclave="tdx"), ["conclave"]),
        (Manifest(conclave="any"), box(1, conclave="tdx"), []),
        (Manifest(egress=("*:80",)), box(1, "onion"), ["egress"]),
        (Manifest(tor=("circuit",)), box(1, "storage"), ["tor"]),
        (Manifest(tor=("circuit",)), box(1, "onion"), []),
    ],
)
def test_the_item_alone_tells_what_can_t_be(manifest: Manifest, found: ListedBox, rules: list[str]) -> None:
    assert [refusal.rule for refusal in item_refusals(manifest, found.item)] == rules


@pytest.mark.parametrize("text", ["A", "a", "$A", "$a"])
def test_a_box_is_found_by_its_fingerprint_in_any_spelling(text: str) -> None:
    wanted = box(int("A" * 40, 16))
    assert find_box([box(1), wanted], text[:-1] + text[-1] * 40) is wanted


def test_a_nickname_finds_no_box() -> None:
    with pytest.raises(UsageError, match="not a fingerprint") as found:
        find_box([box(1)], "r1")
    assert "nickname" in found.value.hint


def test_a_box_that_is_not_listed_is_a_clear_error() -> None:
    with pytest.raises(BoxUnreachable, match="has no box"):
        find_box([box(1)], "F" * 40)
