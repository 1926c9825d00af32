"""What a box's processes are once they have started: whose, with which rights, and with which descriptors."""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bento.protocol.messages import Describe, Description
from tests.lone_box import LoneBox, make_box
from tests.wire import RemoteFunction, ask, running

ROOT = Path(__file__).parents[3]

NONE = "0000000000000000"
OPEN_MAX = 4 + 1
"""stdin, stdout, stderr and the channel; the control port's while the relay is asked."""


@pytest.fixture
def box(need: Callable[..., None]) -> Iterator[LoneBox]:
    need("namespaces", "seccomp")
    box = make_box("instances = 2\n")
    try:
        yield box
    finally:
        if box.process is not None:
            box.stop()
        shutil.rmtree(box.folder)


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def watcher_of(box: LoneBox) -> int:
    """The server's only child: the reaper is nobody's, and no tor was asked for."""
    found = Path(f"/proc/{box.process.pid}/task/{box.process.pid}/children").read_text().split()
    assert len(found) == 1
    return int(found[0])


def ids(value: str) -> set[str]:
    return set(value.split())


def wait_until(is_done: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not is_done():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.needs("root")
@pytest.mark.parametrize(("owner", "group"), [(0, 0), (65534, 65534), (5, 60)])
def test_server_and_watcher_have_no_right_of_roots_left(box: LoneBox, owner: int, group: int) -> None:
    (box.folder / "cookie").write_bytes(bytes(32))
    os.chown(box.folder / "cookie", owner, owner)
    box.start()
    wait_until(lambda: status_of(watcher_of(box))["NoNewPrivs"] == "1")
    for pid, uid, gid in ((box.process.pid, 64101, 64101), (watcher_of(box), owner, group)):
        status = status_of(pid)
        assert (ids(status["Uid"]), ids(status["Gid"]), status["Groups"]) == ({str(uid)}, {str(gid)}, "")
        assert {status[name] for name in ("CapPrm", "CapEff", "CapInh", "CapAmb")} == {NONE}
        assert status["NoNewPrivs"] == "1"


def test_the_watcher_keeps_only_its_channel_and_ends_with_the_server(box: LoneBox) -> None:
    (box.folder / "cookie").write_bytes(bytes(32))
    box.start()
    watcher = watcher_of(box)
    wait_until(lambda: status_of(watcher)["NoNewPrivs"] == "1")
    links = {entry.name: str(entry.readlink()) for entry in Path(f"/proc/{watcher}/fd").iterdir()}
    assert links["0"] == links["1"] == "/dev/null"
    assert len(links) <= OPEN_MAX
    os.kill(watcher, signal.SIGINT)
    assert Path(f"/proc/{watcher}").exists()
    box.kill_server()
    wait_until(lambda: not Path(f"/proc/{watcher}").exists())
    box.start()  # the one way to end the reaper that outlived its server


@pytest.mark.needs("root")
def test_a_box_runs_from_a_checkout_that_its_user_can_not_read(box: LoneBox, tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    checkout = tmp_path / "bento"
    checkout.mkdir()
    script = f"""mount --bind {ROOT} {checkout} && cd / &&
        PYTHONPATH={checkout}/src exec {checkout}/.venv/bin/python -m bento box run --config {box.config}"""
    box.start("unshare", "--mount", "sh", "-c", script)
    function = RemoteFunction(box.address, b"import requests\ndef where(): return requests.__file__")
    with running(function):
        assert function.start("where").value().startswith("/usr/lib/bento/")
    described = ask(box.address, Describe())
    assert isinstance(described, Description)
    assert "requests" in [package.name for package in described.packages["python"]]
    assert str(checkout) in Path(f"/proc/{box.process.pid}/cmdline").read_text()


@pytest.mark.parametrize("limit", [1024])
def test_a_low_limit_of_open_files_is_raised_or_refused(box: LoneBox, limit: int) -> None:
    words = ["sh", "-c", f'ulimit -n {limit}; exec "$@"', "sh", *box.command]
    refused = subprocess.run(words, capture_output=True, text=True, timeout=20)
    assert refused.returncode == 2
    assert f"open files at its busiest, the limit is {limit}" in refused.stderr
    assert "LimitNOFILE=" in refused.stderr
    assert not (box.folder / "state").exists()
    box.start()
    soft, hard = Path(f"/proc/{box.process.pid}/limits").read_text().partition("Max open files")[2].split()[:2]
    assert soft == hard
