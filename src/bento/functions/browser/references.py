"""What a page names: found at the box, replaced at the client, by one and the same reader."""

import re
from collections.abc import Iterator
from typing import Final

from selectolax.lexbor import LexborHTMLParser, LexborNode

from bento.functions.browser.css import Replace, put, resolve, rewrite_css
from bento.functions.browser.text import decode_text, media_type_of

WIDTH_PX: Final = 1280
"""Of the window that pictures are chosen for: a common one."""

_ATTRIBUTES: Final[dict[str, dict[str, str]]] = {
    "img": {"src": "image"},
    "input": {"src": "image"},
    "image": {"href": "image", "xlink:href": "image"},
    "feImage": {"href": "image", "xlink:href": "image"},
    "use": {"href": "image", "xlink:href": "image"},
    "script": {"src": "script", "href": "script", "xlink:href": "script"},
    "video": {"poster": "image", "src": "media"},
    "audio": {"src": "media"},
    "source": {"src": "media"},
    "track": {"src": "media"},
    "embed": {"src": "frame"},
    "object": {"data": "frame"},
    "frame": {"src": "frame"},
    "iframe": {"src": "frame"},
}
_PICTURE: Final = re.compile(r"image/(?:avif|webp|a?png|jpe?g|gif|svg\+xml|bmp|x-icon)")
_CANDIDATE: Final = re.compile(r"[\s,]*+((?>(?:[^\s,]+|,+(?=[^\s,]))+))(?:,|\s++([^,]*+)|\Z)")
_SELF_CLOSED: Final = re.compile(
    r"<((?!(?:area|base|br|col|embed|hr|img|input|link|meta|source|track|wbr)\b)[a-zA-Z](?>[\w:-]*))"
    r"""((?>(?:[^<>"'/]|"[^"<]*"|'[^'<]*'|/(?!>))*))/>"""
)


def parse_page(body: bytes, content_type: str, *, scripts: bool) -> LexborHTMLParser:
    """A page's tree, as a browser that runs scripts, or does not, would make it."""
    text = decode_text(body, content_type)
    if media_type_of(content_type) == "application/xhtml+xml":
        text = _SELF_CLOSED.sub(r"<\1\2></\1>", text)  # XML's short form, which HTML's parser takes for a start
    return LexborHTMLParser(text, scripting=scripts)


def rewrite_html(tree: LexborHTMLParser, url: str, replace: Replace) -> None:
    """Replace each reference that a browser would fetch to show a page found at `url`; nothing where it has none."""
    base = base_of(tree, url)
    for node in tree.css("style"):
        if re.search(r"[(@\\]", css := node.text()):  # else it names nothing
            node.inner_html = rewrite_css(css, base, replace)
    for node in tree.css("picture"):
        settle_picture(node)
    for node in tree.root.traverse() if tree.root is not None else ():
        attributes = node.attributes
        for name, kind in references_of(node.tag or "", attributes):
            set_attribute(node, name, put(attributes[name] or "", base, kind, replace))
        if attributes.get("srcset"):
            rewrite_candidates(node, base, replace)
        if attributes.get("style"):
            set_attribute(node, "style", rewrite_css(attributes["style"] or "", base, replace))


def references_of(tag: str, attributes: dict[str, str | None]) -> Iterator[tuple[str, str]]:
    """Each attribute of an element that names what is fetched with the page, and of which kind that is."""
    kinds = _ATTRIBUTES.get(tag, {"background": "image"})
    if tag == "link":
        words = (attributes.get("rel") or "").lower().split()
        is_style = "stylesheet" in words and "alternate" not in words
        kinds = {"href": "style"} if is_style else {"href": "icon"} if "icon" in words else {}
    elif tag == "input" and (attributes.get("type") or "").lower() != "image":
        kinds = {}
    elif tag == "img" and attributes.get("srcset"):
        kinds = {}  # `rewrite_candidates` chooses
    yield from ((name, kind) for name, kind in kinds.items() if attributes.get(name))


def settle_picture(picture: LexborNode) -> None:
    """Leave the sources that a browser may choose: those for some windows only, and the first for all of them."""
    is_settled = False
    for node in picture.css("source, img"):
        kind = (node.attributes.get("type") or "").lower()
        if is_settled or (kind and not _PICTURE.fullmatch(kind)):
            for name in ("srcset", "src"):
                set_attribute(node, name, None)
        elif node.tag == "source" and node.attributes.get("srcset"):
            is_settled = not node.attributes.get("media")


def rewrite_candidates(node: LexborNode, base: str, replace: Replace) -> None:
    """Replace the candidate of a srcset that a window of WIDTH_PX chooses, and drop the others."""
    attributes = node.attributes
    source, descriptor = choose_candidate(attributes["srcset"] or "", attributes.get("src") or "")
    stand_in = put(source, base, "image", replace)
    is_plain = node.tag == "img" and not descriptor
    set_attribute(node, "src", stand_in if is_plain else None)
    set_attribute(node, "srcset", f"{stand_in} {descriptor}" if stand_in and not is_plain else None)


def choose_candidate(srcset: str, src: str) -> tuple[str, str]:
    """Of a srcset and the src beside it: a URL, and its descriptor, "" for the src's own.

    >>> choose_candidate("a.png 640w, b.png 1280w, c.png 2560w", "d.png")
    ('b.png', '1280w')
    """
    widths: list[tuple[float, str, str]] = []
    densities = [(1.0, src, "")] if src else []
    at = 0
    while found := _CANDIDATE.match(srcset, at):  # never searched for: that would begin anew at each character
        at = found.end()
        descriptor = (found[2] or "1x").split()[0] if (found[2] or "1x").strip() else "1x"
        number, unit = descriptor[:-1], descriptor[-1]
        if unit in "wx" and re.fullmatch(r"\d{1,6}(?:\.\d{1,3})?", number):
            (widths if unit == "w" else densities).append((float(number), found[1], descriptor))
    chosen, least = (widths, float(WIDTH_PX)) if widths else (densities, 1.0)
    if not chosen:
        return src, ""
    enough = [candidate for candidate in chosen if candidate[0] >= least]
    _, url, descriptor = min(enough) if enough else max(chosen)
    return url, descriptor


def base_of(tree: LexborHTMLParser, url: str) -> str:
    """What a page's references are relative to: its first <base>, else its URL."""
    named = tree.css_first("base[href]")
    return (resolve(url, named.attributes.get("href") or "") if named else None) or url


def set_attribute(node: LexborNode, name: str, value: str | None) -> None:
    """Set an attribute; None takes it away."""
    if value is not None:
        node.attrs[name] = value
    elif name in node.attrs:
        del node.attrs[name]
