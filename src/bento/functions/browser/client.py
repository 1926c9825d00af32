"""The client's half: spawn the browser at a box for one visit, take what it sends, and have one file made of it."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

import httpx

from bento.client import Client, Invocation
from bento.client.agent_messages import Hop
from bento.client.tasks import task_group
from bento.errors import BentoError, FunctionRaised, LimitReached, ProtocolError, Refused, UsageError
from bento.functions.browser.apart import rebuild_apart, rebuilder
from bento.functions.browser.bundle import browser_source
from bento.functions.browser.css import MAX_URL_CHARS
from bento.functions.browser.packet import HEADER, Failure, Problem, padded_size, read_header
from bento.functions.browser.padding import DEFAULT_PAD, parse_pad

Report = Callable[[int, int], None]
"""Is told how many bytes have come, of how many."""

_URL_HINT: Final = "write it out, such as https://example.org/"
_PARTIAL_HINT: Final = "--partial takes it as far as it came"


@dataclass(frozen=True)
class Page:
    """A page as it was found: one file that needs nothing else.

    `url` is where it was found, after redirects; `status` what its server answered. `content` is HTML in UTF-8, or
    for what is neither page, text nor picture the document itself; `media_type` says which. `failures` are what the
    page names and is not in it.
    """

    url: str
    status: int
    media_type: str
    content: bytes
    resources: int
    failures: tuple[Failure, ...]
    sent_bytes: int
    seconds: float
    path: tuple[Hop, ...]


@dataclass(frozen=True)
class Denial:
    """A rule of the box, or of its relay, that a visit broke."""

    text: str


async def browse(
    client: Client,
    url: str,
    *,
    box: str | None = None,
    pad: str = DEFAULT_PAD,
    scripts: bool = False,
    partial: bool = False,
    report: Report = lambda received, expected: None,
) -> Page:
    """Load a page at a box, with what it names, and rebuild it as one file that makes no request.

    HTTPS ends at the box: outside a conclave its operator can read and alter the page.

    Args:
        box: the fingerprint of the only box to ask, as for `Client.spawn`.
        pad: how the page's size is hidden: `none`, a size (multiples of it), or `buckets:SIZE,SIZE,...`.
        scripts: keep the page's scripts; with them it may make requests.
        partial: take a page, or what it names, that was cut short as far as it came.
    Raises: UsageError for what is no http(s) URL; Refused where a policy denies the page; FunctionRaised with the
        reason why it could not be had; LimitReached; ProtocolError where the box sent no page; Unreachable.
    """
    egress = destinations(url)
    buckets = parse_pad(pad)
    started_s = time.monotonic()
    async with (
        rebuilder() as process,
        task_group() as tasks,
        client.spawn(browser_source(egress), box=box) as function,
    ):
        async with function.invoke("browse", url, list(buckets), scripts, partial, has_input=False) as invocation:
            data = await _receive(invocation, buckets, report)
        path = function.path
        # While the box is told that it is over.
        rebuilding = tasks.create_task(rebuild_apart(process, data, scripts=scripts))
    rebuilt = rebuilding.result()
    if rebuilt.problem:
        raise _error(url, rebuilt.problem)
    return Page(
        url=rebuilt.url,
        status=rebuilt.status,
        media_type=rebuilt.media_type,
        content=rebuilt.content,
        resources=rebuilt.resources,
        failures=rebuilt.failures,
        sent_bytes=len(data),
        seconds=time.monotonic() - started_s,
        path=path,
    )


def destinations(url: str) -> tuple[str, ...]:
    """Where a visit may connect to: the URL's own port, and the web's. From https it does not go on to plain http, as
    browsers do not; so boxes that open port 443 alone admit it.

    >>> destinations("http://example.org:8080/"), destinations("https://example.org/")
    (('*:80', '*:443', 'example.org:8080'), ('*:443',))

    Raises: UsageError if it is no http(s) URL.
    """
    try:
        parts = urlsplit(url)
        host, port = httpx.URL(url).raw_host.decode("ascii"), parts.port
    except (ValueError, httpx.InvalidURL) as error:
        raise UsageError(f"not a URL: {url[:200]!r}: {error}", hint=_URL_HINT) from None
    if parts.scheme.lower() not in ("http", "https") or not host:
        raise UsageError(f"not an http(s) URL: {url[:200]!r}", hint=_URL_HINT)
    if (size := len(url.encode())) > MAX_URL_CHARS:
        raise UsageError(f"the URL has {size} bytes, at most {MAX_URL_CHARS} are taken", hint=_URL_HINT)
    web = ("*:443",) if parts.scheme.lower() == "https" else ("*:80", "*:443")
    if port is None or f"*:{port}" in web:
        return web
    return (*web, f"[{host}]:{port}" if ":" in host else f"{host}:{port}")


async def _receive(invocation: Invocation, buckets: tuple[int, ...], report: Report) -> bytes:
    """The padded object, and not a byte more. Raises: ProtocolError if what comes is none."""
    data = bytearray()
    expected = 0
    async for chunk in invocation:
        data += chunk
        if not expected and len(data) >= HEADER.size:
            try:
                expected = padded_size(read_header(bytes(data[: HEADER.size])), buckets)
            except ValueError as error:
                raise _no_page(str(error)) from None
        if len(data) > (expected or HEADER.size):
            raise _no_page(f"more than the {expected} bytes that it claims")
        report(len(data), expected)
    if not expected or len(data) < expected:
        raise _no_page(f"it ends after {len(data)} bytes")
    return bytes(data)


def _no_page(reason: str) -> ProtocolError:
    return ProtocolError(f"what the box sent is no page: {reason}", hint="try another box with --box")


def _error(url: str, problem: Problem) -> BentoError:
    """What a problem at the box is to the caller. Its words are a stranger's: nothing of them moves a cursor."""
    text = f"{url}: " + "".join(letter if letter.isprintable() else "?" for letter in problem.message)
    if problem.kind == "denied":
        return Refused([Denial(text)], hint="another box may allow it; name it with --box")
    if problem.kind == "limit":
        return LimitReached("page_bytes", text, hint=_PARTIAL_HINT)
    error = FunctionRaised(problem.type if problem.type.isidentifier() else "Error", text)
    error.hint = _PARTIAL_HINT if problem.kind == "cut" else ""
    return error
