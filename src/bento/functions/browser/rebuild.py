"""One self-contained file from a page's parts, which opens in any browser and makes no request.

The parts are a stranger's: the tree that a browser would make of the file is judged, not the text that came, and a
policy at the file's head forbids what might have been overlooked.
"""

import base64
import html
import re
from typing import Final
from urllib.parse import quote

from selectolax.lexbor import LexborHTMLParser, LexborNode

from bento.functions.browser.css import resolve, rewrite_css
from bento.functions.browser.packet import MIB, Failure, Fetched, Part
from bento.functions.browser.references import base_of, parse_page, rewrite_html, set_attribute
from bento.functions.browser.text import decode_text, is_html, media_type_of

MAX_FILE_BYTES: Final = 128 * MIB
"""Of one file: all that may be fetched, written as base64, with room for pictures that a page shows twice."""

_ROUNDS: Final = 5
"""Until a file's text and the tree that browsers make of it agree; a page that takes more was made to deceive."""

_POLICY: Final = (
    "default-src 'none'; img-src data:; style-src 'unsafe-inline' data:; font-src data:; {scripts}"
    "form-action 'none'; base-uri 'none'"
)
_SCRIPTS: Final = "script-src 'unsafe-inline' 'unsafe-eval' data:; "

_HEAD: Final = (
    '<meta http-equiv="Content-Security-Policy" content="{policy}"><meta charset="utf-8">'
    '<meta name="referrer" content="no-referrer"><meta http-equiv="x-dns-prefetch-control" content="off">'
)
"""Names of links would be looked up, too, without the last."""

_REMOVED: Final = frozenset("base embed applet param frame frameset portal fencedframe plaintext".split())
_KEPT_LINKS: Final = frozenset({"stylesheet", "icon"})
_FETCHING: Final = frozenset(
    """src srcset data poster background href xlink:href action formaction manifest cite longdesc lowsrc dynsrc
    profile archive codebase classid code usemap icon srcdoc from to values by""".split()
)
_NEVER: Final = frozenset("ping attributionsrc imagesrcset xml:base integrity".split())
"""Lists, of which the first could be data and the second not; and the digest of what was rewritten since."""
_PAINT: Final = frozenset("fill stroke filter mask clip-path cursor marker marker-start marker-mid marker-end".split())
_OUTER_PAINT: Final = re.compile(r"\\|(?:url|src)\(\s*+[\"']?+(?!#)|image", re.IGNORECASE)
_NO_DATA: Final = frozenset({"a", "area", "use"})
_LINKS: Final = frozenset({"a", "area"})
_FRAME_KEPT: Final = frozenset({"width", "height", "class", "id", "style", "align", "frameborder"})
_CONTROLS: Final = re.compile("[\x00-\x08\x0b\x0e-\x1f\x7f-\x9f]")
"""They show nothing on a page; on a terminal they do."""

_BARE_HEAD: Final = re.compile("<html[^<>]*><head>")
_DOCTYPE: Final = re.compile(
    r"""(?>(?:\s|<\?[^>]*>|<!--(?s:.*?)-->)*)(<!doctype(?:[\s\w/:.+-]|"[^"<>]*"|'[^'<>]*')*>)""", re.IGNORECASE
)


def rebuild(fetched: Fetched, *, scripts: bool) -> tuple[str, bytes, tuple[Failure, ...]]:
    """The file of a page: its media type, its bytes, and what had to be left out of it."""
    page = fetched.parts[0]
    media_type = media_type_of(page.content_type)
    if not is_html(page.content_type, page.body):
        if media_type.startswith("image/"):
            return "text/html", _wrapped(f'<img src="{data_uri(page.content_type, page.body)}">'), ()
        if media_type.startswith("text/"):
            text = html.escape(decode_text(page.body, page.content_type))
            return "text/html", _wrapped(f"<pre>{text}</pre>"), ()
        return media_type or "application/octet-stream", page.body, ()
    assembly = Assembly({part.url: part for part in fetched.parts[1:]}, MAX_FILE_BYTES)
    tree = parse_page(page.body, page.content_type, scripts=scripts)
    base = base_of(tree, page.base)
    assembly.inline_symbols(tree, base)
    rewrite_html(tree, page.base, assembly.stand_in)
    _settle_links(tree, base, page.base)
    doctype = _DOCTYPE.match(decode_text(page.body, page.content_type))
    text = _settled(tree, doctype[1] if doctype else "", scripts=scripts)
    return "text/html", text.encode(), tuple(assembly.dropped)


