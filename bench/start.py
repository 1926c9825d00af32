"""Starts of a private network: the first, which makes keys, against later ones."""

import tempfile
import time

from report import arguments, report, spread

from bento.testnet import Network


def _start_s(directory: str, boxes: int) -> float:
    started_s = time.perf_counter()
    with Network(directory, boxes=boxes):
        return time.perf_counter() - started_s


def main() -> None:
    args = arguments(__doc__, boxes=3, starts=5)
    with tempfile.TemporaryDirectory(prefix="bento-bench-") as directory:
        first_s = _start_s(directory, args.boxes)
        later = spread([_start_s(directory, args.boxes) for _ in range(args.starts)])
    peers = {"first start": {"median": round(first_s, 2)}}
    report(args, "s", later, peers, {"later / first": later["median"] / first_s}, boxes=args.boxes)


if __name__ == "__main__":
    main()
