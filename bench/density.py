"""What an instance costs in memory after it ran hello once and has no session: as its memory cgroup charges it, else
its proportional share (PSS); with so many at once."""

import shutil
import statistics
import subprocess
import time
from pathlib import Path

from report import arguments, report

from tests.lone_box import make_box
from tests.wire import RemoteFunction

_SOURCE = b"def hello(name):\n    api.send(f'hello {name}')\n"
_UID_BASE = 1_700_000_000
_V1, _V2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
_PYTHON = ["/usr/bin/python3", "-I", "-S", "-c", "print('hello', flush=True); input()"]


def _pids(slots: int) -> list[int]:
    """The processes that run under the uids of this box's instances."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            owner = folder.stat().st_uid
            status = (folder / "status").read_text()
        except OSError:
            continue
        uid = int(status.partition("Uid:\t")[2].split()[0])
        if _UID_BASE <= max(owner, uid) < _UID_BASE + slots:
            found.append(int(folder.name))
    return found


def _memory_bytes(pid: int) -> tuple[str, int]:
    for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            return "cgroup v1", int((_V1 / path.lstrip("/") / "memory.usage_in_bytes").read_text())
        if not controllers and (_V2 / path.lstrip("/") / "memory.current").exists():
            return "cgroup v2", int((_V2 / path.lstrip("/") / "memory.current").read_text())
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return "PSS", int(rollup.partition("\nPss:")[2].split()[0]) * 1024


def _plain_mb() -> float:
    """PSS of a plain interpreter that said hello."""
    with subprocess.Popen(_PYTHON, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text()
        process.kill()
    return int(rollup.partition("\nPss:")[2].split()[0]) / 1024


def main() -> None:
    args = arguments(__doc__, instances=500)
    pool = 8
    box = make_box(policy=f"instances = {args.instances}", more=f"uid_base = {_UID_BASE}\npool = {pool}")
    box.start()
    try:
        for _ in range(args.instances):
            RemoteFunction(box.address, _SOURCE, lease_s=900).start("hello", "world").value()
        time.sleep(2)  # sessions end, the pool fills up
        measured = [_memory_bytes(pid) for pid in _pids(args.instances + pool)]
    finally:
        box.stop()
        shutil.rmtree(box.folder)
    used_mb = [size / 2**20 for _, size in measured]
    median_mb, total_mb = statistics.median(used_mb), sum(used_mb)
    ours = {"median": round(median_mb, 2), "max": round(max(used_mb), 2), "total": round(total_mb), "n": len(used_mb)}
    kind = measured[0][0]
    plain_mb = _plain_mb()
    peers = {"python3 -I -S": {"median": round(plain_mb, 2)}}
    report(args, "MiB", ours, peers, {"ours / python3": median_mb / plain_mb}, at_once=args.instances, measured_by=kind)


if __name__ == "__main__":
    main()
