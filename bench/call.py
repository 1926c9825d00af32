"""Over a private network: a whole spawn, load, invoke and first output on a new stream of a ready circuit, against one
echo on an open stream of the same circuit."""

import asyncio
import tempfile
import time
from pathlib import Path

from report import arguments, report, spread

from bento.client import Client
from bento.testnet import Network

_SOURCE = b"""
def hello(name):
    api.send(f"hello {name}")

def echo():
    while data := api.recv():
        api.send(data)
"""
_ECHOES = 3


async def _sample(client: Client, box: str) -> tuple[float, list[float]]:
    """ms of one whole call on a fresh circuit, and of echoes on it."""
    async with client.spawn(_SOURCE, box=box) as function:
        started_s = time.perf_counter()
        async with function.invoke("hello", "world", has_input=False) as invocation:
            await anext(invocation)
            call_ms = (time.perf_counter() - started_s) * 1e3
            await invocation.result()
        echoes = []
        async with function.invoke("echo") as invocation:
            for _ in range(_ECHOES + 1):
                started_s = time.perf_counter()
                await invocation.send(b"x")
                await anext(invocation)
                echoes.append((time.perf_counter() - started_s) * 1e3)
            await invocation.end_input()
            await invocation.result()
    return call_ms, echoes[1:]  # the first still waits for the stream to open


async def _measure(folder: Path, samples: int) -> tuple[list[float], list[float]]:
    calls, echoes = [], []
    async with Client(state=folder / "state", net=folder / "net") as client:
        box = next(box.fingerprint for box in await client.boxes() if box.is_open)
        await _sample(client, box)  # starts the agent
        for _ in range(samples):
            call_ms, more = await _sample(client, box)
            calls.append(call_ms)
            echoes += more
    return calls, echoes


def main() -> None:
    args = arguments(__doc__, samples=30, latency_ms=25)
    with tempfile.TemporaryDirectory(prefix="bento-bench-") as name:
        folder = Path(name)
        with Network(folder / "net", boxes=1, latency_ms=args.latency_ms):
            calls, echoes = asyncio.run(_measure(folder, args.samples))
    ours, echo = spread(calls), spread(echoes)
    report(
        args,
        "ms",
        ours,
        {"echo, open stream": echo},
        {"ours / echo": ours["median"] / echo["median"]},
        latency_ms_one_way=args.latency_ms,
        hops=3,
    )


if __name__ == "__main__":
    main()
