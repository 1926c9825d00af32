"""What all benches share: arguments, statistics, a table for people and one JSON object for machines."""

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # the wire client of the tests


def arguments(text: str, **numbers: int) -> argparse.Namespace:
    """The bench's options: one for each number, and --json."""
    parser = argparse.ArgumentParser(description=text)
    for name, default in numbers.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default, help=f"default: {default}")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    return parser.parse_args()


def spread(samples: Sequence[float]) -> dict[str, float]:
    """Median, 99th percentile (the nearest rank) and number of samples."""
    ordered = sorted(samples)
    p99 = ordered[math.ceil(0.99 * len(ordered)) - 1]
    return {"median": round(statistics.median(ordered), 3), "p99": round(p99, 3), "n": len(ordered)}


def report(
    args: argparse.Namespace,
    unit: str,
    ours: Mapping[str, Any],
    peers: Mapping[str, Mapping[str, Any]],
    ratio: Mapping[str, float],
    **conditions: object,
) -> None:
    """Print the result. `ratio` names each comparison; `conditions` says what was held."""
    result = {
        "bench": Path(sys.argv[0]).stem,
        "unit": unit,
        "ours": dict(ours),
        "peers": {name: dict(values) for name, values in peers.items()},
        "ratio": {name: round(value, 3) for name, value in ratio.items()},
        "conditions": conditions,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": _commit(),
        "machine": _machine(),
    }
    if args.json:
        print(json.dumps(result))
        return
    print(f"{result['bench']} ({unit}), {result['date']}, {result['commit']}, {result['machine']}")
    print("  " + ", ".join(f"{name} {value}" for name, value in conditions.items()))
    for name, values in {"ours": ours, **peers}.items():
        print(f"  {name:<28}" + "  ".join(f"{key} {value}" for key, value in values.items()))
    for name, value in ratio.items():
        print(f"  ratio, {name:<20} {value:.3f}")


def _machine() -> str:
    linux = platform.release().split("-")[0]
    return f"{os.cpu_count()} cores, Linux {linux}, Python {platform.python_version()}"


def _commit() -> str:
    found = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return found.stdout.strip() or "unknown"
