"""Every example in a public docstring runs."""

import doctest
import importlib
import pkgutil

import pytest

import bento

_MODULES = sorted(
    found.name for found in pkgutil.walk_packages(bento.__path__, "bento.") if "__main__" not in found.name
)


@pytest.mark.parametrize("name", _MODULES)
def test_examples_in_docstrings_hold(name: str) -> None:
    module = importlib.import_module(name)
    assert doctest.testmod(module).failed == 0


def test_examples_are_found_at_all() -> None:
    attempted = sum(
        doctest.testmod(importlib.import_module(name)).attempted for name in ("bento.tokens", "bento.manifest")
    )
    assert attempted >= 4
