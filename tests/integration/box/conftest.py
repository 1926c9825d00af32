import shutil
from collections.abc import Callable, Iterator

import pytest

from tests.lone_box import LoneBox, make_box


@pytest.fixture(scope="module")
def box(need: Callable[..., None]) -> Iterator[LoneBox]:
    """A box without a relay, for the tests of one file."""
    need("namespaces", "seccomp")
    box = make_box(policy="instances = 6\n")
    box.start()
    try:
        yield box
    finally:
        box.stop()
        shutil.rmtree(box.folder)