def data_uri(content_type: str, body: bytes) -> str:
    """A resource written into its reference."""
    media_type = media_type_of(content_type) or "application/octet-stream"
    return f"data:{media_type};base64,{base64.b64encode(body).decode()}"


def _wrapped(body: str) -> bytes:
    head = _HEAD.format(policy=_POLICY.format(scripts=""))
    return f"<!DOCTYPE html><html><head>{head}</head><body>{_CONTROLS.sub('', body)}</body></html>".encode()


class Assembly:
    """The parts of a page, on their way into one file of limited size."""

    def __init__(self, parts: dict[str, Part], left_bytes: int) -> None:
        self._parts = parts
        self._left_bytes = left_bytes
        self._importing: list[str] = []
        self.dropped: list[Failure] = []

    def stand_in(self, url: str, kind: str) -> str | None:
        """The data: URI of a part; None if there is none, or no room."""
        part = self._parts.get(url)
        if part is None or kind in ("frame", "media") or url in self._importing:
            return None
        written = self._style(part) if kind == "style" else data_uri(part.content_type, part.body)
        if len(written) > self._left_bytes:
            self.dropped.append(Failure(url[:512], f"left out: the file would have more than {MAX_FILE_BYTES} bytes"))
            return None
        self._left_bytes -= len(written)
        return written

    def _style(self, part: Part) -> str:
        """A style sheet with what it names inside; one that imports itself stops there."""
        self._importing.append(part.url)
        text = rewrite_css(decode_text(part.body, part.content_type), part.base, self.stand_in)
        self._importing.pop()
        return f"data:text/css;charset=utf-8,{quote(text, safe=_URI_SAFE)}"

    def inline_symbols(self, tree: LexborHTMLParser, base: str) -> None:
        """Bring in what <use> names in other files: browsers take none from a data: URI."""
        brought: dict[str, str] = {}
        for node in tree.css("use"):
            named = node.attributes.get("href") or node.attributes.get("xlink:href") or ""
            url, _, name = named.rpartition("#")
            part = self._parts.get(resolve(base, url) or "") if url else None
            if part is None or not name:
                continue
            if named not in brought:
                brought[named] = f"bento-symbol-{len(brought)}"
                self._bring(tree, part, name, brought[named])
            set_attribute(node, "xlink:href", None)
            set_attribute(node, "href", f"#{brought[named]}")

    def _bring(self, tree: LexborHTMLParser, part: Part, name: str, new_name: str) -> None:
        found = LexborHTMLParser(decode_text(part.body, part.content_type)).css_first(f"[id={_css_string(name)}]")
        if found is None or tree.body is None:
            return
        found.attrs["id"] = new_name
        symbol = found.html or ""
        self._left_bytes -= len(symbol)
        if self._left_bytes > 0:
            tree.body.insert_child(tree.create_node("div"))
            if (holder := tree.body.last_child) is not None:
                holder.inner_html = f'<svg width="0" height="0" style="position:absolute">{symbol}</svg>'


_URI_SAFE: Final = "/:;,+=!*()[]{}@&$~'? "


def _css_string(text: str) -> str:
    return '"' + re.sub(r'["\\\n]', "", text) + '"'


