"""The one text that goes to a box."""

import ast
import sys
import types

import pytest

from bento.client.source import Source
from bento.config import FLIGHT_BYTES, KIB
from bento.errors import UsageError
from bento.functions.browser.bundle import browser_source
from bento.functions.browser.client import destinations
from bento.functions.browser.css import MAX_URL_CHARS
from bento.policy import Grant, Policy, decide

LIBRARIES = {"httpx", "msgspec", "selectolax", "zstandard"}


@pytest.fixture(scope="module")
def source() -> Source:
    return browser_source(destinations("https://a.test/"))


def test_it_imports_what_the_image_has_and_nothing_of_bento(source: Source) -> None:
    imported = set()
    for node in ast.walk(ast.parse(source.code)):
        if isinstance(node, ast.Import):
            imported |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            imported.add((node.module or "").partition(".")[0])
    assert imported - sys.stdlib_module_names == LIBRARIES


def test_no_name_is_defined_twice(source: Source) -> None:
    names: list[str] = []
    for statement in ast.parse(source.code).body:
        if isinstance(statement, ast.FunctionDef | ast.ClassDef):
            names.append(statement.name)
        elif isinstance(statement, ast.AnnAssign | ast.Assign):
            target = statement.target if isinstance(statement, ast.AnnAssign) else statement.targets[0]
            names += [ast.unparse(target)]
    doubled = {name for name in names if names.count(name) > 1}
    assert doubled <= {"MIB"}


def test_it_runs_without_bento(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("function")
    monkeypatch.setitem(sys.modules, "function", module)
    exec(compile(source.code, "function.py", "exec"), module.__dict__)
    assert next(module.browse("http://127.0.0.1:1/", [4096])).startswith(b"bentopg")


def test_whatever_the_url_the_request_has_one_size(source: Source) -> None:
    source.verify_call("browse", ("u", [1], False, False))
    room_for_the_rest = 2 * KIB  # frames, tokens, manifest, buckets
    assert FLIGHT_BYTES[0] < len(source.code)
    assert len(source.code) + MAX_URL_CHARS + room_for_the_rest < FLIGHT_BYTES[1]


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("http://a.test", ("*:80", "*:443")),
        ("HTTPS://a.test:443/", ("*:443",)),
        ("https://a.test:80/", ("*:443", "a.test:80")),
        ("http://[::1]:8080/", ("*:80", "*:443", "[::1]:8080")),
        ("http://b\u00fccher.test:81/", ("*:80", "*:443", "xn--bcher-kva.test:81")),
        ("http://user:word@a.test:81/", ("*:80", "*:443", "a.test:81")),
    ],
)
def test_a_visit_asks_for_what_it_needs(url: str, found: tuple[str, ...]) -> None:
    assert destinations(url) == found
    assert browser_source(found).manifest.egress == found


@pytest.mark.parametrize(
    "url",
    [
        *"a.test a.test:80 //a.test/ ftp://a.test/ http:// http:///x http://a.test:0x/ javascript:1 http://[a/".split(),
        *("", "http://a.test:70000/", "http://\n/", f"http://a.test/{'z' * 5000}"),
    ],
)
def test_what_is_no_web_address_is_refused(url: str) -> None:
    with pytest.raises(UsageError):
        destinations(url)


def test_a_box_that_opens_port_443_alone_admits_https(source: Source) -> None:
    policy = Policy(egress=("accept *:443",))
    assert isinstance(decide(source.manifest, policy, instances=0), Grant)
    plain = browser_source(destinations("http://a.test/")).manifest
    refusals = decide(plain, policy, instances=0)
    assert not isinstance(refusals, Grant)
    assert [(refusal.rule, refusal.asked) for refusal in refusals] == [("egress", "*:80")]


def test_a_box_with_the_default_policy_admits_it(source: Source) -> None:
    assert isinstance(decide(source.manifest, Policy(), instances=0, lease_s=source.manifest.wall_s or 0), Grant)
