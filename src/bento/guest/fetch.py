"""A small HTTP client over connections that the box dials."""

import http.client
import socket
import ssl
import urllib.parse
from collections.abc import Callable
from dataclasses import dataclass, field

MAX_BODY_BYTES = 16 * 1024 * 1024
"""A large page with its pictures; what is larger should be streamed, not held in an instance's memory."""

_REDIRECTS = 10
"""Browsers stop at 20, curl's users set 10; a loop never ends."""

_CA_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"
_MOVED = (301, 302, 303, 307, 308)

Dial = Callable[[str, int], socket.socket]


@dataclass(frozen=True)
class Response:
    """What a server answered: `headers` by lower-case name, `url` after redirects."""

    status: int
    url: str
    headers: dict[str, str] = field(repr=False)
    body: bytes = field(repr=False)

    @property
    def text(self) -> str:
        """The body in the charset it names, else UTF-8; what does not decode is replaced."""
        charset = self.headers.get("content-type", "").rpartition("charset=")[2].strip("\"' ") or "utf-8"
        try:
            return self.body.decode(charset, "replace")
        except LookupError:
            return self.body.decode("utf-8", "replace")


def fetch_url(dial: Dial, url: str, *, timeout_s: float, max_bytes: int) -> Response:
    """GET a URL over `dial`. See `bento.guest.api.fetch`."""
    for _ in range(_REDIRECTS + 1):
        response = _get(dial, url, timeout_s, max_bytes)
        location = response.headers.get("location")
        if response.status not in _MOVED or not location:
            return response
        url = urllib.parse.urljoin(url, location)
    raise ValueError(f"more than {_REDIRECTS} redirects, the last to {url}")


def _get(dial: Dial, url: str, timeout_s: float, max_bytes: int) -> Response:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"not an http(s) URL: {url}")
    port = parts.port or (443 if parts.scheme == "https" else 80)
    connection = http.client.HTTPConnection(parts.hostname, port, timeout=timeout_s)
    # http.client dials only when it has no socket, and writes the Host header from what it was made with.
    connection.default_port = 443 if parts.scheme == "https" else 80
    connection.sock = _connect(dial, parts.hostname, port, parts.scheme == "https", timeout_s)
    try:
        target = urllib.parse.quote(parts.path or "/", safe="/%:=&~+!$,;'@()*[]")
        connection.request("GET", target + ("?" + parts.query if parts.query else ""), headers={"Accept": "*/*"})
        answer = connection.getresponse()
        body = answer.read(max_bytes + 1)
    finally:
        connection.close()
    if len(body) > max_bytes:
        raise ValueError(f"the body of {url} has more than {max_bytes} bytes")
    return Response(answer.status, url, {name.lower(): value for name, value in answer.getheaders()}, body)


def _connect(dial: Dial, host: str, port: int, is_tls: bool, timeout_s: float) -> socket.socket:
    connected = dial(host, port)
    connected.settimeout(timeout_s)
    if not is_tls:
        return connected
    try:
        return ssl.create_default_context(cafile=_CA_BUNDLE).wrap_socket(connected, server_hostname=host)
    except BaseException:
        connected.close()
        raise
