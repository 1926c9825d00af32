"""A small HTTP client: the standard library's, with redirects and a limit."""

import http.client
import urllib.parse
from dataclasses import dataclass, field

MAX_BODY_BYTES = 16 * 1024 * 1024
"""A large page with its pictures; what is larger should be streamed, not held in an instance's memory."""

_REDIRECTS = 10
"""Browsers stop at 20, curl's users set 10; a loop never ends."""

_MOVED = (301, 302, 303, 307, 308)
_SCHEMES: dict[str, type[http.client.HTTPConnection]] = {
    "http": http.client.HTTPConnection,
    "https": http.client.HTTPSConnection,
}


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


def fetch_url(url: str, *, timeout_s: float, max_bytes: int) -> Response:
    """GET a URL. See `bento.guest.api.fetch`."""
    for _ in range(_REDIRECTS + 1):
        response = _get(url, timeout_s, max_bytes)
        location = response.headers.get("location")
        if response.status not in _MOVED or not location:
            return response
        url = urllib.parse.urljoin(url, location)
    raise ValueError(f"more than {_REDIRECTS} redirects, the last to {url}")


def _get(url: str, timeout_s: float, max_bytes: int) -> Response:
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in _SCHEMES or not parts.hostname:
        raise ValueError(f"not an http(s) URL: {url}")
    kind = _SCHEMES[parts.scheme]
    connection = kind(parts.hostname, parts.port or kind.default_port, timeout=timeout_s)
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
