"""What a web page's bytes mean: their type, and their text in whatever character set."""

import codecs
import re
from typing import Final

_DECLARED: Final = re.compile(
    rb"""(?:<meta\b[^>]*?\bcharset\s*=\s*["']?|\A@charset "|\A<\?xml\b[^>]*?\bencoding\s*=\s*["'])\s*([\w.:-]+)""", re.I
)
_MARKS: Final = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))

_LABELS: Final = {
    "ascii": "cp1252", "us-ascii": "cp1252", "latin1": "cp1252", "iso-8859-1": "cp1252", "iso8859-1": "cp1252",
    "iso-8859-9": "cp1254", "iso-8859-11": "cp874", "tis-620": "cp874", "gb2312": "gb18030", "gbk": "gb18030",
    "shift_jis": "cp932", "shift-jis": "cp932", "sjis": "cp932", "x-sjis": "cp932", "euc-kr": "cp949",
    "ks_c_5601-1987": "cp949", "big5": "big5hkscs", "x-mac-roman": "mac-roman", "macintosh": "mac-roman",
}  # fmt: skip
"""Names that the Encoding Standard reads otherwise than Python."""

_CHARSET: Final = re.compile(
    r"utf-?8|utf-16-?(?:le|be)?|windows-\d{3,4}|cp\d{3,4}|iso-?8859-\d{1,2}|koi8-[ru]|mac-\w+"
    r"|gb18030|big5hkscs|euc-jp|iso-2022-jp"
)


def is_html(content_type: str, body: bytes) -> bool:
    """Whether a browser shows it as a page; without a type, by how it begins."""
    media_type = media_type_of(content_type)
    return media_type in ("text/html", "application/xhtml+xml") or (not media_type and body.lstrip()[:1] == b"<")


def media_type_of(content_type: str) -> str:
    """The bare type of a Content-Type, "" if it is none.

    >>> media_type_of("Text/HTML; charset=utf-8")
    'text/html'
    """
    media_type = content_type.partition(";")[0].strip().lower()
    return media_type if re.fullmatch(r"[\w.+-]+/[\w.+-]+", media_type, re.ASCII) else ""


def decode_text(body: bytes, content_type: str) -> str:
    """A page's or a style sheet's text: by its byte order mark, its header, what it declares; else UTF-8 if it is that.

    >>> decode_text(b'<meta charset="iso-8859-1">\\xe9', "text/html")[-1]
    'é'
    """
    for mark, charset in _MARKS:
        if body.startswith(mark):
            return body[len(mark) :].decode(charset, "replace")
    header = re.search(r"charset\s*=\s*[\"']?([\w.:-]+)", content_type, re.I)
    charset = _codec(header[1]) if header else ""
    if not charset and (declared := _DECLARED.search(body, 0, 4096)):
        charset = _codec(declared[1].decode("latin-1"))
        charset = "utf-8" if charset.startswith("utf-16") else charset  # in which it could not have been read
    if charset:
        return body.decode(charset, "replace")
    try:
        return body.decode()
    except UnicodeDecodeError:
        return body.decode("cp1252", "replace")


def _codec(label: str) -> str:
    """Python's name for a character set of the web, "" if it is none."""
    charset = _LABELS.get(label.lower(), label.lower())
    try:
        return codecs.lookup(charset).name if _CHARSET.fullmatch(charset) else ""
    except LookupError:
        return ""
