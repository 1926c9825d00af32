"""The object that comes back, its padding, and objects of boxes that lie."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from bento.errors import LimitReached, ProtocolError, UsageError
from bento.functions.browser import apart, client
from bento.functions.browser.apart import rebuild_apart, rebuilder
from bento.functions.browser.packet import (
    DEFAULT_BUCKETS,
    HEADER,
    MAGIC,
    MAX_OBJECT_BYTES,
    Failure,
    Fetched,
    Part,
    Problem,
    pack,
    padded,
    padded_size,
    read_header,
    unpack,
)
from bento.functions.browser.padding import DEFAULT_PAD, parse_pad

PAGE = Part("http://a.test/", "http://a.test/", "text/html", b"<p>text")
FETCHED = Fetched(200, (PAGE,), (Failure("http://a.test/x", "why"),))


def framed(compressed: bytes, **lies: Any) -> bytes:
    fields = {"magic": MAGIC, "length": len(compressed), "digest": hashlib.sha256(compressed).digest()} | lies
    return HEADER.pack(*fields.values()) + compressed


def compressed(value: object) -> bytes:
    return zstandard.compress(msgspec.msgpack.encode(value))


def test_unpacking_undoes_packing_whatever_the_padding() -> None:
    assert unpack(b"".join(padded(pack(FETCHED), (1000,)))) == FETCHED


@given(st.integers(1, 2**30), st.lists(st.integers(1, 2**26), max_size=5, unique=True))
def test_an_object_has_the_size_of_a_bucket_or_a_multiple_of_the_last(size: int, sizes: list[int]) -> None:
    buckets = tuple(sorted(sizes))
    found = padded_size(size, buckets)
    assert found >= size
    assert found == size if not buckets else found in buckets or found % buckets[-1] == 0


def test_an_error_has_the_size_of_a_small_page() -> None:
    problem = Fetched(problem=Problem("failed", "E", "x" * 1024))
    sizes = {sum(map(len, padded(pack(each), DEFAULT_BUCKETS))) for each in (problem, FETCHED)}
    assert sizes == {DEFAULT_BUCKETS[0]}


def test_padding_is_random() -> None:
    data = b"".join(padded(b"x", (4096,)))
    assert len(zstandard.compress(data)) > 4000


@pytest.mark.parametrize(
    ("scheme", "buckets"),
    [
        ("none", ()),
        ("7MB", (7_000_000,)),
        ("1mib", (2**20,)),
        ("4096", (4096,)),
        ("buckets:64KB", (64_000,)),
        ("buckets:1KiB,2KiB", (1024, 2048)),
        (DEFAULT_PAD, DEFAULT_BUCKETS),
    ],
)
def test_schemes_have_names(scheme: str, buckets: tuple[int, ...]) -> None:
    assert parse_pad(scheme) == buckets


@pytest.mark.parametrize(
    "scheme",
    [
        *"0 x -1 1GB 1MB,2MB buckets: buckets:2MB,1MB buckets:1,1 pots:1MB 1e6 ²MB".split(),
        *("", "1 MB", "buckets:" + ",".join(map(str, range(1, 100))), str(MAX_OBJECT_BYTES + 1)),
    ],
)
def test_what_is_no_scheme_is_refused(scheme: str) -> None:
    with pytest.raises(UsageError):
        parse_pad(scheme)


@pytest.mark.parametrize(
    "data",
    [
        framed(compressed(FETCHED), magic=b"bentopg\x02"),
        framed(b"", length=MAX_OBJECT_BYTES + 1),
        bytes(HEADER.size),
    ],
)
def test_a_header_that_lies_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"claims|begin"):
        read_header(data)


@pytest.mark.parametrize(
    "data",
    [
        framed(compressed(FETCHED), digest=bytes(32)),
        framed(b"no zstd"),
        framed(compressed(FETCHED)[:-5]),
        framed(compressed({"status": "200"})),
        framed(compressed([1, 2])),
        framed(compressed({"parts": [{"url": "x", "base": "x", "content_type": "x" * 2000, "body": b""}]})),
        framed(compressed({"parts": [msgspec.to_builtins(PAGE) | {"body": 1}]})),
        framed(compressed({"problem": {"kind": "x", "type": "", "message": ""}})),
        framed(compressed({"parts": [msgspec.to_builtins(PAGE)] * 600})),
        framed(zstandard.compress(bytes(2 * MAX_OBJECT_BYTES))),
        framed(zstandard.ZstdCompressor(compression_params=zstandard.ZstdCompressionParameters(window_log=27)).compress(
            bytes(2**27 + 1)
        )),
        framed(b"\x91" * 10_000),
    ],
)  # fmt: skip
def test_an_object_that_lies_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        unpack(data)


class Sent:
    """An invocation, as far as `client` reads one."""

    def __init__(self, *chunks: bytes) -> None:
        self.chunks = chunks

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self.chunks:
            yield chunk


def receive(*chunks: bytes) -> bytes:
    return asyncio.run(client._receive(Sent(*chunks), (4096,), lambda received, expected: None))  # type: ignore[arg-type]


def test_an_object_is_taken_in_any_pieces() -> None:
    data = b"".join(padded(pack(FETCHED), (4096,)))
    assert receive(*(data[at : at + 1] for at in range(len(data)))) == data
    assert receive(data) == data


@pytest.mark.parametrize(
    "chunks",
    [
        (),
        (b"short",),
        (b"junk" * 100,),
        (pack(FETCHED),),
        (*padded(pack(FETCHED), (4096,)), b"x"),
        (*padded(pack(FETCHED), (8192,)),),
    ],
)
def test_what_is_not_of_the_size_that_was_asked_for_is_refused(chunks: tuple[bytes, ...]) -> None:
    with pytest.raises(ProtocolError, match="what the box sent is no page"):
        receive(*chunks)


def test_a_box_that_never_ends_is_not_read_on() -> None:
    class Endless(Sent):
        taken = 0

        async def __aiter__(self) -> AsyncIterator[bytes]:
            yield pack(FETCHED)
            while True:
                self.taken += 1
                yield bytes(1024)

    endless = Endless()
    with pytest.raises(ProtocolError):
        asyncio.run(client._receive(endless, (4096,), lambda received, expected: None))  # type: ignore[arg-type]
    assert endless.taken < 6


def rebuilt(data: bytes) -> apart.Rebuilt:
    async def run() -> apart.Rebuilt:
        async with rebuilder() as process:
            return await rebuild_apart(process, data, scripts=False)

    return asyncio.run(run())


def test_a_page_is_rebuilt_apart() -> None:
    found = rebuilt(pack(FETCHED))
    assert (found.url, found.status, found.media_type, found.failures) == (
        "http://a.test/",
        200,
        "text/html",
        FETCHED.failures,
    )
    assert b"<p>text" in found.content


def test_why_there_is_no_page_comes_through() -> None:
    assert (rebuilt(pack(Fetched(problem=Problem("failed", "E", "m"))))).problem == Problem("failed", "E", "m")


@pytest.mark.parametrize("data", [pack(Fetched()), framed(b"no zstd")])
def test_an_object_that_lies_is_a_protocol_error(data: bytes) -> None:
    with pytest.raises(ProtocolError, match="what the box sent is no page"):
        rebuilt(data)


def test_a_small_object_does_not_become_a_huge_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apart, "MAX_CONTENT_BYTES", 4096)
    page = Part("http://a.test/", "http://a.test/", "text/plain", b"&" * 1000)
    answer = apart.answer(b"\0" + pack(Fetched(200, (page,))))
    assert (answer.content, "at most 4096" in answer.fault) == (b"", True)


def test_a_page_made_to_fill_memory_ends_the_process_that_rebuilds_it_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(apart, "MEMORY_BYTES", 512 * 2**20)
    formats = "".join(f"<b class=c{n}>" for n in range(2000))
    body = f"<p>{formats}{'</p><p>x' * 200_000}".encode()
    page = Part("http://a.test/", "http://a.test/", "text/html", body)
    with pytest.raises(LimitReached, match="to rebuild"):
        rebuilt(pack(Fetched(200, (page,))))
