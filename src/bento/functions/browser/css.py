"""What a style sheet names: found at the box, replaced at the client, by one and the same reader."""

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Final
from urllib.parse import urldefrag, urljoin, urlsplit

# All of these are atomic or possessive: what has matched is not read again in another way. An escape's digits could be
# a name's, too, and a page could make the choice take for ever.
_SPACE = r"[ \t\n]*+"
_ESCAPE = r"\\(?:[0-9a-fA-F]{1,6}[ \t\n]?|[^0-9a-fA-F\n])"
_IN_NAME = rf"(?>(?:[\w\x80-\U0010ffff-]|{_ESCAPE})+)"
_NAME = rf"(?>(?:--|-?(?:[a-zA-Z_\x80-\U0010ffff]|{_ESCAPE}))(?:{_IN_NAME})?)"
_NUMBER = rf"(?>(?:[0-9]+(?:\.[0-9]+)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?(?:{_NAME})?)"
_STRING = r"""(?>"(?:[^"\\\n]|\\[\s\S])*"?|'(?:[^'\\\n]|\\[\s\S])*'?)"""
_BARE = rf"""(?>(?:[^"'()\\ \t\n]|{_ESCAPE})*)"""

_CSS_TOKEN: Final = re.compile(
    rf"(?P<comment>/\*[\s\S]*?(?:\*/|\Z))|(?P<string>{_STRING})|<!--|-->|\#{_IN_NAME}|{_NUMBER}"
    rf"|@(?P<at>{_NAME})|(?P<call>{_NAME})\(|{_NAME}|(?P<end>[;{{}}])"
)
"""A style sheet's tokens as far as they matter here, as CSS Syntax Module Level 3 cuts them."""

_CSS_LINES: Final = re.compile(r"\r\n?|\f")
_CSS_QUOTED: Final = re.compile(rf"{_SPACE}(?P<url>{_STRING})")
_CSS_BARE: Final = re.compile(rf"{_SPACE}(?P<url>{_BARE}){_SPACE}(?:\)|\Z)|(?>(?:[^)\\]|\\[\s\S])*)(?:\)|\Z)")
"""Behind "url(", up to its end; what is no URL has one, too."""

_CSS_ESCAPE: Final = re.compile(r"\\(?:([0-9a-fA-F]{1,6})[ \t\n]?|([\s\S]))")
_IN_STRING: Final = re.compile(r"\\([\s\S])|([(@])")
_OLD_FONT: Final = re.compile(r"\.(?:eot|svg)(?:$|[?#])", re.IGNORECASE)

_AT_RULES: Final = {"import": "style", "font-face": "font", "namespace": "", "document": "", "-moz-document": ""}
"""What is named behind these; "" for a name of which nothing is fetched."""

_IN_SET: Final = frozenset("url src type calc rgb rgba hsl hsla image-set -webkit-image-set".split())
"""What an image-set() may be made of, beside gradients. A var() could bring a string, which is a reference there."""

_WITHOUT_DATA: Final = frozenset({"style", "frame", "media"})

NOTHING: Final = "data:,"
"""Where a style sheet must name something."""

Replace = Callable[[str, str], str | None]
"""From an absolute URL and its kind (style, script, image, font, icon, frame, media) to what stands in its place;
None for nothing."""

MAX_URL_CHARS: Final = 4096
"""Twice what old browsers took; longer ones are data in disguise. A request with one has the size of any other."""


def put(reference: str, base: str, kind: str, replace: Replace) -> str | None:
    """What stands for a reference: data and fragments as they are."""
    text = reference.strip()
    if text.startswith("#") or text[:5].lower() == "data:":
        # A sheet written into its name could name others; a picture with a fragment could be read as a document.
        return None if kind in _WITHOUT_DATA else (text.partition("#")[0] or text)
    url = resolve(base, text)
    return replace(url, kind) if url else None


