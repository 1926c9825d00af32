"""Imports run downward only: reads every module's syntax tree and names each import that does not."""

import ast
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

import pytest

SOURCES = Path(__file__).parents[2] / "src"

# The house, from the ground. `guest` and `functions` stand beside it, `bento` itself (its public names) on its roof.
FLOORS: Mapping[str, int] = MappingProxyType(
    {
        **dict.fromkeys(("errors", "config"), 0),
        **dict.fromkeys(("manifest", "policy", "exit_policy", "tokens", "ticket", "protocol"), 1),
        **dict.fromkeys(("tor", "sandbox", "attestation", "storage"), 2),
        **dict.fromkeys(("client", "box", "testnet"), 3),
        "cli": 4,
    }
)
GUEST, FUNCTIONS, ROOF, ENTRANCE = "guest", "functions", "", "__main__"
UNITS = frozenset(FLOORS) | {GUEST, FUNCTIONS, ENTRANCE}
PURE_FLOORS = frozenset({0, 1})

# Floors 0 and 1 reach nothing outside of themselves. A module joins this list if it has no socket, process, file,
# clock or randomness of its own.
PURE_MODULES = frozenset(
    """
    __future__ abc base64 binascii bisect collections contextlib copy dataclasses enum fnmatch fractions functools
    hashlib heapq hmac ipaddress itertools json keyword math msgspec operator re string struct textwrap token tokenize
    tomllib types typing unicodedata zlib ast
    """.split()
)
PURE_EXCEPTIONS = frozenset({("exit_policy", "stem.exit_policy")})  # tor's own rules, parsed and matched in memory
PACKAGE_FACT = re.compile(r"bento\.__\w+__")  # `from bento import __version__`: the roof's facts, not its names
IMPURE_BUILTINS = frozenset({"__import__", "breakpoint", "input", "open", "print"})


def unit_of(module: str) -> str:
    """The unit a dotted name under `bento` belongs to: `bento.tor.control` -> `tor`; `bento.Client` -> the roof."""
    second = module.split(".")[1] if "." in module else ""
    return second if second in UNITS else ROOF


def may_import(importer: str, imported: str) -> bool:
    """Whether unit `importer` may import unit `imported`; both are known."""
    if importer == imported:
        return True
    if importer == GUEST:
        return FLOORS.get(imported) in PURE_FLOORS or imported == "storage"
    if importer == FUNCTIONS:
        return imported in {GUEST, "client", ROOF} or FLOORS.get(imported) in PURE_FLOORS
    if importer == ENTRANCE:
        return imported == "cli"
    if importer == ROOF:
        return imported in FLOORS and imported != "cli"
    if importer == "cli":
        return imported in FLOORS or imported in {FUNCTIONS, ROOF}
    return imported in FLOORS and _is_below(imported, importer)


def _is_below(lower: str, upper: str) -> bool:
    """Strictly below; the modules of a pure floor may also build on each other."""
    low, up = FLOORS[lower], FLOORS[upper]
    return low < up or (low == up and up in PURE_FLOORS)


