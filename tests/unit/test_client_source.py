"""Source is checked before a byte of it leaves."""

from pathlib import Path
from typing import Any

import pytest

from bento.client.source import parse_source, read_source, verify_words
from bento.config import MAX_CODE_BYTES
from bento.errors import ManifestError, SourceError

CODE = b"""
import json
from x import imported
def hello(name, greeting="hello", *, loud=False): pass
async def wait(): pass
def count(n):
    yield from range(n)
def _hidden(): pass
shout = lambda text: text.upper()
if True:
    def conditional(*args): pass
@wrapped
def decorated(a): pass
class NotAnEntry:
    def method(self): pass
"""


def test_entries_are_the_public_functions_of_the_module() -> None:
    source = parse_source("x.py", CODE)
    assert set(source.entries) == {"hello", "wait", "count", "conditional", "decorated"}


@pytest.mark.parametrize(
    ("code", "expected"),
    [(b"def only(): pass", "only"), (b"def a(): pass\ndef main(): pass", "main"), (b"async def only(): pass", "only")],
)
def test_the_default_entry_is_the_only_function_else_main(code: bytes, expected: str) -> None:
    assert parse_source("x.py", code).default_entry == expected


@pytest.mark.parametrize("code", [b"", b"x = 1", b"def a(): pass\ndef b(): pass", b"def _main(): pass"])
def test_without_one_function_or_main_an_entry_must_be_named(code: bytes) -> None:
    with pytest.raises(SourceError, match="public functions and no main"):
        _ = parse_source("x.py", code).default_entry


@pytest.mark.parametrize("entry", ["nope", "_hidden", "NotAnEntry", "method", "imported"])
def test_an_entry_that_does_not_exist_is_refused_with_those_that_do(entry: str) -> None:
    with pytest.raises(SourceError, match=entry) as found:
        parse_source("x.py", CODE).verify_call(entry, ())
    assert "conditional, count, decorated, hello, wait" in found.value.hint


@pytest.mark.parametrize(
    ("entry", "args"),
    [
        ("hello", ("a",)),
        ("hello", ("a", "b")),
        ("conditional", (1, 2, 3)),
        ("shout", ()),  # a value that only the box can know
        ("decorated", (1, 2, 3)),  # the wrapper may take more
        ("count", ([None, True, 1.5, b"x", {"a": []}],)),
    ],
)
def test_arguments_that_may_fit_are_let_through(entry: str, args: tuple[Any, ...]) -> None:
    parse_source("x.py", CODE).verify_call(entry, args)


@pytest.mark.parametrize(("entry", "args"), [("hello", ()), ("hello", (1, 2, 3)), ("wait", (1,))])
def test_a_wrong_number_of_arguments_is_refused(entry: str, args: tuple[Any, ...]) -> None:
    with pytest.raises(SourceError, match=f"{len(args)} arguments for {entry}"):
        parse_source("x.py", CODE).verify_call(entry, args)


def test_an_entry_that_needs_a_keyword_can_t_be_called() -> None:
    with pytest.raises(SourceError, match="needs key by keyword"):
        parse_source("x.py", b"def f(*, key): pass").verify_call("f", ())


def deep(levels: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize("value", [{1: 2}, object(), 2**64, -(2**63) - 1, {"a": {1, 2}}, deep(100), bytes(5 * 2**20)])
def test_an_argument_that_can_t_travel_is_refused(value: Any) -> None:
    with pytest.raises(SourceError):
        parse_source("x.py", CODE).verify_call("count", (value,))


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (b"def f(:\n", "line 1"),
        (b"\n\nx = = 1", "line 3"),
        (b"x = '\0'", "does not parse"),
        (b"# coding: nonsense\n", "does not parse"),
        (b"\xff\xfe", "does not parse"),
        (b"(" * 5000, "does not parse"),
        (b"-" * 200_000 + b"1", "does not parse"),
    ],
)
def test_source_that_does_not_parse_is_a_clear_error(code: bytes, expected: str) -> None:
    with pytest.raises(SourceError, match=expected):
        parse_source("x.py", code)


def test_source_over_the_limit_is_refused() -> None:
    with pytest.raises(SourceError, match=str(MAX_CODE_BYTES)):
        parse_source("x.py", b"#" * (MAX_CODE_BYTES + 1))


def test_a_manifest_s_error_names_the_file() -> None:
    with pytest.raises(ManifestError, match=r"^x\.py: .*unknown"):
        parse_source("x.py", b"# /// bento\n# unknown = 1\n# ///\n")


def test_a_file_that_is_not_there_is_a_clear_error(tmp_path: Path) -> None:
    for path in (tmp_path / "none.py", tmp_path):
        with pytest.raises(SourceError, match="can't read"):
            read_source(path)


def test_source_may_be_given_as_bytes_or_a_path(tmp_path: Path) -> None:
    path = tmp_path / "f.py"
    path.write_bytes(CODE)
    assert read_source(str(path)).code == read_source(CODE).code == CODE


@pytest.mark.parametrize("entry", ["", "x" * 129, "caf\udce9"])
def test_what_can_be_no_entry_is_refused_here(entry: str) -> None:
    with pytest.raises(SourceError, match="can't be an entry"):
        verify_words(entry, ())


@pytest.mark.parametrize("value", ["\ud800", ["caf\udce9"], {"\ud800": 1}])
def test_a_text_that_is_not_unicode_is_refused_here(value: object) -> None:
    with pytest.raises(SourceError, match="not Unicode"):
        verify_words("f", (value,))
