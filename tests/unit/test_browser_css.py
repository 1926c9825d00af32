"""What style sheets name, however they write it; and style sheets that were made to take for ever."""

import time

import pytest

from bento.functions.browser.css import MAX_URL_CHARS, NOTHING, resolve, rewrite_css

BASE = "http://a.test/css/main.css"


def named(text: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    rewrite_css(text, BASE, lambda url, kind: found.append((url.removeprefix("http://a.test/"), kind)))
    return found


@pytest.mark.parametrize(
    "text",
    [
        "a{b:url(x.png)}",
        "a{b:url( 'x.png' )}",
        'a{b:url("x.png"  )}',
        "a{b:URL(x.png)}",
        r"a{b:u\72l(x.png)}",
        r"a{b:\75 rl(x.png)}",
        r"a{b:url(\78.png)}",
        r"a{b:url('\78 .png')}",
        "a{b:url('x\\\n.png')}",
        'a{b:url("x.png" /**/)}',
        'a{b:url("x.png" cross-origin(anonymous))}',
        "a{b:u\\72\r\nl(x.png)}",
        'a{b:url(no"b);b:url(x.png);c:"',
        '<!--url(no"b){}a{b:url(x.png)}c{d:"',
        'x{y:1url(/*)"*/}a{b:url(x.png)}c{d:"}',
        'x{y:#1url(/*)"*/}a{b:url(x.png)}c{d:"}',
        'a{b:image-set(linear-gradient(red,blue) 1x,"x.png" 2x)}',
        "a{b:url(x.png",
        'a{b:url("x.png',
        "a{b:c/**/url(x.png)/**/}",
        "@media print{a{b:url(x.png)}}",
        "@import ;a{b:url(x.png)}",
        'a{content:"url(no.png)";b:url(x.png)}',
        "/* url(no.png) */a{b:url(x.png)}",
        "a{b:url(x.png#fragment)}",
        "a{b:myurl(no.png);c:url(x.png)}",
        "a{b:url(no .png);c:url(x.png)}",
        "a{b:url(javascript:no);c:url(x.png)}",
        'a{b:image-set("x.png" type("image/png") 1x);c:"no.png"}',
        "a{b:-webkit-image-set(url(x.png) 1x)}",
        'a{b:src("x.png")}',
        "@import url(data:text/css,no);a{b:url(x.png)}",
        "@namespace svg url(http://www.w3.org/2000/svg);a{b:url(x.png)}",
    ],
)
def test_an_image_is_found_however_it_is_written(text: str) -> None:
    assert named(text) == [("css/x.png", "image")]


@pytest.mark.parametrize(
    "text",
    ["@import 'x.css';", '@import "x.css" print;', "@import url(x.css) layer(a);", "@IMPORT/**/url( 'x.css' )screen;"],
)
def test_an_import_is_found_however_it_is_written(text: str) -> None:
    assert named(text) == [("css/x.css", "style")]


def test_of_a_fonts_formats_the_first_that_browsers_know_is_taken() -> None:
    font = "src:url(f.eot);src:url(f.eot?#iefix),url(f.woff2) format('woff2'),url(f.woff),url(f.svg#f)"
    assert named(f"@font-face{{{font}}} @font-face{{src:url(g.ttf)}} a{{b:url(i.png)}}") == [
        ("css/f.woff2", "font"),
        ("css/g.ttf", "font"),
        ("css/i.png", "image"),
    ]


def test_what_can_not_be_had_names_nothing() -> None:
    text = "@import 'x.css';a{b:url(x.png),url(ftp://c.test/),url(data:d),url(#e)}"
    put = f'url("{NOTHING}")'
    assert rewrite_css(text, BASE, lambda url, kind: None) == (
        f'@import {put};a{{b:{put},{put},url("data:d"),url("#e")}}'
    )


def test_what_is_no_reference_would_be_none_however_it_was_cut() -> None:
    text = """/* url(x) */a{b:"url(x) @import \\( \\\\(";c:image-set(var(--d) 1x)}"""
    assert rewrite_css(text, BASE, lambda url, kind: None) == (
        r"""/**/a{b:"url\28 x) \40 import \28  \\\28 ";c:image-set(none(--d) 1x)}"""
    )


def test_a_picture_of_data_is_no_document_and_a_sheet_of_data_is_none() -> None:
    text = "@import url(data:text/css,x);a{filter:url(data:image/svg+xml,x#f)}"
    assert rewrite_css(text, BASE, lambda url, kind: None) == (
        '@import url("data:,");a{filter:url("data:image/svg+xml,x")}'
    )


def test_nothing_that_is_put_in_ends_its_string() -> None:
    evil = 'data:x"\\\n)}</style><script>'
    written = rewrite_css("a{b:url(x)}", BASE, lambda url, kind: evil)
    assert written.startswith('a{b:url("')
    assert written.endswith('")}')
    assert not set('"\\\n<>') & set(written[9:-3].replace("\\22 ", "").replace("\\5c ", "").replace("\\a ", "")) - {
        "\\"
    }
    assert "</style" not in written


@pytest.mark.parametrize(
    "text",
    [
        "\\616161" * 50_000 + "(",
        "url(" * 100_000,
        "url(" + " " * 400_000 + "'x'y",
        "url('" + "\\'" * 200_000,
        "url(a" * 100_000 + "'",
        "/*" * 200_000,
        "@" * 400_000,
        '"' * 400_001,
        "-" * 400_000,
        "\\" * 400_000,
        "@import" * 60_000,
    ],
)
def test_reading_takes_time_by_length_alone(text: str) -> None:
    rewrite_css(text[: len(text) // 8], BASE, lambda url, kind: None)
    started_s = time.process_time()
    rewrite_css(text, BASE, lambda url, kind: None)
    assert time.process_time() - started_s < 20  # the square of it would be hours


@pytest.mark.parametrize(
    ("reference", "url"),
    [
        ("x", "http://a.test/css/x"),
        ("/x y", "http://a.test/x y"),
        (" \n../x\t", "http://a.test/x"),
        ("//b.test/x", "http://b.test/x"),
        ("HTTPS://b.test", "HTTPS://b.test"),
        ("?q", "http://a.test/css/main.css?q"),
        ("..\\img\\x.gif?a\\b", "http://a.test/img/x.gif?a\\b"),
        ("", None),
        ("mailto:x@a.test", None),
        ("java\nscript:x", None),
        ("file:///etc/passwd", None),
        ("http://[::1", None),
        ("http://a.test:99999/", None),
        ("http://a.test:x/", None),
        ("x" * MAX_URL_CHARS, None),
    ],
)
def test_references_are_resolved_as_browsers_do(reference: str, url: str | None) -> None:
    assert resolve(BASE, reference) == url
