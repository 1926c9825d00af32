"""One file of a page's parts: nothing in it is fetched, whoever wrote the parts."""

import html
import re

import pytest
from selectolax.lexbor import LexborHTMLParser

from bento.functions.browser import rebuild as rebuilding
from bento.functions.browser.packet import Fetched, Part
from bento.functions.browser.rebuild import rebuild

URL = "http://a.test/b/page.html"
PICTURE = "data:image/gif;base64,R0lG"
POLICY = '<meta http-equiv="Content-Security-Policy" content="default-src &apos;none&apos;;'


def part(name: str, body: bytes | str, kind: str = "image/gif") -> Part:
    url = f"http://a.test/b/{name}"
    return Part(url, url, kind, body.encode() if isinstance(body, str) else body)


def rebuilt(page: str, *parts: Part, scripts: bool = False, kind: str = "text/html; charset=utf-8") -> str:
    fetched = Fetched(200, (part("page.html", page, kind), *parts))
    media_type, content, dropped = rebuild(fetched, scripts=scripts)
    assert (media_type, dropped) == ("text/html", ())
    return content.decode()


def body_of(page: str, *parts: Part, scripts: bool = False) -> str:
    return rebuilt(page, *parts, scripts=scripts).partition("<body>")[2].removesuffix("</body></html>")


GIF = part("x.gif", b"GIF")


def test_the_policy_comes_first_of_all() -> None:
    for page in (
        "<p>x",
        "",
        "<html a='<head>'><!--<head>--><head b>",
        "<frameset>",
        "<head><title>x",
        "<!-- <head> -->",
    ):
        text = rebuilt(page)
        assert re.match(
            r"<html[^<>]*><head><meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none';", text
        )
        assert text.count("<head") == 1


def test_the_kind_of_document_is_kept() -> None:
    old = '<!DOCTYPE HTML PUBLIC "-//W3C//DTD HTML 3.2//EN">'
    assert rebuilt(f"<!-- x -->{old}<p>").startswith(f"{old}<html>")
    assert rebuilt("<p>").startswith("<html>")
    assert rebuilt("<!DOCTYPE html <script>").startswith("<html>")


def test_resources_are_put_where_they_are_named() -> None:
    assert body_of("<img src=x.gif>", GIF) == f'<img src="{PICTURE}">'
    assert body_of("<img srcset='x.gif 1280w, y.gif 9w' src=y>", GIF) == f'<img srcset="{PICTURE} 1280w">'
    assert body_of("<p style='background:url(x.gif)'>", GIF) == f'<p style="background:url(&quot;{PICTURE}&quot;)"></p>'
    assert body_of("<img src=gone.gif><p style='background:url(gone.gif)'>") == (
        '<img><p style="background:url(&quot;data:,&quot;)"></p>'
    )


def test_style_sheets_are_put_in_with_what_they_name_and_end_where_they_import_themselves() -> None:
    sheets = (
        part("a.css", "@import 'b.css'; p{background:url(x.gif)}", "text/css"),
        part("b.css", "@import 'a.css'; q{color:#123}", "text/css"),
    )
    text = rebuilt("<link rel=stylesheet media=print href=a.css>", *sheets, GIF)
    assert text.count("base64") == 1
    assert 'media="print" href="data:text/css' in text
    assert "q{color:%252523123}" not in text  # once for itself, once for the sheet it is in
    assert "q{color:%2523123}" in text


def test_symbols_of_other_files_are_brought_in() -> None:
    sprite = part(
        "s.svg", '<svg><symbol id="a" onload="x()"><path d="M0"/><image href="http://c.test/"/></symbol></svg>'
    )
    text = body_of('<svg><use xlink:href="s.svg#a"/><use href="s.svg#a"/><use href="s.svg#b"/></svg>', sprite)
    assert text.count('<use href="#bento-symbol-0">') == 2
    assert '<symbol id="bento-symbol-0"><path d="M0"></path><image></image></symbol>' in text


def test_links_lead_where_they_led() -> None:
    links = (
        "<a href=x>1</a><a href='#y'>2</a><a href='page.html#z'>3</a><a href=//c.test>4</a><a href='mailto:d@e'>5</a>"
    )
    assert re.findall(r'href="(.*?)"', body_of(links)) == [
        "http://a.test/b/x",
        "#y",
        "#z",
        "http://c.test",
        "mailto:d@e",
    ]


