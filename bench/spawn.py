"""At the box: from a whole flight (spawn, load, invoke) to the first byte of output, fully confined, against bwrap and
a plain interpreter doing the same."""

import shutil
import subprocess
import time

from report import arguments, report, spread

from tests.lone_box import make_box
from tests.wire import RemoteFunction

_SOURCE = b"def hello(name):\n    api.send(f'hello {name}')\n"
_PROGRAM = "import sys\ndef hello(name):\n    sys.stdout.write(f'hello {name}')\nhello('world')"
_PYTHON = ["/usr/bin/python3", "-I", "-S", "-c", _PROGRAM]
_BWRAP = [
    *("bwrap", "--unshare-all", "--cap-drop", "ALL", "--die-with-parent", "--new-session", "--clearenv"),
    *("--ro-bind", "/usr", "/usr", "--symlink", "usr/lib", "/lib", "--symlink", "usr/lib64", "/lib64"),
    *("--symlink", "usr/bin", "/bin", "--tmpfs", "/data", "--chdir", "/data", "--", *_PYTHON),
]


def _spawn_ms(address: tuple[str, int]) -> float:
    function = RemoteFunction(address, _SOURCE)
    call = function.start("hello", "world")
    started_s = call.sent_s
    call.read(1)
    taken_ms = (time.perf_counter() - started_s) * 1e3
    call.stream.close()
    function.stop()
    return taken_ms


def _program_ms(command: list[str]) -> float:
    started_s = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.read(1) == b"h"
        return (time.perf_counter() - started_s) * 1e3


def main() -> None:
    args = arguments(__doc__, spawns=400, rate=20, pool=8, peers=60)
    ours: list[float] = []
    peers: dict[str, list[float]] = {"bwrap": [], "python3": []}
    box = make_box(policy="instances = 64\n", more=f"pool = {args.pool}")
    box.start()
    try:
        next_s = time.monotonic()
        for number in range(args.spawns):
            next_s += 1 / args.rate
            time.sleep(max(0.0, next_s - time.monotonic()))
            ours.append(_spawn_ms(box.address))
            if number % (args.spawns // args.peers) == 0:
                peers["bwrap"].append(_program_ms(_BWRAP))
                peers["python3"].append(_program_ms(_PYTHON))
    finally:
        box.stop()
        shutil.rmtree(box.folder)
    figures = {name: spread(samples) for name, samples in peers.items()}
    mine = spread(ours)
    ratio = {f"{name} / ours": values["median"] / mine["median"] for name, values in figures.items()}
    report(args, "ms", mine, figures, ratio, pool_depth=args.pool, arrivals_per_s=args.rate)


if __name__ == "__main__":
    main()
