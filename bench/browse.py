"""Over a private network: a page of 30 resources loaded by Browser at a box, padded as by default, against the same
code here with a stream of plain Tor for each of its connections. Both rebuild the page as one file. The circuit is
ready on both sides before the clock starts; Browser's spawn is in its time.

Functions have a quarter of an ordinary process's CPU shares: on a machine that is busy otherwise, the ratio tells that.
"""

import asyncio
import os
import random
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from report import arguments, report, spread

from bento.client import Client
from bento.functions.browser.bundle import browser_source
from bento.functions.browser.client import destinations
from bento.functions.browser.function import load
from bento.functions.browser.packet import DEFAULT_BUCKETS, Fetched, unpack
from bento.functions.browser.rebuild import rebuild
from bento.testnet import Network
from tests.network import dial

_URL = "http://bench.test/"
_RESOURCES = 30
_PICTURES = 22
_BACKGROUNDS = 4
_SEED = 7


def _make_site(folder: Path) -> None:
    """A page, three style sheets of which one is imported, pictures that page and sheets name, and a font."""
    rng = random.Random(_SEED)
    words = [f"word{number}" for number in range(2000)]
    text = " ".join(rng.choices(words, k=4000))
    rules = "\n".join(f".c{number} {{ margin: {rng.randrange(99)}px }}" for number in range(500))
    backgrounds = "\n".join(f".b{number} {{ background: url(b{number}.png) }}" for number in range(_BACKGROUNDS))
    pictures = "".join(f"<img src=p{number}.png>" for number in range(_PICTURES))
    (folder / "index.html").write_text(
        f"<!doctype html><link rel=stylesheet href=one.css><link rel=stylesheet href=two.css><p>{text}</p>{pictures}"
    )
    (folder / "one.css").write_text(f"@import 'three.css';\n{rules}")
    (folder / "two.css").write_text(f"{backgrounds}\n{rules}")
    (folder / "three.css").write_text("@font-face { font-family: f; src: url(f.woff2) } p { font-family: f }")
    names = [f"p{number}.png" for number in range(_PICTURES)] + [f"b{number}.png" for number in range(_BACKGROUNDS)]
    for name in [*names, "f.woff2"]:
        (folder / name).write_bytes(rng.randbytes(rng.randrange(2_000, 25_000)))


class _Stream(socket.socket):
    """A stream of tor's, on a unix socket; what is set of TCP has no meaning there."""

    def setsockopt(self, *_: Any) -> None:
        return


@contextmanager
def _through_tor(socks: str, user: str) -> Iterator[None]:
    """Every connection of this process as a stream on the circuit of `user`."""

    def connect(address: tuple[str, int], *_: Any, **__: Any) -> socket.socket:
        return _Stream(fileno=dial(socks, *address, user=user).detach())

    with mock.patch("socket.create_connection", connect):
        yield


def _verify(fetched: Fetched) -> int:
    """The bytes of a page that is all there."""
    assert len(fetched.parts) == 1 + _RESOURCES, fetched.failures
    return sum(len(part.body) for part in fetched.parts)


async def _at_a_box(client: Client, box: str, buckets: tuple[int, ...]) -> tuple[float, int]:
    """ms, and bytes sent. The same as `bento.functions.browser.client.browse`, but for the clock."""
    async with client.spawn(browser_source(destinations(_URL)), box=box) as function:
        started_s = time.perf_counter()
        async with function.invoke("browse", _URL, list(buckets), False, False, has_input=False) as invocation:
            data = b"".join([chunk async for chunk in invocation])
        fetched = unpack(data)
        rebuild(fetched, scripts=False)
        elapsed_ms = (time.perf_counter() - started_s) * 1e3
    _verify(fetched)
    return elapsed_ms, len(data)


def _through_plain_tor(socks: str, user: str) -> tuple[float, int]:
    """ms, and bytes of the page with all it names."""
    dial(socks, "bench.test", 80, user=user).close()  # its circuit is there from here on
    with _through_tor(socks, user):
        started_s = time.perf_counter()
        fetched = load(_URL, scripts=False, keep_cut=False)
        rebuild(fetched, scripts=False)
        elapsed_ms = (time.perf_counter() - started_s) * 1e3
    return elapsed_ms, _verify(fetched)


async def _measure(folder: Path, network: Network, samples: int) -> tuple[dict[str, list[float]], dict[str, int]]:
    """ms of each way, interleaved, and sizes."""
    times: dict[str, list[float]] = {"padded": [], "unpadded": [], "plain": []}
    sizes: dict[str, int] = {}
    status = network.status()
    assert status.client
    async with Client(state=folder / "state", net=network.directory) as client:
        box = next(box.fingerprint for box in await client.boxes() if box.is_open)
        await _at_a_box(client, box, ())  # starts the agent
        for number in range(samples):
            for name, buckets in {"padded": DEFAULT_BUCKETS, "unpadded": ()}.items():
                elapsed_ms, sizes[name] = await _at_a_box(client, box, buckets)
                times[name].append(elapsed_ms)
            user = f"sample{number}"
            elapsed_ms, sizes["plain"] = await asyncio.to_thread(_through_plain_tor, status.client.socks, user)
            times["plain"].append(elapsed_ms)
    return times, sizes


def main() -> None:
    args = arguments(__doc__, samples=20, latency_ms=25)
    with tempfile.TemporaryDirectory(prefix="bento-bench-") as name:
        folder = Path(name)
        (folder / "site").mkdir()
        _make_site(folder / "site")
        with Network(folder / "net", boxes=1, latency_ms=args.latency_ms) as network:
            network.site("bench.test", folder / "site")
            times, sizes = asyncio.run(_measure(folder, network, args.samples))
    ours, unpadded, plain = (spread(times[name]) for name in ("padded", "unpadded", "plain"))
    report(
        args,
        "ms",
        ours,
        {"same code, plain Tor": plain, "ours, no padding": unpadded},
        {"ours / plain Tor": ours["median"] / plain["median"]},
        latency_ms_one_way=args.latency_ms,
        hops=3,
        resources=_RESOURCES,
        page_bytes=sizes["plain"],
        sent_bytes=sizes["padded"],
        sent_bytes_unpadded=sizes["unpadded"],
        load=round(os.getloadavg()[0], 1),
    )


if __name__ == "__main__":
    main()