EVIL = (
    "<script>x</script>",
    "<script src=data:,x></script>",
    "<svg><script>x</script></svg>",
    "<img src=x.gif onerror=x>",
    "<body onload=x>",
    "<svg onload=x><a xlink:href=javascript:x><text>x</text></a></svg>",
    "<a href=javascript:x>x</a>",
    "<a href='java\nscript:x'>x</a>",
    "<a href='data:text/html,x'>x</a>",
    "<a href=x ping=http://c.test/>x</a>",
    "<meta http-equiv=refresh content='0;url=http://c.test/'>",
    "<p><meta http-equiv=Refresh content='0;http://c.test/'>",
    "<link rel=preconnect href=http://c.test/><link rel='dns-prefetch' href=//c.test>",
    "<link rel='prefetch stylesheet' href=http://c.test/>",
    "<link rel=preload href=http://c.test/ as=image imagesrcset='http://c.test/ 1x'>",
    "<link rel='icon preload' href=data:, as=image imagesrcset='data:,x 9x, http://c.test/ 1x'>",
    "<link rel='alternate stylesheet icon' title=x href=\"data:text/css,@import'http://c.test/'\">",
    "<link rel='icon modulepreload' href=\"data:text/ecmascript,import'x'\"><meta name=Referrer content=unsafe-url>",
    "<a href='#x' ping='#x http://c.test/'>x</a><p xml:base=http://c.test/>",
    "<link rel=manifest href=http://c.test/><html manifest=http://c.test/>",
    "<base href=http://c.test/>",
    "<iframe src=http://c.test/></iframe><iframe srcdoc='<img src=http://c.test/>'></iframe>",
    "<object data=http://c.test/><embed src=http://c.test/><applet code=http://c.test/>",
    "<frameset><frame src=http://c.test/></frameset>",
    "<video src=http://c.test/ poster=http://c.test/><source src=http://c.test/><track src=http://c.test/></video>",
    "<form action=http://c.test/><button formaction=http://c.test/>x</form>",
    "<input type=image src=http://c.test/>",
    "<table background=http://c.test/><td background=http://c.test/>",
    "<svg><image href=http://c.test/ xlink:href=http://c.test/></svg><svg><use href=http://c.test/#x></svg>",
    "<svg><rect fill='url(http://c.test/#x)' filter='url(//c.test/#x)' mask=\"url('http://c.test/')\"/></svg>",
    "<svg><image href=x.gif><animate attributeName=href to=http://c.test/ values='//c.test/;x'/></image></svg>",
    "<svg><image href=data:,><animate attributeName=href values='#a;http://c.test/'/></image></svg>",
    "<svg><image href=data:,><set attributeName=href to='\\\\c.test\\x'/></image></svg>",
    "<svg><feImage href=http://c.test/ /></svg>",
    "<p style='background:url(http://c.test/)'>",
    "<p style='background:\\75rl(http://c.test/)'>",
    "<style>@import 'http://c.test/';@import url(//c.test/);p{background:u\\72l(http://c.test/)}</style>",
    "<svg><style>p{background:url(http://c.test/)}</style></svg>",
    "<style>p{background:URL(http://c.test/)}</style><style>p{background:image-set('http://c.test/' 1x)}</style>",
    "<img srcset='http://c.test/ 1x, http://c.test/ 2x' sizes=1px lowsrc=http://c.test/ longdesc=http://c.test/>",
    "<template shadowrootmode=open><img src=http://c.test/></template>",
    "<noscript><img src=http://c.test/></noscript>",
    "<noscript><p title='</noscript><img src=http://c.test/ onerror=x>'></noscript>",
    "<!--[if IE]><script src=http://c.test/></script><![endif]-->",
    "<svg></p><style><a id='</style><img src=http://c.test/ onerror=x>'>",
    "<math><mtext><table><mglyph><style><!--</style><img title='--&gt;&lt;img src=http://c.test/ onerror=x&gt;'>",
    "<form><math><mtext></form><form><mglyph><style></math><img src=http://c.test/ onerror=x>",
    "<svg><style>&lt;/style>&lt;meta http-equiv=refresh content=0;http://c.test/></style></svg>",
    "<xmp><p title='</xmp><img src=http://c.test/ onerror=x>'></xmp>",
    "<noembed><p title='</noembed><script>x</script>'></noembed>",
    "<textarea><p title='</textarea><img src=http://c.test/ onerror=x>'>",
    "<title><p title='</title><script src=http://c.test/></script>'>",
    "<plaintext><script src=http://c.test/></script>",
    "<portal src=http://c.test/><fencedframe src=http://c.test/></fencedframe>",
    "<p><script type=speculationrules>{}</script>",
    "<blockquote cite=http://c.test/><q cite=http://c.test/><ins cite=http://c.test/>",
    "<button popovertarget=x><img attributionsrc=http://c.test/ src=x.gif><body background=http://c.test/>",
)
"""Pages that would fetch something, or run something, were they opened as they are."""


