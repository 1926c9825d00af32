"""A function's source, checked before a byte of it leaves: size, syntax, manifest, entry, arguments.

source = read_source("hello.py")
source.verify_call("hello", ("world",))
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bento.config import MAX_CODE_BYTES, MAX_INNER_BYTES, MAX_NAME_CHARS, MAX_VALUE_DEPTH
from bento.errors import ManifestError, SourceError
from bento.manifest import Manifest, parse_manifest

_SCALARS = (type(None), bool, int, float, str, bytes)

Definition = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Source:
    """A function's code. `name` is for people; `entries` are the public functions that its module defines."""

    name: str
    code: bytes
    manifest: Manifest
    entries: dict[str, Definition]
    other_names: frozenset[str]

    @property
    def default_entry(self) -> str:
        """The only public function, else `main`; SourceError if there is neither."""
        if len(self.entries) == 1:
            return next(iter(self.entries))
        if "main" in self.entries:
            return "main"
        raise SourceError(f"{self.name} has {len(self.entries)} public functions and no main", hint=self._offer())

    def verify_call(self, entry: str, args: tuple[Any, ...]) -> None:
        """Check that the entry exists and the arguments fit it and can travel.

        Raises: SourceError. What can't be told from the source alone is left to the box.
        """
        if entry not in self.entries and entry not in self.other_names:
            raise SourceError(f"{self.name} has no public function {entry!r}", hint=self._offer())
        _verify_values(args)
        if (definition := self.entries.get(entry)) is not None and not definition.decorator_list:
            _verify_count(definition, len(args))

    def _offer(self) -> str:
        return f"name one of: {', '.join(sorted(self.entries))}" if self.entries else "define a public function in it"


def read_source(source: "str | Path | bytes | Source") -> Source:
    """The source in a file, or given as bytes; one that is checked already as it is.

    Raises: SourceError if it can't be read, is too large or does not parse; ManifestError.
    """
    if isinstance(source, Source):
        return source
    if isinstance(source, bytes):
        return parse_source("the source", source)
    path = Path(source)
    try:
        with path.open("rb") as file:
            code = file.read(MAX_CODE_BYTES + 1)
    except OSError as error:
        raise SourceError(f"can't read {path}: {error.strerror}", hint="name a file with a function") from None
    return parse_source(path.name, code)


def parse_source(name: str, code: bytes) -> Source:
    """Check source that is there already; errors as for `read_source`."""
    if len(code) > MAX_CODE_BYTES:
        raise SourceError(
            f"{name} has more than {MAX_CODE_BYTES} bytes, the most that are taken",
            hint="send data as input or arguments, not in the source",
        )
    try:
        tree = ast.parse(code, filename=name)
    except SyntaxError as error:
        raise SourceError(f"{name} does not parse: line {error.lineno or 1}: {error.msg}", hint="fix it") from None
    except (ValueError, RecursionError, MemoryError) as error:
        what = str(error) or type(error).__name__
        raise SourceError(f"{name} does not parse: {what}", hint="is it Python?") from None
    try:
        manifest = parse_manifest(code)
    except ManifestError as error:
        raise ManifestError(f"{name}: {error.message}", hint=error.hint) from None
    entries: dict[str, Definition] = {}
    other_names: set[str] = set()
    for statement in _statements(tree.body):
        if isinstance(statement, Definition):
            entries[statement.name] = statement
        else:
            other_names |= _bound_names(statement)
    public = {entry: found for entry, found in entries.items() if not entry.startswith("_")}
    return Source(name, code, manifest, public, frozenset(other_names))


def verify_words(entry: str, args: tuple[Any, ...]) -> None:
    """Check that a call can travel, as far as can be told without the source; SourceError names what can't."""
    if not 1 <= len(entry) <= MAX_NAME_CHARS or not _is_unicode(entry):
        raise SourceError(f"{entry[:MAX_NAME_CHARS]!r} can't be an entry", hint="name one of its public functions")
    _verify_values(args)


def _verify_values(values: tuple[Any, ...]) -> None:
    """Check that arguments can travel; SourceError names what can't."""
    size = _size(values, 0)
    if size > MAX_INNER_BYTES // 2:
        raise SourceError(
            f"the arguments have {size} bytes, at most {MAX_INNER_BYTES // 2} are taken",
            hint="send large data as input, from stdin",
        )


def _size(value: Any, depth: int) -> int:
    """About how many bytes a value takes on the wire."""
    if depth > MAX_VALUE_DEPTH:
        raise SourceError(f"an argument is nested deeper than {MAX_VALUE_DEPTH}", hint="flatten it")
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise SourceError("a dict among the arguments has a key that is no str", hint="use str keys")
        return sum(_size(part, depth + 1) for pair in value.items() for part in pair)
    if isinstance(value, list | tuple):
        return 1 + sum(_size(part, depth + 1) for part in value)
    if not isinstance(value, _SCALARS):
        raise SourceError(
            f"a {type(value).__name__} can't be an argument", hint="use None, bool, numbers, str, bytes, list, dict"
        )
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        raise SourceError("an argument is an int of more than 64 bits", hint="send its str")
    if isinstance(value, str) and not _is_unicode(value):
        raise SourceError("an argument is a text that is not Unicode", hint="send it as bytes: @FILE")
    return len(value) * (4 if isinstance(value, str) else 1) + 5 if isinstance(value, str | bytes) else 9


def _is_unicode(text: str) -> bool:
    """Not so what Python makes of bytes in argv that are no UTF-8, or of half a surrogate pair in JSON."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _verify_count(definition: Definition, given: int) -> None:
    """Check the number of positional arguments against a definition."""
    spec = definition.args
    positional = [*spec.posonlyargs, *spec.args]
    least = len(positional) - len(spec.defaults)
    unfillable = [arg.arg for arg, default in zip(spec.kwonlyargs, spec.kw_defaults, strict=True) if default is None]
    signature = f"{definition.name}({ast.unparse(spec)})"
    if unfillable:
        raise SourceError(f"{signature} needs {unfillable[0]} by keyword, which an entry never gets", hint="change it")
    if given < least or (given > len(positional) and spec.vararg is None):
        raise SourceError(f"{given} arguments for {signature}", hint="give it as many as it takes")


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements that run in the module's own scope, those inside `if`, `try`, `with` and loops included."""
    for statement in body:
        yield statement
        if not isinstance(statement, Definition | ast.ClassDef):
            for field in ("body", "orelse", "finalbody"):
                yield from _statements(getattr(statement, field, []))
            for part in (*getattr(statement, "handlers", []), *getattr(statement, "cases", [])):
                yield from _statements(part.body)


def _bound_names(statement: ast.stmt) -> set[str]:
    """The names that a statement assigns; a lambda or a wrapped function may be an entry, too."""
    targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
    names = (node for target in targets if target is not None for node in ast.walk(target))
    return {node.id for node in names if isinstance(node, ast.Name)}
