"""Over a private network: bytes from a function to its client, against a plain server over the same kind of circuit."""

import asyncio
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from report import arguments, report, spread

from bento.client import Client
from bento.testnet import Network

_PIECE_BYTES = 65536
_SOURCE = b"""# /// bento
# cpu_s = 600
# ///
def pour(pieces):
    piece = bytes(65536)
    for _ in range(pieces):
        api.send(piece)
"""
_SERVER = """
import socket, sys
address, pieces = sys.argv[1], int(sys.argv[2])
with socket.create_server((address, 80)) as server:
    print("ready", flush=True)
    while True:
        connection, _ = server.accept()
        with connection:
            connection.recv(1)
            for _ in range(pieces):
                connection.sendall(bytes(65536))
"""
_SERVER_ADDRESS = "46.200.1.1"


async def _ours_mb_s(client: Client, box: str, pieces: int) -> float:
    async with client.spawn(_SOURCE, box=box) as function:
        await function.load()
        started_s, size = time.perf_counter(), 0
        async with function.invoke("pour", pieces, has_input=False) as invocation:
            async for chunk in invocation:
                size += len(chunk)
        assert size == pieces * _PIECE_BYTES
        return size / (time.perf_counter() - started_s) / 1e6


def _plain_mb_s(socks: str, pieces: int, number: int) -> float:
    """Over a circuit of its own: another user name, another circuit."""
    with socket.socket(socket.AF_UNIX) as stream:
        stream.connect(socks)
        name = f"plain{number}".encode()
        stream.sendall(b"\x05\x01\x02")
        assert stream.recv(2) == b"\x05\x02"
        stream.sendall(b"\x01" + bytes([len(name)]) + name + b"\x01x")
        assert stream.recv(2) == b"\x01\x00"
        stream.sendall(b"\x05\x01\x00\x01" + socket.inet_aton(_SERVER_ADDRESS) + (80).to_bytes(2, "big"))
        assert stream.recv(10)[1] == 0
        started_s, size = time.perf_counter(), 0
        stream.sendall(b"x")
        while size < pieces * _PIECE_BYTES:
            size += len(stream.recv(_PIECE_BYTES))
        return size / (time.perf_counter() - started_s) / 1e6


async def _measure(folder: Path, network: Network, pieces: int, rounds: int) -> tuple[list[float], list[float]]:
    ours, plain = [], []
    client_status = network.status().client
    assert client_status is not None
    async with Client(state=folder / "state", net=folder / "net") as client:
        box = next(box.fingerprint for box in await client.boxes() if box.is_open)
        for number in range(rounds):
            ours.append(await _ours_mb_s(client, box, pieces))
            plain.append(await asyncio.to_thread(_plain_mb_s, client_status.socks, pieces, number))
    return ours, plain


def main() -> None:
    args = arguments(__doc__, megabytes=50, rounds=5)
    pieces = args.megabytes * 10**6 // _PIECE_BYTES
    with tempfile.TemporaryDirectory(prefix="bento-bench-") as name:
        folder = Path(name)
        with Network(folder / "net", boxes=1) as network:
            network.exec(["ip", "address", "add", f"{_SERVER_ADDRESS}/32", "dev", "lo"], check=True)
            command = network.command([sys.executable, "-c", _SERVER, _SERVER_ADDRESS, str(pieces)])
            with subprocess.Popen(command, stdout=subprocess.PIPE) as server:
                assert server.stdout is not None
                server.stdout.readline()
                ours, plain = asyncio.run(_measure(folder, network, pieces, args.rounds))
                server.kill()
    mine, peer = spread(ours), spread(plain)
    ratio = {"ours / plain server": mine["median"] / peer["median"]}
    report(args, "MB/s", mine, {"plain server": peer}, ratio, megabytes=args.megabytes, hops=3, interleaved=True)


if __name__ == "__main__":
    main()
