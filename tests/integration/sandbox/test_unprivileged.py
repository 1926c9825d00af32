"""The same tests where the box is not root: under another uid, and in a user namespace that maps one uid only.

They run from a copy that another uid can enter, with Debian's own interpreter: a person's home is often closed.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

NOT_NEEDED = shutil.ignore_patterns("__pycache__", "mypy*", "pip*", "setuptools*", "ruff*", "librt*", "ast_serialize*")
HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
UID = 64177
TIME_LIMIT_S = 110
ANOTHER_USER = ("setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups")
ONE_UID = ("unshare", "--user", "--map-root-user")

pytestmark = [pytest.mark.needs("root", "namespaces", "seccomp"), pytest.mark.timeout(TIME_LIMIT_S + 10)]


@pytest.fixture(scope="module")
def copy() -> Iterator[Path]:
    """The package, these tests and what they import, readable for all."""
    copy = Path("/tmp") / f"bento-copy-{os.getpid()}"
    copy.mkdir(mode=0o755)
    try:
        shutil.copytree(Path(pytest.__file__).parent.parent, copy / "packages", ignore=NOT_NEEDED)
        shutil.copytree(ROOT / "src", copy / "src", ignore=NOT_NEEDED)
        for path in (
            ROOT / "pyproject.toml",
            *(ROOT / "tests").glob("*.py"),
            *HERE.glob("*.py"),
        ):
            if path != Path(__file__):
                target = copy / path.relative_to(ROOT)
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, target)
        subprocess.run(["chmod", "-R", "a+rX", str(copy)], check=True)
        yield copy
    finally:
        shutil.rmtree(copy)


@pytest.mark.parametrize(
    ("prefix", "chosen"),
    [
        pytest.param(ANOTHER_USER, "", id="another user"),
        pytest.param((*ANOTHER_USER, *ONE_UID), "confinement or limits", id="one uid, of another user"),
        pytest.param(ONE_UID, "confinement or limits or leaves", id="one uid, of root"),
    ],
)
def test_all_holds_without_root(copy: Path, prefix: tuple[str, ...], chosen: str) -> None:
    state = Path(f"{copy}-state")
    state.mkdir(mode=0o700)
    os.chown(state, UID if prefix[0] == "setpriv" else 0, -1)
    environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(state), "TMPDIR": str(state)}
    environment |= {"PYTHONPATH": f"{copy}/src:{copy}/packages", "PYTHONDONTWRITEBYTECODE": "1"}
    try:
        done = subprocess.run(
            (
                *(*prefix, "/usr/bin/python3", "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"),
                *("-k", chosen, f"--basetemp={state}/t", f"{copy}/tests/integration/sandbox"),
            ),
            cwd=copy,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=TIME_LIMIT_S,
        )
    finally:
        shutil.rmtree(state)
    assert done.returncode == 0, done.stdout[-8000:]
