"""Fetch one resource as a browser would, within limits: redirects, cookies, encodings, and sites that mean harm."""

import ssl
import threading
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

import httpx

from bento.functions.browser.css import MAX_URL_CHARS
from bento.functions.browser.packet import MAX_ALL_BYTES, MIB
from bento.functions.browser.text import media_type_of

EACH_S: Final = 30
"""For one resource, and for the page itself: a browser's user has given up by then."""

SILENCE_S: Final = 10
"""Without a byte: a relay's own line answers in far less, and a server that says nothing for so long has stalled."""

MAX_REDIRECTS: Final = 20
"""Where browsers stop."""

MAX_TEXT_BYTES: Final = 8 * MIB
"""A page or a style sheet: its parsed tree takes ten times as much of the instance's memory."""

MAX_RESOURCE_BYTES: Final = 32 * MIB
"""One resource, decoded: beyond any picture made for a page."""

_STEP_BYTES: Final = 256 * 1024
"""Decoded at a time: what a compression bomb gets before it is judged."""

# Tor Browser's own words, the same for each of its users: a site that looks closer learns that this is Bento, but
# nothing of who it is. The TLS handshake and the encodings taken are Python's.
HEADERS: Final = {
    "User-Agent": "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:140.0) Gecko/20100101 Firefox/140.0",
    "Accept-Language": "en-US,en;q=0.5",
    "Accept-Encoding": "gzip, deflate",
}
_ACCEPT: Final = {
    "page": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8",
    "style": "text/css,*/*;q=0.1",
    "image": "image/avif,image/webp,image/png,image/svg+xml,image/*;q=0.8,*/*;q=0.5",
}


class TooLarge(Exception):
    """A limit of the browser's own was met."""


@dataclass(frozen=True, order=True)
class Wanted:
    """A resource to fetch: the most important first, then as the page names them."""

    importance: int
    number: int
    url: str
    kind: str
    depth: int = 0
    referrer: str = ""


@dataclass(frozen=True)
class Answer:
    """What a server answered; `cut` says why it is not whole, None if it is."""

    url: str
    status: int
    content_type: str
    body: bytes
    cut: Exception | None


@dataclass
class Budget:
    """What is left of MAX_ALL_BYTES, for all threads."""

    left_bytes: int = MAX_ALL_BYTES
    lock: threading.Lock = field(default_factory=threading.Lock)

    def take(self, size: int) -> bool:
        """Whether so much may still be kept."""
        with self.lock:
            self.left_bytes -= size
            return self.left_bytes >= 0


