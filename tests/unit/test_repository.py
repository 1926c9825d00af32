"""What holds for the repository as a whole: its lock, its words, its scripts, its public names."""

import ast
import os
import re
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import bento

ROOT = Path(__file__).parents[2]
LOCK = (ROOT / "requirements.txt").read_text("utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]

# Split, so that this file does not name what it forbids.
UNFINISHED = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|XX" + r"X)\b")
FOREIGN = re.compile(
    r"(?<![\w.\-])/wo" + r"rk/|/op" + r"t/(?:wheels|pypi)|py" + r"pi\.org|python" + r"hosted|registry\.np"
    r"mjs|de" + r"b\.debian\.org|artifact-reg" + r"istry"
)


def _git(*arguments: str) -> str:
    # safe.directory: a checkout that belongs to another user is read all the same.
    command = ["git", "-c", f"safe.directory={ROOT}", "-C", str(ROOT), *arguments]
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True).stdout


@pytest.fixture(scope="module")
def tracked() -> list[Path]:
    """Every file that git tracks and that is there."""
    if not (ROOT / ".git").exists():
        pytest.skip("this is no git checkout")
    return [ROOT / name for name in _git("ls-files", "-z").split("\0") if name and (ROOT / name).is_file()]


def _lines(paths: list[Path]) -> Iterator[tuple[str, str]]:
    """Each ("file:line", text) of those that are text."""
    for path in paths:
        try:
            text = path.read_text("utf-8")
        except UnicodeDecodeError:
            continue
        for number, line in enumerate(text.splitlines(), 1):
            yield f"{path.relative_to(ROOT)}:{number}", line


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _locked() -> dict[str, str]:
    """Each locked package and its whole entry, hashes included."""
    joined = re.sub(r"\\\n\s*", "", LOCK)
    entries = [line for line in joined.splitlines() if line and not line.startswith("#")]
    return {_normal(entry.partition("==")[0]): entry for entry in entries}


def test_every_public_name_is_there() -> None:
    assert len(set(bento.__all__)) == len(bento.__all__)
    assert [name for name in bento.__all__ if not hasattr(bento, name)] == []


def test_every_name_the_package_takes_in_is_public() -> None:
    tree = ast.parse(Path(bento.__file__).read_text("utf-8"))
    taken_in = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("bento.")
        for alias in node.names
    }

    assert taken_in - set(bento.__all__) == set()


def test_the_package_has_the_version_of_its_distribution() -> None:
    assert bento.__version__ == PROJECT["version"]


def test_every_locked_package_is_pinned_and_hashed() -> None:
    hashed = re.compile(r"[a-z0-9][a-z0-9._-]*==[^\s;]+(?: ; [^-]+)?(?:\s*--hash=sha256:[0-9a-f]{64})+")

    assert [entry for entry in _locked().values() if not hashed.fullmatch(entry)] == []


def test_the_lock_names_no_index() -> None:
    assert re.findall(r"https?:|file:/|--(?!hash=)\S+|^-\S+| @ ", LOCK, re.MULTILINE) == []


def test_the_lock_covers_every_dependency() -> None:
    extras = PROJECT["optional-dependencies"].values()
    wanted = [*PROJECT["dependencies"], *(name for extra in extras for name in extra), "flit-core", "setuptools"]

    assert {_normal(re.split(r"[\s<>=!~;\[]", name, maxsplit=1)[0]) for name in wanted} <= set(_locked())


def test_no_tracked_file_names_a_place_outside_of_the_project(tracked: list[Path]) -> None:
    assert [f"{place}: {line.strip()}" for place, line in _lines(tracked) if FOREIGN.search(line)] == []


def test_no_tracked_file_is_unfinished(tracked: list[Path]) -> None:
    assert [f"{place}: {line.strip()}" for place, line in _lines(tracked) if UNFINISHED.search(line)] == []


@pytest.mark.parametrize(
    "script", [".ci/run", "scripts/apt-install", "scripts/demo", "scripts/lock", "scripts/setup", "scripts/test"]
)
def test_a_script_runs_as_it_is(script: str) -> None:
    path = ROOT / script

    assert path.read_text("utf-8").startswith("#!/usr/bin/env bash\n")
    assert os.access(path, os.X_OK)
    subprocess.run(["bash", "-n", str(path)], stdin=subprocess.DEVNULL, check=True)
