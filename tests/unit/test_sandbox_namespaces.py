"""Who is root: uid 0 alone is not enough."""

import pytest

from bento.sandbox.namespaces import is_mapped

BASE, COUNT = 2_000_000_000, 128


@pytest.mark.parametrize(
    ("uid_map", "expected"),
    [
        pytest.param("         0          0 4294967295\n", True, id="the machine's own"),
        pytest.param("         0       1000          1\n", False, id="rootless"),
        pytest.param("0 1000 1\n1 100000 65536\n", False, id="rootless with subordinate uids"),
        pytest.param(f"0 1000 1\n{BASE} 100000 {COUNT}\n", True, id="just the range"),
        pytest.param(f"0 1000 1\n{BASE} 100000 {COUNT - 1}\n", False, id="one too few"),
        pytest.param("", False, id="no map yet"),
    ],
)
def test_root_is_whose_map_has_the_instances_uids(uid_map: str, expected: bool) -> None:
    assert is_mapped(uid_map, BASE, COUNT) is expected


def test_no_map_has_the_uid_that_means_none() -> None:
    assert not is_mapped("0 0 4294967295", 2**32 - COUNT, COUNT)
