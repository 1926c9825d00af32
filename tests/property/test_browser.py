"""Pages made of the pieces of evil ones: whatever they add up to, nothing in the file is fetched or runs."""

import html
import re

from hypothesis import given
from hypothesis import strategies as st
from selectolax.lexbor import LexborHTMLParser

from bento.functions.browser.css import rewrite_css
from bento.functions.browser.packet import Fetched, Part
from bento.functions.browser.rebuild import rebuild
from tests.unit.test_browser_rebuild import EVIL

OPENERS = (
    "table select svg math style title noscript template form mtext mglyph xmp textarea iframe noembed desc p head"
)
PIECES = [
    *sorted({piece for evil in EVIL for piece in re.findall(r"<[^>]*>?|[^<]+", evil)}),
    *(f"<{tag}>" for tag in [*OPENERS.split(), "foreignObject", "frameset", "plaintext"]),
    "<annotation-xml encoding=text/html>",
    *(f"</{tag}>" for tag in OPENERS.split()),
    *("<!--", "-->", "<![CDATA[", "]]>", "&lt;", "&gt;", "&quot;", "'", '"', "\0", "@import'//c.test';", "{}"),
]
FETCHING = (
    "src srcset href xlink:href poster data action formaction background ping manifest srcdoc longdesc cite".split()
)
URL = "http://a.test/"


@given(st.lists(st.sampled_from(PIECES), max_size=30).map("".join))
def test_nothing_is_fetched_whatever_a_page_is_made_of(page: str) -> None:
    text = rebuild(Fetched(200, (Part(URL, URL, "text/html", page.encode()),)), scripts=False)[1].decode()
    for scripting in (True, False):
        tree = LexborHTMLParser(text, scripting=scripting)
        assert len(tree.css("meta[http-equiv]")) == 2
        assert not tree.css("script, base, embed, frame, template, noscript, portal, plaintext, link")
        for node in tree.css("*"):
            attributes = node.attributes
            assert not any(name.startswith("on") for name in attributes)
            named = {name for name in FETCHING if not (attributes.get(name) or "#").startswith(("#", "data:"))}
            assert named <= ({"href"} if node.tag in ("a", "area") else set())
            css = html.unescape(node.text()) if node.tag == "style" else attributes.get("style") or ""
            fetched: list[str] = []
            rewrite_css(css, URL, lambda url, kind, found=fetched: found.append(url))  # type: ignore[misc]
            assert fetched == []


@given(st.text(alphabet="url(image-set)@port\\75 \"'/*x.:;{}", max_size=60))
def test_a_style_sheet_that_is_rewritten_names_nothing_more(text: str) -> None:
    written = rewrite_css(text, URL, lambda url, kind: None)
    found: list[str] = []
    rewrite_css(written, URL, lambda url, kind: found.append(url))
    assert found == []
