"""What a function calls: `api`, already bound in its module and importable.

    def shout():
        while line := api.recv():
            api.send(line.upper())

    def page(url):
        return api.fetch(url).body

`send`, `recv` and `poll` belong to the invocation that calls them. In a thread of the function's own they belong to
the invocation that runs, if there is just one.
"""

import contextvars
from collections.abc import Iterator
from contextlib import contextmanager

from bento.guest.fetch import MAX_BODY_BYTES, Response, fetch_url
from bento.guest.invocation import Invocation

__all__ = ["Response", "fetch", "poll", "recv", "send"]

_current: contextvars.ContextVar[Invocation] = contextvars.ContextVar("invocation")
_running: list[Invocation] = []


def send(data: bytes | str) -> None:
    """Send output to the client; str is encoded as UTF-8. Blocks while the client is too far behind."""
    _invocation().send(data.encode() if isinstance(data, str) else bytes(data))


def recv() -> bytes:
    """The client's input that has come, at least a byte; blocks for it. b"" at its end."""
    return _invocation().recv()


def poll(timeout_s: float = 0) -> bool:
    """Whether `recv` would not block, within so many seconds."""
    return _invocation().poll(timeout_s)


def fetch(url: str, *, timeout_s: float = 30, max_bytes: int = MAX_BODY_BYTES) -> Response:
    """Fetch an http(s) URL, following redirects. The connection leaves from the box, under its policy.

    Args:
        timeout_s: for each dial, and each wait for data.
        max_bytes: the largest body.
    Raises: PermissionError naming the rule, if the policy forbids it; ValueError for a URL that is not http(s) or a
        body over the limit; OSError as any connection does.
    """
    return fetch_url(url, timeout_s=timeout_s, max_bytes=max_bytes)


@contextmanager
def running(invocation: Invocation) -> Iterator[None]:
    """Make an invocation the current one of this thread and what it awaits."""
    token = _current.set(invocation)
    _running.append(invocation)
    try:
        yield
    finally:
        _running.remove(invocation)
        _current.reset(token)


def _invocation() -> Invocation:
    found = _current.get(None)
    if found is None and len(_running) == 1:
        found = _running[0]
    if found is None:
        raise RuntimeError("api is used outside an invocation, or in a thread while several run")
    return found