def _settle_links(tree: LexborHTMLParser, base: str, url: str) -> None:
    """Links lead where they led: absolute, and those within the page to the file itself."""
    for node in tree.css("a[href], area[href]"):
        if "href" not in node.attributes:  # [href] is for xlink:href, too
            continue
        named = (node.attributes["href"] or "").strip()
        path, mark, fragment = named.partition("#")
        target = resolve(base, path or base)
        if mark and target == url:
            set_attribute(node, "href", f"#{fragment}")
        elif not named.lower().startswith("mailto:"):
            set_attribute(node, "href", f"{target}{mark}{fragment}" if target else None)


def _settled(tree: LexborHTMLParser, doctype: str, *, scripts: bool) -> str:
    """The text of a tree from which everything that fetches or acts is taken, as a browser will read it again."""
    text = _cleaned(tree, scripts)
    for _ in range(_ROUNDS):
        last, text = text, _cleaned(LexborHTMLParser(doctype + text, scripting=True), scripts)
        if text == last and _BARE_HEAD.match(text):
            head = _HEAD.format(policy=_POLICY.format(scripts=_SCRIPTS if scripts else ""))
            return doctype + text.replace("<head>", f"<head>{head}", 1)
    # Whatever it was made to become, it is shown as text.
    return _wrapped(f"<pre>{html.escape(text)}</pre>").decode()


def _cleaned(tree: LexborHTMLParser, scripts: bool) -> str:
    """What is left of a tree, written, without what fetches or acts: comments, elements, attributes."""
    if scripts:
        tree.strip_tags(["noscript"], recursive=True)
    else:
        tree.unwrap_tags(["noscript"], delete_empty=True)
    if tree.root is None:
        return ""
    for node in reversed(list(tree.root.traverse())):  # what is removed takes its children along
        if node.is_comment_node or (node.is_element_node and _is_removed(node, scripts)):
            node.decompose()
        elif node.is_element_node:
            _clean_attributes(node, scripts)
    return _CONTROLS.sub("", tree.root.html or "")


def _is_removed(node: LexborNode, scripts: bool) -> bool:
    tag, attributes = (node.tag or "").lower(), node.attributes
    if tag == "link":
        words = set((attributes.get("rel") or "").lower().split())
        href = attributes.get("href") or ""
        return not (words & _KEPT_LINKS and href.startswith("data:")) or words >= {"alternate", "stylesheet"}
    if tag == "meta":
        is_referrer = (attributes.get("name") or "").lower() == "referrer"
        return "http-equiv" in attributes or "charset" in attributes or is_referrer
    if tag == "script":
        kind = (attributes.get("type") or "").strip().lower()
        return not scripts or kind in ("speculationrules", "importmap")
    return tag in _REMOVED or (tag == "template" and not scripts)


def _clean_attributes(node: LexborNode, scripts: bool) -> None:
    tag = (node.tag or "").lower()
    if tag == "link":  # nor anything else that a link may be as well
        kinds = (node.attributes.get("rel") or "").lower().split()
        set_attribute(node, "rel", "stylesheet" if "stylesheet" in kinds else "icon")
    for name, value in node.attributes.items():
        text = (value or "").strip().lower()
        is_frame = tag in ("iframe", "object") and name not in _FRAME_KEPT
        is_handler = name.lower().startswith("on") and not scripts
        is_fetching = name.lower() in _FETCHING and not _is_inert(tag, name, text)
        is_painting = name in _PAINT and _OUTER_PAINT.search(text)
        if tag == "head" or name in _NEVER or is_frame or is_handler or is_fetching or is_painting:
            set_attribute(node, name, None)


def _is_inert(tag: str, name: str, text: str) -> bool:
    """Whether a value names nothing that is fetched without a click."""
    if name in ("from", "to", "values", "by"):
        return not re.search(r"[:/\\]", text)  # two backslashes name a host, too
    if text.startswith("#") or (text.startswith("data:") and tag not in _NO_DATA):
        return True
    return tag in _LINKS and name == "href" and text.startswith(("http://", "https://", "mailto:"))