@pytest.mark.parametrize("evil", EVIL)
def test_nothing_is_fetched_and_nothing_runs(evil: str) -> None:
    text = rebuilt(evil, GIF)
    for scripting in (True, False):
        tree = LexborHTMLParser(text, scripting=scripting)
        assert not tree.css("script, base, embed, frame, template, noscript, portal, fencedframe, plaintext, [srcdoc]")
        assert len(tree.css("meta[http-equiv]")) == 2
        assert len(tree.css("meta[name=referrer i]")) == 1
        assert not tree.css("link:not([rel=icon])")
        for node in tree.css("*"):
            for name, value in node.attributes.items():
                assert not name.startswith("on"), text
                assert "c.test" not in (value or "") or name == "title", text
                assert "javascript" not in (value or "").replace("\n", ""), text
            if node.tag == "style":
                assert "c.test" not in html.unescape(node.text()), text
        assert not tree.css("a[href^='data:']")


def test_what_a_style_sheet_holds_does_not_end_its_element() -> None:
    sheet = part("a.css", "</style><script>x</script>\"'>", "text/css")
    assert "<script" not in rebuilt("<link rel=stylesheet href=a.css>", sheet)
    assert "<script" not in rebuilt("<style>@import 'a.css';</style>", sheet)


def test_a_type_can_not_break_out_of_its_reference() -> None:
    picture = part("x.gif", "GIF", 'image/svg+xml"onload="x')
    assert body_of("<img src=x.gif>", picture) == '<img src="data:application/octet-stream;base64,R0lG">'


def test_scripts_are_kept_if_asked_for_and_still_fetch_nothing_by_themselves() -> None:
    text = rebuilt(
        "<script src=a.js></script><script src=gone.js></script><p onclick=x()>x<noscript>y</noscript>",
        part("a.js", "</script>1", "text/javascript"),
        scripts=True,
    )
    assert '<script src="data:text/javascript;base64,PC9zY3JpcHQ+MQ=="></script><script></script>' in text
    assert '<p onclick="x()">x</p>' in text
    assert "script-src 'unsafe-inline' 'unsafe-eval' data:;" in text
    assert "script-src" not in rebuilt("<p>")


def test_what_is_for_pages_without_scripts_is_shown() -> None:
    assert body_of("<noscript><b>x</b></noscript>") == "<b>x</b>"


def test_a_page_in_another_character_set_becomes_utf_8() -> None:
    fetched = Fetched(200, (part("page.html", "<meta charset=koi8-r>д".encode("koi8-r"), "text/html"),))
    text = rebuild(fetched, scripts=False)[1].decode()
    assert "д" in text
    assert text.count("charset") == 1


def test_a_sheet_is_used_whatever_digest_its_page_gives() -> None:
    sheet = part("a.css", "p{background:url(x.gif)}", "text/css")
    assert "integrity" not in rebuilt("<link rel=stylesheet integrity=sha384-x crossorigin href=a.css>", sheet)


def test_nothing_in_a_page_steers_a_terminal() -> None:
    assert body_of("<p title='&#27;[31m'>\x1b]0;x\x07<b>\x9b") == '<p title="[31m">]0;x<b></b></p>'
    assert "<pre>]0;x" in rebuilt("\x1b]0;x\x07", kind="text/plain")


def test_a_picture_is_wrapped_and_text_is_escaped() -> None:
    assert f'<img src="{PICTURE}">' in rebuilt("GIF", kind="image/gif")
    assert "<pre>&lt;script&gt;é</pre>" in rebuilt("<script>é", kind="text/plain; charset=utf-8")


def test_another_document_is_given_as_it_is() -> None:
    fetched = Fetched(200, (part("page.html", b"%PDF", "application/pdf"),))
    assert rebuild(fetched, scripts=False) == ("application/pdf", b"%PDF", ())


def test_a_picture_shown_too_often_is_left_out_and_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rebuilding, "MAX_FILE_BYTES", 2 * len(PICTURE))
    fetched = Fetched(200, (part("page.html", "<img src=x.gif>" * 5, "text/html"), GIF))
    _, content, dropped = rebuild(fetched, scripts=False)
    assert content.decode().count(PICTURE) == 2
    assert {failure.url for failure in dropped} == {GIF.url}


def test_a_page_that_never_settles_is_shown_as_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rebuilding, "_ROUNDS", 0)
    assert "<pre>&lt;html&gt;" in rebuilt("<p>x")
