"""Capabilities: what lets its holder invoke or end an instance.

Tokens are made by the client, and a box only ever sees hashes until they are used:

    t = invocation token          s = shutdown token
    route  = H("route", t)        shutdown = H("shutdown", s)
    invoke = H("invoke", t)

`Spawn` carries H("id", route) (the instance's id) and H("id", shutdown); `Load` carries H("id", invoke) to the loader.
To use an instance, a client shows `route` to the box, which can then find it but not invoke it, and `invoke` to the
loader. An operator who forwards can't invoke, and a hash that leaks opens nothing.

>>> token = InvocationToken(bytes(32))
>>> is_match(token.route, token.instance)
True
>>> is_match(token.invoke, token.instance)
False
"""

import hashlib
import hmac
from dataclasses import dataclass, field

from bento.config import TOKEN_BYTES
from bento.errors import BadToken

_PREFIX = b"bento/1/"


def _derive(purpose: str, secret: bytes) -> bytes:
    """32 bytes. The purpose and its NUL end keep hashes of different purposes apart."""
    return hashlib.sha256(_PREFIX + purpose.encode() + b"\0" + secret).digest()


def identify(key: bytes) -> bytes:
    """The public name (32 bytes) of a key that will be shown later."""
    return _derive("id", key)


def is_match(shown: bytes, expected: bytes) -> bool:
    """Whether a shown key is the one whose name was given, in constant time."""
    return hmac.compare_digest(identify(shown), expected)


@dataclass(frozen=True)
class InvocationToken:
    """Lets its holder invoke an instance; may be shared. `secret` is 32 random bytes."""

    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        _check(self.secret)

    @property
    def route(self) -> bytes:
        """Shown to the box, which then finds the instance and hands the connection over."""
        return _derive("route", self.secret)

    @property
    def invoke(self) -> bytes:
        """Shown to the loader, inside the sandbox."""
        return _derive("invoke", self.secret)

    @property
    def instance(self) -> bytes:
        """The instance's id: what `Spawn` carries."""
        return identify(self.route)


@dataclass(frozen=True)
class ShutdownToken:
    """Lets its holder end and renew an instance; kept by the one who spawned it."""

    secret: bytes = field(repr=False)

    def __post_init__(self) -> None:
        _check(self.secret)

    @property
    def shutdown(self) -> bytes:
        """Shown to the box."""
        return _derive("shutdown", self.secret)

    @property
    def name(self) -> bytes:
        """What `Spawn` carries."""
        return identify(self.shutdown)


def _check(secret: bytes) -> None:
    if len(secret) != TOKEN_BYTES:
        raise BadToken(f"a token has {TOKEN_BYTES} bytes, this one has {len(secret)}", hint="copy the whole token")
