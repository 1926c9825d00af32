"""Over a private network: what a function's plain socket receives and how long its dials take, against the same code
beside the box, outside of any sandbox.

Functions have a quarter of an ordinary process's CPU shares: on a machine that is busy otherwise, the ratio tells that.
"""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from report import arguments, report, spread

from bento.client import Client
from bento.testnet import Network

_SOURCE = """# /// bento
# cpu_s = 600
# egress = ["46.200.1.1:80"]
# egress_bytes = 1_073_741_824
# ///
import socket
import time

def pull(megabytes):
    with socket.create_connection(("46.200.1.1", 80)) as stream:
        stream.sendall(b"p")
        size, started_s = 0, time.perf_counter()
        while size < megabytes * 10**6:
            size += len(stream.recv(65536))
        return size / (time.perf_counter() - started_s) / 1e6

def dial(times):
    taken_ms = []
    for _ in range(times):
        started_s = time.perf_counter()
        stream = socket.create_connection(("46.200.1.1", 80))
        taken_ms.append((time.perf_counter() - started_s) * 1e3)
        stream.close()
    return taken_ms
"""
_OUTSIDE = """
import json, sys
print(json.dumps([pull(int(sys.argv[1])), dial(int(sys.argv[2]))]))
"""
_SERVER = """
import socket, threading

def serve(connection):
    try:
        while connection.recv(1):
            while True:
                connection.sendall(bytes(2**18))
    except OSError:
        pass

with socket.create_server(("46.200.1.1", 80), backlog=128) as server:
    print("ready", flush=True)
    while True:
        threading.Thread(target=serve, args=server.accept()[:1], daemon=True).start()
"""
_DIALS = 50

Samples = tuple[list[float], list[float]]
"""MB/s of each round; milliseconds of each dial."""


def _outside(network: Network, megabytes: int) -> list[Any]:
    command = [sys.executable, "-c", _SOURCE + _OUTSIDE, str(megabytes), str(_DIALS)]
    found: list[Any] = json.loads(network.exec(command, capture_output=True, check=True).stdout)
    return found


async def _measure(folder: Path, network: Network, megabytes: int, rounds: int) -> tuple[Samples, Samples]:
    inside: Samples = ([], [])
    outside: Samples = ([], [])
    async with Client(state=folder / "state", net=folder / "net") as client:
        box = next(box.fingerprint for box in await client.boxes() if box.is_open)
        for _ in range(rounds):
            async with client.spawn(_SOURCE.encode(), box=box) as function:
                inside[0].append(await function.call("pull", megabytes))
                inside[1].extend(await function.call("dial", _DIALS))
            mb_s, taken_ms = await asyncio.to_thread(_outside, network, megabytes)
            outside[0].append(mb_s)
            outside[1].extend(taken_ms)
    return inside, outside


def main() -> None:
    args = arguments(__doc__, megabytes=1000, rounds=7)
    with tempfile.TemporaryDirectory(prefix="bento-bench-") as name:
        folder = Path(name)
        with Network(folder / "net", boxes=1) as network:
            network.exec(["ip", "address", "add", "46.200.1.1/32", "dev", "lo"], check=True)
            with subprocess.Popen(network.command([sys.executable, "-c", _SERVER]), stdout=subprocess.PIPE) as server:
                assert server.stdout is not None
                server.stdout.readline()
                inside, outside = asyncio.run(_measure(folder, network, args.megabytes, args.rounds))
                server.kill()
    ours, peer = spread(inside[0]), spread(outside[0])
    our_dial_ms, peer_dial_ms = spread(inside[1]), spread(outside[1])
    report(
        args,
        "MB/s",
        ours,
        {"outside the sandbox": peer},
        {"ours / outside": ours["median"] / peer["median"]},
        dial_ms=our_dial_ms,
        dial_outside_ms=peer_dial_ms,
        dial_more_ms=round(our_dial_ms["median"] - peer_dial_ms["median"], 3),
        megabytes=args.megabytes,
        interleaved=True,
        load=round(os.getloadavg()[0], 1),
    )


if __name__ == "__main__":
    main()
