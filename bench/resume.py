"""Over a private network: bytes from a function while its circuit is closed every second, against the same undisturbed.

Says how long each took, whether the bytes were the same, and how many the box had to send again: what its socket had
taken when a circuit was closed, less what came of it.
"""

import asyncio
import contextlib
import hashlib
import re
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from report import arguments, report, spread

from bento.client import Client, Invocation
from bento.client.stream import Stream
from bento.client.tasks import alongside
from bento.config import MIN_BUFFER_BYTES
from bento.testnet import Network
from tests.users import User

_PIECE_BYTES = 65536
_SOURCE = b"""# /// bento
# cpu_s = 600
# ///
import hashlib

def pour(pieces):
    digest = hashlib.sha256()
    for number in range(pieces):
        piece = number.to_bytes(4, "big") * 16384
        digest.update(piece)
        api.send(piece)
    return digest.hexdigest()
"""
_BREAK_S = 1.0


@dataclass
class Transfer:
    """One call from start to end; sizes in bytes of the wire."""

    seconds: float = 0.0
    is_same: bool = False
    again_bytes: list[int] = field(default_factory=list)


class _Meter:
    """Counts what comes on the newest stream."""

    def __init__(self) -> None:
        self.stream: Stream | None = None
        self.received_bytes = 0
        self._read = Stream.read

    def __enter__(self) -> "_Meter":
        meter, read = self, self._read

        async def counted(stream: Stream) -> bytes:
            data = await read(stream)
            if stream is not meter.stream:
                meter.stream, meter.received_bytes = stream, 0
            meter.received_bytes += len(data)
            return data

        Stream.read = counted  # type: ignore[method-assign, assignment]
        return self

    def __exit__(self, *error: object) -> None:
        Stream.read = self._read  # type: ignore[method-assign]


async def _drain(invocation: Invocation) -> bool:
    digest = hashlib.sha256()
    async for chunk in invocation:
        digest.update(chunk)
    return bool(await invocation.result() == digest.hexdigest())


async def _break(user: User, network: Network, box: str, port: int, meter: _Meter, into: Transfer) -> None:
    while True:
        await asyncio.sleep(_BREAK_S)
        sent = await asyncio.to_thread(_sent_bytes, network, port)
        received = meter.received_bytes
        if await asyncio.to_thread(user.break_circuits_to, box):
            into.again_bytes.append(max(0, sent - received))


def _sent_bytes(network: Network, port: int) -> int:
    """What the box's busiest connection has sent so far, by the kernel's count."""
    found = network.exec(["ss", "-tinH", f"sport = :{port}"], capture_output=True, text=True, check=True).stdout
    return max((int(text) for text in re.findall(r"bytes_sent:(\d+)", found)), default=0)


async def _transfer(user: User, network: Network, client: Client, pieces: int, meter: _Meter | None) -> Transfer:
    listed = next(box for box in await client.boxes() if box.is_open)
    found = Transfer()
    async with client.spawn(_SOURCE, box=listed.fingerprint) as function:
        await function.load()
        started_s = time.perf_counter()
        async with function.invoke("pour", pieces, has_input=False) as invocation:
            breaking = (
                alongside(_break(user, network, listed.fingerprint, listed.item.port, meter, found))
                if meter
                else contextlib.nullcontext()
            )
            async with breaking:
                found.is_same = await _drain(invocation)
        found.seconds = time.perf_counter() - started_s
    return found


async def _measure(folder: Path, network: Network, pieces: int, rounds: int) -> tuple[list[Transfer], list[Transfer]]:
    disturbed, undisturbed = [], []
    user = User(network, folder / "state")
    async with user.client() as client:
        with _Meter() as meter:
            for _ in range(rounds):
                disturbed.append(await _transfer(user, network, client, pieces, meter))
                undisturbed.append(await _transfer(user, network, client, pieces, None))
    return disturbed, undisturbed


def main() -> None:
    args = arguments(__doc__, megabytes=50, rounds=5)
    pieces = args.megabytes * 10**6 // _PIECE_BYTES
    with tempfile.TemporaryDirectory(prefix="bento-bench-") as name:
        folder = Path(name)
        with Network(folder / "net", boxes=1) as network:
            disturbed, undisturbed = asyncio.run(_measure(folder, network, pieces, args.rounds))
    ours, peer = (spread([transfer.seconds for transfer in each]) for each in (disturbed, undisturbed))
    again = [size for transfer in disturbed for size in transfer.again_bytes]
    report(
        args,
        "s",
        ours | {"breaks": len(again), "same": all(transfer.is_same for transfer in disturbed + undisturbed)},
        {"undisturbed": peer, "sent again after a break, bytes": spread(again) | {"most": max(again, default=0)}},
        {
            "disturbed / undisturbed": ours["median"] / peer["median"],
            "sent again / buffer": max(again, default=0) / MIN_BUFFER_BYTES,
        },
        megabytes=args.megabytes,
        break_every_s=_BREAK_S,
        buffer_bytes=MIN_BUFFER_BYTES,
        interleaved=True,
    )


if __name__ == "__main__":
    main()