def imports_of(tree: ast.AST, package: str) -> Iterator[tuple[int, str]]:
    """Each (line, absolute dotted name) imported anywhere: in functions and under TYPE_CHECKING as well."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                source = ".".join([*above, *([source] if source else [])])
            yield from ((node.lineno, f"{source}.{alias.name}") for alias in node.names)


def broken_floors(sources: Mapping[str, str]) -> list[str]:
    """Each breach of the floors, as a sentence with its file and line.

    Args:
        sources: the path of each file, from the folder that holds `bento`, and its text.
    """
    return [breach for path, text in sorted(sources.items()) for breach in _breaches(path, text)]


def _breaches(path: str, text: str) -> Iterator[str]:
    package = ".".join(Path(path).parent.parts)
    unit = Path(path).with_suffix("").parts[1].replace("__init__", ROOF)
    if unit not in UNITS | {ROOF}:
        yield f"{path}: {unit} has no floor"
        return
    tree = ast.parse(text, path)
    for line, name in imports_of(tree, package):
        reason = _reason_against(unit, name)
        if reason:
            yield f"{path}:{line}: {reason}"
    if FLOORS.get(unit) in PURE_FLOORS:
        for node in ast.walk(tree):
            if isinstance(node, ast.Name) and node.id in IMPURE_BUILTINS:
                yield f"{path}:{node.lineno}: {unit} is pure and uses {node.id}()"


def _reason_against(unit: str, name: str) -> str | None:
    if PACKAGE_FACT.fullmatch(name):
        return None
    if name.partition(".")[0] == "bento":
        imported = unit_of(name)
        return None if may_import(unit, imported) else f"{unit or 'bento'} imports {imported or 'bento itself'}"
    if FLOORS.get(unit) in PURE_FLOORS and name.partition(".")[0] not in PURE_MODULES:
        is_excepted = any(unit == who and f"{name}.".startswith(f"{what}.") for who, what in PURE_EXCEPTIONS)
        return None if is_excepted else f"{unit} is pure and imports {name}"
    return None


def test_imports_run_downward_only() -> None:
    files = {str(path.relative_to(SOURCES)): path.read_text("utf-8") for path in SOURCES.glob("bento/**/*.py")}

    assert "bento/__init__.py" in files
    assert broken_floors(files) == []


@pytest.mark.parametrize(
    ("path", "source", "breach"),
    [
        ("bento/errors.py", "from bento.policy import decide", "errors imports policy"),
        ("bento/policy.py", "import bento.tor.control", "policy imports tor"),
        ("bento/policy.py", "from bento import Client", "policy imports bento itself"),
        ("bento/policy.py", "import socket", "policy is pure and imports socket"),
        ("bento/policy.py", "from os.path import exists", "policy is pure and imports os.path.exists"),
        ("bento/policy.py", "def f():\n    import time", "policy is pure and imports time"),
        ("bento/policy.py", "text = open('x').read()", "policy is pure and uses open()"),
        ("bento/policy.py", "import stem.exit_policy", "policy is pure and imports stem.exit_policy"),
        ("bento/exit_policy.py", "import stem.control", "exit_policy is pure and imports stem.control"),
        ("bento/exit_policy.py", "import stem", "exit_policy is pure and imports stem"),
        ("bento/protocol/outer.py", "import asyncio", "protocol is pure and imports asyncio"),
        ("bento/protocol/outer.py", "from ..client import Client", "protocol imports client"),
        ("bento/protocol/outer.py", "from .. import box", "protocol imports box"),
        ("bento/tor/control.py", "from bento.sandbox import spec", "tor imports sandbox"),
        ("bento/tor/control.py", "from bento import sandbox", "tor imports sandbox"),
        ("bento/sandbox/zygote.py", "from bento.guest import loader", "sandbox imports guest"),
        ("bento/storage.py", "import bento.attestation", "storage imports attestation"),
        ("bento/client/agent.py", "from bento.box.server import serve", "client imports box"),
        ("bento/client/agent.py", "import bento", "client imports bento itself"),
        ("bento/box/server.py", "from bento.client import Client", "box imports client"),
        (
            "bento/box/server.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from bento.cli import main",
            "box imports cli",
        ),
        ("bento/testnet/boxes.py", "from bento.box import server", "testnet imports box"),
        ("bento/box/server.py", "import bento.functions.browser.function", "box imports functions"),
        ("bento/guest/api.py", "from bento.sandbox import spec", "guest imports sandbox"),
        ("bento/guest/api.py", "from bento.client import Client", "guest imports client"),
        ("bento/functions/browser/client.py", "from bento.box import server", "functions imports box"),
        ("bento/cli/run.py", "from bento.guest import loader", "cli imports guest"),
        ("bento/__init__.py", "from bento.cli import main", "bento imports cli"),
        ("bento/helpers.py", "", "helpers has no floor"),
        ("bento/utils/text.py", "", "utils has no floor"),
    ],
)
def test_names_a_floor_broken_on_purpose(path: str, source: str, breach: str) -> None:
    breaches = broken_floors({path: source})

    assert len(breaches) == 1
    assert breaches[0].startswith(path)
    assert breaches[0].endswith(breach)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("bento/policy.py", "import re\nfrom collections.abc import Mapping\nfrom bento.manifest import Manifest"),
        ("bento/exit_policy.py", "from stem.exit_policy import ExitPolicy"),
        ("bento/protocol/outer.py", "from . import messages\nfrom .messages import Hello\nfrom bento import errors"),
        ("bento/tor/control.py", "import socket\nfrom bento import config\nfrom bento.exit_policy import Policy"),
        ("bento/box/server.py", "import asyncio\nfrom bento.sandbox import spec\nfrom bento.tor import box_item"),
        ("bento/sandbox/start.py", "from bento import __file__, __version__"),
        ("bento/guest/loader.py", "import socket\nfrom bento.protocol import inner\nfrom bento.storage import Storage"),
        ("bento/functions/browser/client.py", "import bento\nfrom bento.client import Client"),
        ("bento/cli/run.py", "import bento\nfrom bento import client\nfrom bento.errors import BentoError"),
        ("bento/__main__.py", "from bento.cli import main"),
        ("bento/__init__.py", "from bento.client import Client"),
    ],
)
def test_lets_a_downward_import_be(path: str, source: str) -> None:
    assert broken_floors({path: source}) == []