@lru_cache(1024)  # pages name the same again and again
def resolve(base: str, reference: str) -> str | None:
    """The absolute http(s) URL of a reference, without its fragment; None if it is none.

    >>> resolve("http://a.test/b/c", "//d.test/e#f"), resolve("http://a.test/b/c", "javascript:x")
    ('http://d.test/e', None)
    """
    if len(reference) > MAX_URL_CHARS:
        return None
    text = re.sub(r"[\t\r\n]", "", reference).strip()
    text = re.sub(r"^[^?#]*", lambda path: path[0].replace("\\", "/"), text)  # as browsers read them
    try:
        url = urldefrag(urljoin(base, text)).url
        parts = urlsplit(url)
        is_one = parts.scheme in ("http", "https") and parts.hostname and (parts.port or 1) > 0
    except ValueError:
        return None
    return url if text and is_one and len(url) <= MAX_URL_CHARS else None


def rewrite_css(text: str, base: str, replace: Replace) -> str:
    """A style sheet with each of its references replaced.

    >>> rewrite_css("a{background:URL(b.png)}", "http://a.test/c/d.css", lambda url, kind: f"{kind}:{url}")
    'a{background:url("image:http://a.test/c/b.png")}'
    """
    text = _CSS_LINES.sub("\n", text).replace("\0", "\ufffd")  # as browsers begin
    written: list[str] = []
    at, start, expected = 0, 0, "image"
    has_font = is_set = False
    last_call = ""
    while token := _CSS_TOKEN.search(text, at):
        at = token.end()
        reference: str | None = None
        closing = ")"
        call = unescape_css(token["call"] or "").lower()
        if token["at"]:
            name = unescape_css(token["at"]).lower()
            expected, has_font = _AT_RULES.get(name, "image"), False
        elif token["end"] and (token["end"] == "}" or expected in ("style", "")):
            expected = "image"
        elif token["string"] and (expected == "style" or (is_set and last_call != "type")):
            reference = token["string"]
        elif call in ("url", "src"):
            found = _CSS_QUOTED.match(text, at)
            closing = "" if found else ")"  # more may stand behind a string
            found = found or _CSS_BARE.match(text, at)
            reference, at = (found["url"] or "", found.end()) if found else ("", len(text))
        # What stands in quotes within image-set() is a reference, too, but for type("image/png").
        is_foreign = is_set and call and call not in _IN_SET and not call.endswith("gradient")
        is_set = (is_set and not token["end"]) or call.endswith("image-set")
        last_call = call
        if reference is None or not expected:
            inert = "none(" if is_foreign else _inert(token)
            if inert is not None:
                written += [text[start : token.start()], inert]
                start = at
            continue
        reference = unescape_css(reference)
        if expected == "font" and (has_font or _OLD_FONT.search(reference)):
            stand_in: str | None = None  # browsers fetch one format: the first that they know
        else:
            stand_in = put(reference, base, expected, replace)
            has_font = expected == "font"
        written += [text[start : token.start()], f'url("{escape_css(stand_in or NOTHING)}"{closing}']
        start = at
        expected = "image" if expected == "style" else expected
    return "".join([*written, text[start:]])


def _inert(token: "re.Match[str]") -> str | None:
    """A comment or a string that could do nothing even where a browser cut the text otherwise; None for the rest."""
    if token["comment"]:
        return "/**/"
    return _IN_STRING.sub(_out_of_use, token["string"]) if token["string"] else None


def _out_of_use(found: "re.Match[str]") -> str:
    letter = found[1] or found[2]
    return f"\\{ord(letter):x} " if letter in "(@" else found[0]


def unescape_css(text: str) -> str:
    """A name, or a string with its quotes, as CSS means it."""
    if text[:1] in ("'", '"'):
        text = text[1:-1] if len(text) > 1 and text[-1] == text[0] else text[1:]
    return _CSS_ESCAPE.sub(_escaped, text) if "\\" in text else text


def _escaped(found: "re.Match[str]") -> str:
    if not found[1]:
        return "" if (found[2] or "\n") in "\r\n\f" else found[2]
    number = int(found[1], 16)
    return chr(number) if 0 < number < 0x110000 and not 0xD800 <= number < 0xE000 else "\ufffd"


def escape_css(text: str) -> str:
    """Text for within the quotes of a style sheet's string.

    >>> escape_css('a"b')
    'a\\\\22 b'
    """
    return re.sub(r'["\\\x00-\x1f<>(@]', lambda found: f"\\{ord(found[0]):x} ", text)
