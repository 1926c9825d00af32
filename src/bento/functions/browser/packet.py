"""The one object that comes back from a box: what was fetched, compressed, framed and padded."""

import hashlib
import os
import struct
from collections.abc import Iterator
from typing import Annotated, Final, Literal

import msgspec
import zstandard

from bento.functions.browser.css import MAX_URL_CHARS

MIB: Final = 2**20

MAX_ALL_BYTES: Final = 64 * MIB
"""Everything that is fetched for a page, decoded. A page of 25 MB of pictures is heavy; this, its encoding and its
compressed form are what the instance's memory holds at once."""

MAX_RESOURCES: Final = 512
"""Fetched for one page: common pages name some 70, and a shop's front page a few hundred."""

MAX_NAMED: Final = 10_000
"""References looked at, and told of if they are left out; a page names as many only to fill memory."""

MAX_OBJECT_BYTES: Final = 2 * MAX_ALL_BYTES
"""Decompressed: everything fetched, and at the worst as much of names, also of what was not fetched."""

DEFAULT_BUCKETS: Final = (512 * 1024, 2 * MIB, 8 * MIB, 32 * MIB)
"""Few, so that an observer learns two bits; the README has the numbers."""

MAGIC: Final = b"bentopg\x01"
HEADER: Final = struct.Struct(">8sQ32s")
"""Magic and version, the compressed length, its SHA-256; then that, then random bytes."""

_LEVEL: Final = 9
"""Of zstd: 5 ms for a median page; 19 takes a hundred times as long for 1% less."""

_WINDOW_BYTES: Final = 8 * MIB
"""The largest that level 9 makes."""

_PIECE_BYTES: Final = MIB

Url = Annotated[str, msgspec.Meta(max_length=MAX_URL_CHARS)]
Text = Annotated[str, msgspec.Meta(max_length=1024)]


class Part(msgspec.Struct, frozen=True):
    """A resource: `url` as the page names it, `base` where it was found after redirects."""

    url: Url
    base: Url
    content_type: Text
    body: bytes


class Failure(msgspec.Struct, frozen=True):
    """A resource that is not there, or not whole, and why."""

    url: Url
    reason: Text


class Problem(msgspec.Struct, frozen=True):
    """Why there is no page: the policy denied it, a limit was met, it ended early, or it could not be had."""

    kind: Literal["denied", "limit", "cut", "failed"]
    type: Text
    message: Text


class Fetched(msgspec.Struct, frozen=True):
    """The whole visit. The first part is the page; there is none where there was a problem."""

    status: int = 0
    parts: Annotated[tuple[Part, ...], msgspec.Meta(max_length=MAX_RESOURCES + 1)] = ()
    failures: Annotated[tuple[Failure, ...], msgspec.Meta(max_length=2 * MAX_NAMED)] = ()
    problem: Problem | None = None


def pack(fetched: Fetched) -> bytes:
    """The object, without its padding."""
    encoded = msgspec.msgpack.encode(fetched)
    compressed = zstandard.ZstdCompressor(level=_LEVEL).compress(encoded)
    return HEADER.pack(MAGIC, len(compressed), hashlib.sha256(compressed).digest()) + compressed


def padded(data: bytes, buckets: tuple[int, ...]) -> Iterator[bytes]:
    """`data`, and random bytes behind it up to its bucket."""
    for start in range(0, len(data), _PIECE_BYTES):
        yield data[start : start + _PIECE_BYTES]
    left = padded_size(len(data), buckets) - len(data)
    while left > 0:
        yield os.urandom(min(left, _PIECE_BYTES))
        left -= _PIECE_BYTES


def padded_size(size: int, buckets: tuple[int, ...]) -> int:
    """The least bucket that holds `size`; beyond the last, the next multiple of it.

    >>> padded_size(5, (8, 32)), padded_size(33, (8, 32)), padded_size(5, ())
    (8, 64, 5)
    """
    if not buckets:
        return size
    return next((bucket for bucket in buckets if bucket >= size), -(-size // buckets[-1]) * buckets[-1])


def unpack(data: bytes) -> Fetched:
    """The visit in an object whose header is judged. Raises: ValueError if it is none; whoever sent it may lie."""
    _, length, digest = HEADER.unpack_from(data)
    compressed = memoryview(data)[HEADER.size : HEADER.size + length]
    if hashlib.sha256(compressed).digest() != digest:
        raise ValueError("its digest does not fit")
    try:
        with zstandard.ZstdDecompressor(max_window_size=_WINDOW_BYTES).stream_reader(compressed) as reader:
            encoded = reader.read(MAX_OBJECT_BYTES + 1)
        if len(encoded) > MAX_OBJECT_BYTES:
            raise ValueError(f"it decompresses to more than {MAX_OBJECT_BYTES} bytes")
        return msgspec.msgpack.decode(encoded, type=Fetched)
    except (zstandard.ZstdError, msgspec.MsgspecError) as error:
        raise ValueError(f"what it holds is no page: {error}") from None


def read_header(data: bytes) -> int:
    """The size of an object without its padding, by its header. Raises: ValueError if it is none."""
    magic, length, _ = HEADER.unpack_from(data)
    if magic != MAGIC:
        raise ValueError("it does not begin as one")
    if length > MAX_OBJECT_BYTES:
        raise ValueError(f"it claims {length} bytes, at most {MAX_OBJECT_BYTES} are taken")
    return HEADER.size + int(length)
