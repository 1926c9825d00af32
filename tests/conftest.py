"""What every test may use: `@pytest.mark.needs("tor", "namespaces")` and the fixture `need` for other fixtures.

What is missing skips the test with the reason on a person's machine and fails it in CI (`CI=true`): there a skipped
claim would pass for a tested one.
"""

import ctypes.util
import functools
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType

import pytest
from hypothesis import settings

from tests import chromium, sites
from tests.network import network

__all__ = ["network"]

PROBE_TIMEOUT_S = 10
TOR_MIN_VERSION = (0, 4, 8)

# Deadlines measure the machine, not the code; CI repeats the same examples, so that a red run can be repeated.
settings.register_profile("person", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, database=None)


def is_ci() -> bool:
    return os.environ.get("CI", "") not in ("", "0", "false")


def _output_of(*command: str) -> str | None:
    """The command's standard output; None if it is missing, fails or hangs."""
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PROBE_TIMEOUT_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def _without_tor() -> str | None:
    tor = shutil.which("tor", path="/usr/bin:/usr/sbin")
    version = _output_of(tor, "--quiet", "--version") if tor else None
    if version is None:
        return "tor is not installed (apt-get install tor)"
    number = version.partition("Tor version ")[2].split(maxsplit=1)[0].rstrip(".")
    if tuple(int(part) for part in number.partition("-")[0].split(".")[:3]) < TOR_MIN_VERSION:
        return f"tor is {number}, too old: 0.4.8 or later is needed"
    return None


def _without_namespaces() -> str | None:
    as_user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    if _output_of("unshare", *as_user, "--net", "--mount", "--pid", "--ipc", "--uts", "--fork", "true") is None:
        return "unshare fails: this user gets no namespaces here (run as root, or allow unprivileged user namespaces)"
    return None


def _without_seccomp() -> str | None:
    return None if ctypes.util.find_library("seccomp") else "libseccomp is not installed (apt-get install libseccomp2)"


def _without_bubblewrap() -> str | None:
    return None if shutil.which("bwrap") else "bwrap is not installed (apt-get install bubblewrap)"


def _without_chromium() -> str | None:
    if not chromium.PROGRAM.exists():
        return "it is not installed (apt-get install chromium-headless-shell)"
    if not Path("/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf").exists():
        return "its fonts are not installed (apt-get install fonts-dejavu-core)"
    return None


def _without_sites() -> str | None:
    try:
        sites.fetch()
    except (OSError, sites.NoSites) as error:
        return f"the packages with the web sites can't be fetched: {error}"
    return None


def _without_root() -> str | None:
    return None if os.geteuid() == 0 else "only root can do this"


REASONS: Mapping[str, Callable[[], str | None]] = MappingProxyType(
    {
        "tor": _without_tor,
        "namespaces": _without_namespaces,
        "seccomp": _without_seccomp,
        "bubblewrap": _without_bubblewrap,
        "chromium": _without_chromium,
        "sites": _without_sites,
        "root": _without_root,
    }
)


@functools.cache
def missing(name: str) -> str | None:
    """Why `name`, a key of REASONS, can't be had on this machine; None if it can."""
    return REASONS[name]()


def need_of_machine(*names: str) -> None:
    """Go on only where the machine has all `names`; else skip, or fail in CI."""
    for name in names:
        reason = missing(name)
        if reason is not None:
            (pytest.fail if is_ci() else pytest.skip)(f"needs {name}: {reason}")


@pytest.fixture(scope="session")
def need() -> Callable[..., None]:
    """For fixtures: `need("tor", "namespaces")` does what the marker does for a test."""
    return need_of_machine


def pytest_configure(config: pytest.Config) -> None:
    settings.load_profile("ci" if is_ci() else "person")
    config.addinivalue_line("markers", f"needs(name, ...): what the machine must have, of {', '.join(REASONS)}")


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("needs"):
        need_of_machine(*marker.args)
