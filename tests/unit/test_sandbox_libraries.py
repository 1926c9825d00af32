"""The digest of a library, as any client can compute it."""

import json
from pathlib import Path
from typing import Any

import pytest

from bento.errors import SandboxUnavailable
from bento.sandbox.libraries import digest_files, find_module, module_files, packages

VECTORS = Path(__file__).parent.parent / "vectors" / "packages.json"


def write(folder: Path, files: dict[str, str]) -> None:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes.fromhex(content))


@pytest.mark.parametrize("vector", json.loads(VECTORS.read_text("utf-8")), ids=lambda vector: vector["name"])
def test_digests_are_as_the_vectors_say(tmp_path: Path, vector: dict[str, Any]) -> None:
    write(tmp_path, vector["files"])
    assert digest_files(module_files(tmp_path / vector["module"])).hex() == vector["digest"]


def test_content_that_moves_to_another_file_is_another_digest(tmp_path: Path) -> None:
    write(tmp_path, {"one/a": "0102", "one/b": "03", "two/one/a": "01", "two/one/b": "0203"})
    assert digest_files(module_files(tmp_path / "one")) != digest_files(module_files(tmp_path / "two" / "one"))


def test_names_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SandboxUnavailable, match="nothing_such"):
        find_module("nothing_such")
    with pytest.raises(SandboxUnavailable, match="gone"):
        digest_files({"gone": tmp_path / "gone"})


def test_packages_are_sorted_and_fit_a_description_many_times() -> None:
    found = packages()
    assert [package.name for package in found] == sorted(package.name for package in found)
    assert sum(len(package.name) + len(package.version) + 64 for package in found) < 65536 / 10
