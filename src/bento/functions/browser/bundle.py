"""The function's source as it is sent: `function.py` and what it imports of this folder, as one text.

A function is one text, and its length names it to whoever watches the upload: without comments, docstrings and types
it fits the second of the sizes that a flight is padded to, whatever the URL.
"""

import ast
from pathlib import Path
from typing import Final

from bento.client.source import Source, parse_source
from bento.config import MIB
from bento.manifest import Manifest

_PARTS: Final = ("text", "css", "references", "packet", "fetching", "function")
"""Each imports only those before it; names are unique among them, which a test checks."""

_MEMORY_BYTES: Final = 256 * MIB
"""What is fetched, its encoding and its compressed form, each up to 64 MiB, and the tree of a large page."""

_CPU_S: Final = 120
"""A page of all that is allowed, compressed, takes some ten."""

_EGRESS_BYTES: Final = 128 * MIB
"""What may be fetched, TLS and headers, and what was cut off on its way."""

_WALL_S: Final = 900
"""A minute to fetch; then 64 MiB at 80 KB/s, a slow circuit's pace."""


def browser_source(egress: tuple[str, ...]) -> Source:
    """The function, for a visit that needs these destinations."""
    folder = Path(__file__).parent
    trees = [ast.parse((folder / f"{part}.py").read_bytes()) for part in _PARTS]
    body = [_bare(statement) for tree in trees for statement in tree.body if not _is_left_out(statement)]
    code = ast.unparse(ast.Module(body, [])).encode()
    manifest = Manifest(
        memory_bytes=_MEMORY_BYTES, cpu_s=_CPU_S, wall_s=_WALL_S, egress=egress, egress_bytes=_EGRESS_BYTES
    )
    source = parse_source("browser", code)
    return Source(source.name, source.code, manifest, source.entries, source.other_names)


def _is_left_out(statement: ast.stmt) -> bool:
    """Docstrings, and imports from this folder."""
    if isinstance(statement, ast.ImportFrom):
        return (statement.module or "").startswith(f"{__package__}.")
    return isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)


def _bare(statement: ast.stmt) -> ast.stmt:
    """Without docstrings, and without the types of arguments and returns."""
    for node in ast.walk(statement):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            node.body = [inner for inner in node.body if not _is_left_out(inner)] or [ast.Pass()]
        if isinstance(node, ast.FunctionDef):
            node.returns = None
        if isinstance(node, ast.arg):
            node.annotation = None
    return statement
