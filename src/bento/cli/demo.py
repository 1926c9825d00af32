"""The demo: a function at a relay, over real Tor. `./scripts/demo` runs it."""

import argparse
import asyncio
import os
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

from bento.cli import guarded
from bento.client import Client, Invocation
from bento.errors import NetworkDown
from bento.testnet import Network

_SOURCE = Path(__file__).parents[3] / "examples" / "page.py"
_URL = "http://demo.test/"

_LATENCY_MS = 15
"""One way, between any two hops: a line across a continent. Without it a round trip would be too short to count."""

_ECHOES = 7


def main() -> int:
    """Run the demo; returns the exit status."""
    parser = argparse.ArgumentParser(prog="scripts/demo", description=__doc__)
    state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "bento" / "demo"
    parser.add_argument("--dir", type=Path, default=state, help=f"where it keeps its network and the page ({state})")
    args = parser.parse_args()
    return guarded(lambda: _run(args.dir.absolute()))


def _run(folder: Path) -> int:
    started_s = time.monotonic()
    network = Network(folder / "network", boxes=3, latency_ms=_LATENCY_MS)
    _say("Starting a private Tor network with three boxes. Its first start makes keys, and takes some 20 seconds.")
    network.start(lambda step: _progress(step, time.monotonic() - started_s))
    try:
        pids = [relay.pid for relay in network.status().relays if relay.pid] + [network.supervisor_pid]
        _say(f"Up after {time.monotonic() - started_s:.1f} s: {len(pids) - 1} tor relays.")
        with tempfile.TemporaryDirectory(prefix="bento-") as state:
            asyncio.run(_show(Client(state=state, net=network.directory), folder / "page"))
    finally:
        network.stop()
    _verify_gone(pids)
    _say(f"\nThe network is down, and no process of it is left. It took {time.monotonic() - started_s:.0f} s in all.")
    return 0


async def _show(client: Client, folder: Path) -> None:
    _say("\nThe boxes, from a list that their relays signed:")
    boxes = await client.boxes()
    for box in boxes:
        _say(f"  {box.fingerprint}  {box.nickname:<4} images {'+'.join(box.item.images)}  policy {box.item.policy}")
    _say(f"\nThe function, {_SOURCE.name}:\n")
    _say("".join(f"    {line}\n" for line in _SOURCE.read_text().splitlines()))
    fitting = [box for box in boxes if box.item.policy == "exit"]
    async with client.spawn(_SOURCE, box=random.choice(fitting).fingerprint) as function:  # noqa: S311
        _say("The circuit, which ends at the box's relay:")
        _say("    you > " + " > ".join(f"{hop.nickname} ({hop.address})" for hop in function.path) + " = box")
        started_s = time.perf_counter()
        async with function.invoke("page", _URL, has_input=False) as invocation:
            pages: dict[str, bytes] = await invocation.result()
        taken_s = time.perf_counter() - started_s
        async with function.invoke("echo") as invocation:
            round_trip_s = await _measure_round_trip(invocation)
    _save(pages, folder)
    _say(
        f"\nSpawned, loaded, invoked and answered in {taken_s * 1e3:.0f} ms, the page's {len(pages)} requests included."
    )
    _say(f"A round trip on an open stream of this circuit takes {round_trip_s * 1e3:.0f} ms:", end=" ")
    _say(f"{taken_s / round_trip_s:.1f} round trips for everything.")


async def _measure_round_trip(invocation: Invocation) -> float:
    """Seconds, the median of a few echoes."""
    samples = []
    for _ in range(_ECHOES):
        started_s = time.perf_counter()
        await invocation.send(b"x")
        await anext(invocation)
        samples.append(time.perf_counter() - started_s)
    await invocation.end_input()
    await invocation.result()
    return statistics.median(samples)


def _save(pages: dict[str, bytes], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    _say(f"\nWhat came back, and is saved in {folder}:")
    for address, body in pages.items():
        name = Path(urlsplit(address).path).name or "index.html"
        (folder / name).write_bytes(body)
        _say(f"  {len(body):>6} bytes  {address:<28} {name}")


def _verify_gone(pids: list[int]) -> None:
    """Raises: NetworkDown if a process of the network is still there."""
    left = [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    if left:
        raise NetworkDown(f"processes of the network are left: {left}", hint="please report it")


def _progress(step: str, after_s: float) -> None:
    if sys.stdout.isatty():
        _say(f"\r\033[K  {after_s:4.1f} s  {step}", end="")
    else:
        _say(f"  {after_s:4.1f} s  {step}")


def _say(text: str, end: str = "\n") -> None:
    print(text, end=end, flush=True)


if __name__ == "__main__":
    sys.exit(main())
