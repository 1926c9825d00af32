"""What pages name, and which of it a browser would fetch."""

import time

import pytest

from bento.functions.browser.references import choose_candidate, parse_page, rewrite_html
from bento.functions.browser.text import decode_text, is_html

BASE = "http://a.test/b/page.html"


def named(html: str, kind: str = "text/html", *, scripts: bool = False) -> list[str]:
    found: list[str] = []
    tree = parse_page(html.encode(), kind, scripts=scripts)
    rewrite_html(tree, BASE, lambda url, kind: found.append(f"{kind} {url.removeprefix('http://a.test/b/')}"))
    return found


@pytest.mark.parametrize(
    ("html", "found"),
    [
        ("<link rel='stylesheet' href=x>", ["style x"]),
        ("<link rel='Alternate StyleSheet' href=x>", []),
        ("<link rel='preload dns-prefetch' href=x>", []),
        ("<link rel='shortcut icon' href=x>", ["icon x"]),
        ("<img src=' x '>", ["image x"]),
        ("<img src=''>", []),
        ("<img src=data:x><img src='#x'>", []),
        ("<img src=x srcset='y 2x'>", ["image x"]),
        ("<img src=x srcset='y'>", ["image x"]),
        ("<img srcset='x 2x, y 3x'>", ["image x"]),
        ("<img srcset='x,y 1x'>", ["image x,y"]),
        ("<img srcset='x, y 2x'>", ["image x"]),
        ("<picture><source srcset=x media=print><source srcset=y><source srcset=z><img src=w>", ["image x", "image y"]),
        ("<picture><source srcset=x type=image/jxl><img src=y></picture>", ["image y"]),
        ("<noscript><img src=x></noscript>", ["image x"]),
        ("<template><img src=x></template>", []),
        ("<base href=/c/><img src=x>", ["image http://a.test/c/x"]),
        ("<base href=javascript:1><img src=x>", ["image x"]),
        ("<svg><use href='x#y'/></svg>", ["image x"]),
        ("<svg><style>a { b: url(x) }</style></svg>", ["image x"]),
        ("<p style='a: url(&quot;x&quot;)'>", ["image x"]),
        ("<a href=x><form action=x><blockquote cite=x>", []),
        ("<iframe src=x></iframe><video src=y></video><embed src=z>", ["frame x", "media y", "frame z"]),
    ],
)
def test_what_a_browser_would_fetch_is_named(html: str, found: list[str]) -> None:
    assert named(html) == found


def test_with_scripts_what_is_for_pages_without_is_not_named() -> None:
    assert named("<script src=x></script><noscript><img src=y></noscript>", scripts=True) == ["script x"]


def test_xml_may_close_an_element_where_it_opens() -> None:
    html = (
        '<?xml version="1.0"?><html><head><title/><script src="a"/></head><body><a id="b"/><img src="x"/></body></html>'
    )
    assert named(html, "application/xhtml+xml") == ["script a", "image x"]
    assert named(html, "text/html") == []


@pytest.mark.parametrize(
    ("srcset", "src", "chosen"),
    [
        ("a 320w, b 640w, c 1280w, d 2560w", "e", ("c", "1280w")),
        ("a 320w, b 640w", "e", ("b", "640w")),
        ("a 1.5x, b 2x", "", ("a", "1.5x")),
        ("a 1.5x, b 2x", "e", ("e", "")),
        ("a", "", ("a", "1x")),
        (" , a 9999999999w, ,b -1x, c 1x 2x, d huge", "e", ("c", "1x")),
        ("", "e", ("e", "")),
    ],
)
def test_one_candidate_is_chosen(srcset: str, src: str, chosen: tuple[str, str]) -> None:
    assert choose_candidate(srcset, src) == chosen


@pytest.mark.parametrize("unit", [",", ", ", "a,", "a ,", " ", "a", "a 1x,", ",,a"])
def test_choosing_takes_time_by_length_alone(unit: str) -> None:
    started_s = time.process_time()
    choose_candidate(unit * 200_000, "")
    assert time.process_time() - started_s < 20  # the square of it would be hours


@pytest.mark.parametrize(
    ("body", "kind", "text"),
    [
        ("é".encode(), "text/html", "é"),
        ("é".encode("latin-1"), "text/html", "é"),
        (b"\x80", "text/html; charset=ISO-8859-1", "€"),
        ("д".encode("koi8-r"), 'text/html; charset="KOI8-R"', "д"),
        ("日".encode("euc-jp"), "text/html;charset=euc-jp", "日"),
        ("日".encode("shift_jis"), "text/html;charset=Shift_JIS", "日"),
        ("中".encode("gbk"), "text/html;charset=gb2312", "中"),
        ("한".encode("euc-kr"), "text/html;charset=euc-kr", "한"),
        ("é".encode(), "text/html;charset=no-such", "é"),
        (b"+AOk-", "text/html;charset=utf-7", "+AOk-"),
        (b"e9", "text/html;charset=hex", "e9"),
        (b"\xc3\xa9\xff", "text/html;charset=utf-8", "é\ufffd"),
        (b'@charset "koi8-r";\xc4', "text/css", '@charset "koi8-r";д'),
    ],
)
def test_text_is_read_in_its_character_set(body: bytes, kind: str, text: str) -> None:
    assert decode_text(body, kind) == text


@pytest.mark.parametrize(
    ("kind", "body", "is_page"),
    [
        ("text/html", b"", True),
        ("Application/XHTML+xml; charset=x", b"", True),
        ("", b" \n<p>", True),
        ("junk", b"<p>", True),
        ("", b"%PDF", False),
        ("text/plain", b"<p>", False),
    ],
)
def test_a_page_is_known_by_its_type(kind: str, body: bytes, is_page: bool) -> None:
    assert is_html(kind, body) is is_page
