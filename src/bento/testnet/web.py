"""The network's web server: any folder under any name in `.test`, on ports 80 and 443.

A name is a symbolic link in the network's `sites` folder, read at each request, so that `add_site` needs to tell
nobody. Certificates are made for each name when it is first asked for, under the network's own CA.
"""

import asyncio
import contextlib
import mimetypes
import re
import ssl
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

import trustme

from bento.errors import UsageError
from bento.testnet.layout import WEB_ADDRESSES

DEMO_NAME: Final = "demo.test"
DEMO_FOLDER: Final = Path(__file__).with_name("site")
WRONG_NAME: Final = "wrong.test"
"""Answers with the certificate of DEMO_NAME, so that one can see what refuses it."""

_NAME: Final = re.compile(r"(?=.{1,253}$)(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+test")
_MAX_HEAD_BYTES: Final = 64 * 1024
"""A browser's request line and headers stay under 16 KiB, with cookies."""
_IDLE_S: Final = 60
_PIECE_BYTES: Final = 256 * 1024
"""One write: large enough to keep a circuit busy, small enough to serve others in between."""

_ABOUT: Final = """<!doctype html><title>{name}</title>
<h1>{name}</h1><p>This is the web server of a private Tor network made by Bento. Nothing is served under this name yet:
<code>bento net site {name} FOLDER</code>.</p>
"""


@dataclass(frozen=True)
class Request:
    method: str
    host: str
    path: str
    keeps_open: bool


@dataclass(frozen=True)
class Page:
    """What is sent back: text made here, or a file."""

    status: HTTPStatus
    content_type: str = "text/plain; charset=utf-8"
    text: str = ""
    file: Path | None = None


def add_site(sites: Path, name: str, folder: Path) -> None:
    """Serve `folder` at http://`name`/ from now on. Raises: UsageError for a bad name or no folder."""
    name = name.lower()
    if not _NAME.fullmatch(name):
        raise UsageError(f"the name of a site ends in .test, this is {name!r}", hint="for example demo.test")
    if not folder.is_dir():
        raise UsageError(f"there is no folder {folder}")
    fresh = sites / f".{name}.new"
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(folder.resolve(), target_is_directory=True)
    fresh.rename(sites / name)


def parse_request(head: bytes) -> Request | None:
    """A request line and its headers up to the empty line; None if they are not HTTP/1."""
    lines = head.decode("latin-1").split("\r\n")
    words = lines[0].split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        return None
    headers = {}
    for line in lines[1:]:
        key, separator, value = line.partition(":")
        if separator:
            headers[key.strip().lower()] = value.strip()
    target = urlsplit(words[1])
    host = (target.netloc or headers.get("host", "")).partition(":")[0].lower()
    default = "keep-alive" if words[2] == "HTTP/1.1" else "close"
    has_body = headers.get("content-length", "0") != "0" or "transfer-encoding" in headers
    keeps_open = headers.get("connection", default).lower() == "keep-alive" and not has_body
    return Request(words[0], host, unquote(target.path), keeps_open)


def find_page(sites: Path, request: Request) -> Page:
    """What a request gets: a file of the site's folder, and of nothing beside it."""
    if request.method not in ("GET", "HEAD"):
        return Page(HTTPStatus.METHOD_NOT_ALLOWED, text="this server knows GET and HEAD\n")
    if not _NAME.fullmatch(request.host):
        return Page(HTTPStatus.NOT_FOUND, text="this server has names in .test only\n")
    site = sites / request.host
    if not site.is_symlink():
        return Page(HTTPStatus.OK, "text/html; charset=utf-8", _ABOUT.format(name=request.host))
    with contextlib.suppress(OSError, ValueError):
        folder = site.resolve(strict=True)
        file = (folder / request.path.lstrip("/")).resolve(strict=True)
        if file.is_dir():
            file = (file / "index.html").resolve(strict=True)
        if file.is_relative_to(folder) and file.is_file():
            return Page(HTTPStatus.OK, _content_type(file), file=file)
    return Page(HTTPStatus.NOT_FOUND, text="not found\n")


async def serve(sites: Path, authority: trustme.CA) -> contextlib.AsyncExitStack:
    """Listen on ports 80 and 443 of the network's web addresses; closing the stack ends it."""

    async def serve_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            while await _serve_one(sites, reader, writer):
                pass
        writer.close()

    listening = contextlib.AsyncExitStack()
    for port, context in ((80, None), (443, _tls(authority))):
        server = await asyncio.start_server(
            serve_connection, WEB_ADDRESSES, port, ssl=context, limit=_MAX_HEAD_BYTES, backlog=1024
        )
        await listening.enter_async_context(server)
    return listening


async def _serve_one(sites: Path, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
    """Answer one request; whether another may follow."""
    async with asyncio.timeout(_IDLE_S):
        head = await reader.readuntil(b"\r\n\r\n")
    request = parse_request(head)
    if request is None:
        await _send(writer, Request("GET", "", "/", False), Page(HTTPStatus.BAD_REQUEST, text="not HTTP/1\n"))
        return False
    await _send(writer, request, find_page(sites, request))
    return request.keeps_open


async def _send(writer: asyncio.StreamWriter, request: Request, page: Page) -> None:
    with contextlib.ExitStack() as opened:
        file = opened.enter_context(page.file.open("rb")) if page.file else None
        size = page.file.stat().st_size if page.file else len(page.text.encode())
        head = [
            f"HTTP/1.1 {page.status.value} {page.status.phrase}",
            f"Content-Type: {page.content_type}",
            f"Content-Length: {size}",
            f"Connection: {'keep-alive' if request.keeps_open else 'close'}",
        ]
        writer.write("\r\n".join([*head, "", ""]).encode())
        if request.method != "HEAD":
            writer.write(page.text.encode())
            while file and (piece := file.read(_PIECE_BYTES)):
                writer.write(piece)
                async with asyncio.timeout(_IDLE_S):
                    await writer.drain()
        await writer.drain()


def _content_type(file: Path) -> str:
    kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
    # A header would overrule what pages and style sheets say of themselves, and not all are written in UTF-8.
    return f"{kind}; charset=utf-8" if kind == "text/plain" else kind


def _tls(authority: trustme.CA) -> ssl.SSLContext:
    """A context that answers for every name in `.test` with a certificate of that name; but for WRONG_NAME."""
    contexts: dict[str, ssl.SSLContext] = {}

    def context_for(name: str) -> ssl.SSLContext:
        if name not in contexts:
            contexts[name] = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            authority.issue_cert(name).configure_cert(contexts[name])
        return contexts[name]

    def choose(connection: ssl.SSLObject | ssl.SSLSocket, name: str | None, _: ssl.SSLContext) -> int | None:
        if name is None or not _NAME.fullmatch(name.lower()):
            return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
        if name.lower() != WRONG_NAME:
            connection.context = context_for(name.lower())
        return None

    first = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(DEMO_NAME).configure_cert(first)
    first.sni_callback = choose
    return first