class _Https(httpx.BaseTransport):
    """Reads the machine's authorities when first needed: 50 ms that a page without https goes without."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._transport: httpx.HTTPTransport | None = None

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        with self._lock:
            if self._transport is None:
                # What httpx brings along knows no other authority than its own list.
                self._transport = httpx.HTTPTransport(verify=ssl.create_default_context())
        return self._transport.handle_request(request)

    def close(self) -> None:
        with self._lock:
            if self._transport is not None:
                self._transport.close()


def open_client() -> httpx.Client:
    """A client for one visit: its cookies and connections are nobody else's."""
    # Its context trusts nobody, should anything but http ever go by it.
    plain = httpx.HTTPTransport(verify=ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    mounts = {"https://": _Https()}
    return httpx.Client(headers=HEADERS, timeout=SILENCE_S, transport=plain, mounts=mounts, trust_env=False)


def fetch(client: httpx.Client, budget: Budget, wanted: Wanted) -> Answer:
    """GET a resource, redirects followed. Raises: httpx's errors, OSError, ValueError."""
    end_s = time.monotonic() + EACH_S
    request = client.build_request("GET", wanted.url, headers={"Accept": _ACCEPT.get(wanted.kind, "*/*")})
    for _ in range(MAX_REDIRECTS + 1):
        request.headers.pop("Referer", None)
        request.headers.update(referer(str(request.url), wanted.referrer))
        if len(str(request.url)) > MAX_URL_CHARS:
            raise ValueError(f"redirected to a URL of more than {MAX_URL_CHARS} characters")
        response = client.send(request, stream=True)
        try:
            if response.next_request is None:
                limit = MAX_TEXT_BYTES if wanted.kind in ("page", "style") else MAX_RESOURCE_BYTES
                return read(response, budget, limit, end_s)
            request = response.next_request
        finally:
            response.close()
    raise OSError(f"more than {MAX_REDIRECTS} redirects, the last to {request.url}")


def referer(url: str, referrer: str) -> dict[str, str]:
    """As browsers send it: whole to the same origin, the origin alone to others, nothing from https to http; and
    never a name and a password, or a fragment.

    >>> referer("http://a.test/x", "http://me:secret@a.test/y#z"), referer("http://b.test/", "http://me@a.test/y")
    ({'Referer': 'http://a.test/y'}, {'Referer': 'http://a.test/'})
    """
    to, origin = urlsplit(url), urlsplit(referrer)
    if not referrer or (origin.scheme, to.scheme) == ("https", "http"):
        return {}
    host, its_host = (parts.netloc.rpartition("@")[2] for parts in (origin, to))
    is_same = (to.scheme, its_host) == (origin.scheme, host)
    return {"Referer": origin._replace(netloc=host, fragment="").geturl() if is_same else f"{origin.scheme}://{host}/"}


def read(response: httpx.Response, budget: Budget, limit: int, end_s: float) -> Answer:
    """A response's body, decoded, up to the limits; nothing is read beyond them."""
    body = bytearray()
    cut: Exception | None = None
    try:
        for piece in inflated(response.iter_raw(), response.headers.get("content-encoding", "").lower()):
            if len(body) + len(piece) > limit:
                raise TooLarge(f"it has more than {limit} bytes")
            if not budget.take(len(piece)):
                raise TooLarge(f"the page and what it names have more than {MAX_ALL_BYTES} bytes")
            body += piece
            if time.monotonic() > end_s:
                raise TimeoutError(f"it was not whole after {EACH_S} s")
    except (httpx.HTTPError, OSError, EOFError, TooLarge, zlib.error) as error:
        cut = error
    return Answer(str(response.url), response.status_code, response.headers.get("content-type", ""), bytes(body), cut)


def inflated(pieces: Iterator[bytes], encoding: str) -> Iterator[bytes]:
    """Undo a Content-Encoding, at most _STEP_BYTES at a time. Raises: zlib.error; EOFError if it ends early."""
    if encoding in ("", "identity"):
        yield from pieces
        return
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise zlib.error(f"encoded as {encoding[:40]!r}, which was not asked for")
    decoder = None
    for piece in filter(None, pieces):
        if decoder is None:  # some servers leave zlib's header out of "deflate"
            is_bare = encoding == "deflate" and piece[0] & 15 != 8
            decoder = zlib.decompressobj(-15 if is_bare else 47)
        while piece and not decoder.eof:
            yield decoder.decompress(piece, _STEP_BYTES)
            piece = decoder.unconsumed_tail
        if decoder.eof:
            return
    if decoder is not None:
        raise EOFError("it ends within its compressed form")


def verify_use(answer: Answer, kind: str) -> None:
    """Check that a browser would use a resource for what it was fetched for. Raises: ValueError."""
    if answer.status >= 400:
        raise ValueError(f"the server answered {answer.status}")
    media_type = media_type_of(answer.content_type)
    if kind == "style" and media_type not in ("", "text/css"):
        raise ValueError(f"it is {media_type[:100]}, no style sheet")


def cause_of(error: BaseException) -> BaseException:
    """The OSError behind an error of httpx's, where there is one: it has the words of the box."""
    found: BaseException | None = error
    while found is not None and not isinstance(found, OSError):
        found = found.__cause__ or found.__context__
    return found or error


def reason_of(error: BaseException) -> str:
    """An error in words."""
    cause = cause_of(error)
    text = (cause.strerror if isinstance(cause, OSError) else None) or str(cause) or "no answer in time"
    text = text.encode(errors="replace").decode()  # it may quote what is no Unicode
    return f"denied: {text}" if isinstance(cause, PermissionError) else text
