"""How private networks begin and end: one cold start, from then on copies of what it left."""

import contextlib
import dataclasses
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bento.errors import NetworkDown, TorUnavailable, UsageError
from bento.testnet import Network, instance, keys
from bento.testnet.consensus import renewed
from tests.network import dial

pytestmark = pytest.mark.needs("tor", "namespaces")

GONE_LIMIT_S = 5


@pytest.fixture(scope="module")
def cold(need: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a network that was up once, and its first start's time in the file `took`."""
    need("tor", "namespaces")
    directory = tmp_path_factory.mktemp("cold")
    started = time.monotonic()
    with Network(directory):
        took_s = time.monotonic() - started
    (directory / "took").write_text(str(took_s))
    return directory


@pytest.fixture
def directory(cold: Path, tmp_path: Path) -> Path:
    """A directory to start from, warm."""
    return Path(shutil.copytree(cold, tmp_path / "net", symlinks=True))


@pytest.fixture(scope="module")
def up(cold: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    """A network for tests that leave it as they found it."""
    with Network(shutil.copytree(cold, tmp_path_factory.mktemp("up") / "net", symlinks=True)) as network:
        yield network


@dataclass(frozen=True)
class Traces:
    """What a network has on the host."""

    processes: frozenset[int]
    namespaces: frozenset[str]
    paths: frozenset[Path]

    def left(self) -> list[str]:
        """What of it is still there."""
        processes = [f"process {pid}" for pid in self.processes if Path(f"/proc/{pid}").exists()]
        namespaces = [f"namespace {name}" for name in self.namespaces & namespaces_in_use()]
        return processes + namespaces + [f"path {path}" for path in self.paths if path.exists()]


def namespaces_in_use() -> frozenset[str]:
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it may end meanwhile
            found |= {str(link.readlink()) for link in (process / "ns").iterdir()}
    return frozenset(found)


def traces_of(network: Network) -> Traces:
    """Everything of a network that is up: each kind must be there, or its absence later would say nothing."""
    found = instance.recorded(network.directory)
    assert found
    own = {str((Path("/proc/self/ns") / kind).readlink()) for kind in ("pid", "mnt", "net", "user")}
    supervisor = Path(f"/proc/{found.supervisor_pid}/ns")
    namespaces = {str((supervisor / kind).readlink()) for kind in ("pid", "mnt", "net", "user")} - own
    assert len(namespaces) == (3 if os.geteuid() == 0 else 4)
    processes = {found.janitor_pid}
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if str((process / "ns/pid").readlink()) in namespaces:
                processes.add(int(process.name))
    assert len(processes) > 8
    run = Path(found.run)
    groups = {Path(group) for group in found.cgroups}
    if os.geteuid() == 0:
        assert groups
        assert all((group / "net" / "cgroup.procs").read_text() for group in groups)
    sockets = {path for path in run.rglob("*") if path.is_socket()}
    assert len(sockets) > 8
    paths = {run, network.directory / "instance.json", *groups, *sockets}
    assert all(path.exists() for path in paths)
    return Traces(frozenset(processes), frozenset(namespaces), frozenset(paths))


def assert_gone(traces: Traces) -> None:
    end = time.monotonic() + GONE_LIMIT_S
    while left := traces.left():
        assert time.monotonic() < end, left
        time.sleep(0.05)


def mounts() -> str:
    return Path("/proc/self/mountinfo").read_text()


@contextlib.contextmanager
def busy(network: Network) -> Iterator[None]:
    """A program that ignores SIGTERM and a user's tor inside."""
    program = network.command(["sh", "-c", "trap '' TERM; echo up; while :; do sleep 9; done"])
    holder = socket.socket(socket.AF_UNIX)
    found = instance.recorded(network.directory)
    assert found
    with holder, subprocess.Popen(program, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"up\n"
        holder.connect(str(found.socket))
        holder.sendall(b'{"op": "agent_tor", "state": "/nowhere"}\n')
        assert "socks" in json.loads(holder.makefile().readline())
        yield
        process.kill()


def test_later_starts_keep_the_keys_and_are_faster_than_the_first(cold: Path, directory: Path) -> None:
    started = time.monotonic()
    with Network(directory) as network:
        took_s = time.monotonic() - started
        fingerprints = [relay.fingerprint for relay in network.status().relays]
    first = [
        (cold / relay / "fingerprint").read_text().split()[1] for relay in ("authority", "r0", "r1", "r2", "r3", "r4")
    ]
    assert fingerprints == first
    assert took_s < _first_start_s(cold)


def _first_start_s(cold: Path) -> float:
    """Seconds, in this run; bench/start.py measures them."""
    return float((cold / "took").read_text())


def test_a_network_that_stood_still_for_a_month_starts_as_any(cold: Path, directory: Path) -> None:
    key = keys.signing_key(directory / "authority")
    for path in directory.glob("*/cached-*consensus"):
        old = renewed(path.read_text(), key, now_s=time.time() - 30 * 24 * 3600)
        assert old
        path.write_text(old)
    started = time.monotonic()
    with Network(directory) as network:
        assert time.monotonic() - started < _first_start_s(cold)
        client = network.status().client
        assert client
        dial(client.socks, "demo.test", 80).close()


def test_nothing_is_left_after_down(directory: Path) -> None:
    before = mounts()
    network = Network(directory)
    network.start()
    traces = traces_of(network)
    resolver = Path(f"/proc/{network.supervisor_pid}/mountinfo").read_text()
    assert "resolv.conf" in resolver
    with busy(network):
        traces = traces_of(network)
        started = time.monotonic()
        assert network.stop()
        assert time.monotonic() - started <= GONE_LIMIT_S
        assert traces.left() == []
    assert mounts() == before
    assert not network.stop()


@pytest.mark.parametrize("victim", ["supervisor", "janitor"])
def test_nothing_is_left_after_a_kill(directory: Path, victim: str) -> None:
    before = mounts()
    network = Network(directory)
    network.start()
    with busy(network):
        traces = traces_of(network)
        found = instance.recorded(directory)
        assert found
        os.kill(found.supervisor_pid if victim == "supervisor" else found.janitor_pid, signal.SIGKILL)
        network.wait()
        network._let_go()
        assert_gone(traces)
    assert mounts() == before
    with pytest.raises(NetworkDown, match="no network is up"):
        network.status()


def test_what_both_left_when_killed_together_is_removed_by_the_next_start(directory: Path) -> None:
    network = Network(directory)
    network.start()
    traces = traces_of(network)
    found = instance.recorded(directory)
    assert found
    os.kill(found.janitor_pid, signal.SIGSTOP)
    os.kill(found.supervisor_pid, signal.SIGKILL)
    os.kill(found.janitor_pid, signal.SIGKILL)
    network._let_go()
    end = time.monotonic() + GONE_LIMIT_S
    is_down = False
    while not is_down:
        assert time.monotonic() < end
        with instance.lock_if_down(directory) as is_down:
            pass
    assert Path(found.run).exists()
    with Network(directory) as again:
        assert again.supervisor_pid != found.supervisor_pid
        assert Path(found.run) != Path((instance.recorded(directory) or found).run)
        # The kernel gives a namespace's number to the next: those of both networks may be the same.
        mine = traces_of(again).namespaces
        left = dataclasses.replace(traces, namespaces=traces.namespaces - mine).left()
        assert [one for one in left if "instance.json" not in one] == []


def bento_net(*words: str | Path, status: int = 0) -> "subprocess.CompletedProcess[str]":
    """`bento net ...`; its status must be the one given."""
    command = [sys.executable, "-m", "bento", "net", *map(str, words)]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=100)
    assert done.returncode == status, done
    return done


def test_the_command_line_starts_asks_and_ends_a_network(directory: Path, tmp_path: Path) -> None:
    at = ("--dir", directory)
    assert "no network is up" in bento_net("status", *at, status=5).stderr
    assert json.loads(bento_net("status", *at, "--json", status=5).stdout)["ready"] is False
    bento_net("up", *at, "--detach")
    try:
        traces = traces_of(Network(directory))
        status = json.loads(bento_net("status", *at, "--json").stdout)
        assert status["ready"] is True
        assert status["dir"] == str(directory)
        assert [set(relay) >= {"nickname", "fingerprint", "address", "box"} for relay in status["relays"]] == [True] * 6
        assert set(status["client"]) >= {"socks", "control"}
        assert Path(f"/proc/{status['supervisor_pid']}").exists()
        assert "up in" in bento_net("up", *at, status=5).stderr
        assert bento_net("exec", *at, "--", "cat", "/etc/resolv.conf").stdout == "nameserver 46.64.53.53\n"
        bento_net("exec", *at, "--", "sh", "-c", "exit 9", status=9)
        bento_net("site", "cli.test", tmp_path, *at)
        bento_net("site", "cli.org", tmp_path, *at, status=2)
        bento_net("up", *at, "--boxes", "17", status=2)
        bento_net("exec", *at, status=2)
    finally:
        bento_net("down", *at)
    assert_gone(traces)
    assert "no network was up" in bento_net("down", *at).stderr


def test_a_network_ends_with_the_process_that_started_it(directory: Path) -> None:
    script = f"from bento.testnet import Network; n = Network({str(directory)!r}); n.start(); print('up'); input()"
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as owner:
        assert owner.stdout
        assert owner.stdout.readline() == b"up\n"
        traces = traces_of(Network(directory))
        owner.kill()
    assert_gone(traces)


def test_networks_side_by_side_know_nothing_of_each_other(up: Network, cold: Path, tmp_path: Path) -> None:
    """The other one delays each link by 60 ms: three links to a page there, three back."""
    (tmp_path / "index.html").write_text("mine")
    up.site("mine.test", tmp_path)
    pages: list[bytes] = []
    waits_s = []
    with Network(shutil.copytree(cold, tmp_path / "other", symlinks=True), latency_ms=60) as other:
        for network in (up, other):
            client = network.status().client
            assert client
            with dial(client.socks, "mine.test", 80) as stream:
                best_s = min(_timed_get(stream, pages) for _ in range(5))
            waits_s.append(best_s)
        assert b"mine" in pages[0]
        assert b"Nothing is served under this name yet" in pages[-1]
        assert waits_s[0] < 0.36 <= waits_s[1]
        assert up.status().ready
    assert up.status().ready


def _timed_get(stream: socket.socket, pages: list[bytes]) -> float:
    """Seconds from a request on an open stream to the first byte of its page."""
    started = time.monotonic()
    stream.sendall(b"GET / HTTP/1.1\r\nHost: mine.test\r\n\r\n")
    stream.recv(1, socket.MSG_PEEK)
    took_s = time.monotonic() - started
    reply = http.client.HTTPResponse(stream)
    reply.begin()
    pages.append(reply.read())
    return took_s


def test_a_directory_holds_one_network_at_a_time(up: Network) -> None:
    with pytest.raises(NetworkDown, match=r"is up in .* already"):
        Network(up.directory).start()
    assert up.status().ready


def test_a_lost_process_shows_in_the_status(directory: Path) -> None:
    with Network(directory) as network:
        pid = network.status().relays[3].pid
        assert pid
        os.kill(pid, signal.SIGKILL)
        end = time.monotonic() + 5
        while network.status().ready:
            assert time.monotonic() < end
            time.sleep(0.05)
        assert network.status().lost == ("r2",)


def test_a_tor_that_ends_at_the_start_is_named_with_its_log(directory: Path) -> None:
    (directory / "r3/keys/secret_id_key").write_text("damaged")
    with pytest.raises(NetworkDown, match="the process r3 ended with status 1") as caught:
        Network(directory).start()
    assert "r3/notice.log" in caught.value.hint
    assert not (directory / "instance.json").exists()


def test_says_what_is_wrong_with_the_directory() -> None:
    with pytest.raises(NetworkDown, match="/proc/net-x can't be used"):
        Network("/proc/net-x").start()


def test_says_that_tor_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("bento.tor.process._SEARCH", str(tmp_path))
    with pytest.raises(TorUnavailable, match="tor is missing") as caught:
        Network(tmp_path / "net").start()
    assert "apt install tor" in caught.value.hint


def test_says_that_namespaces_are_forbidden(tmp_path: Path) -> None:
    script = (
        "from bento.testnet import Network; from bento.errors import NetworkDown\n"
        f"try: Network({str(tmp_path / 'net')!r}).start()\n"
        "except NetworkDown as error: print(error, error.hint)"
    )
    limit = "echo 0 > /proc/sys/user/max_pid_namespaces" if os.geteuid() == 0 else ""
    if not limit:
        pytest.skip("only root can forbid them for a moment")
    command = [
        "unshare",
        "--user",
        "--map-root-user",
        "sh",
        "-c",
        f'{limit}; exec "$@"',
        "sh",
        sys.executable,
        "-c",
        script,
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert "forbids new namespaces" in done.stdout
    assert "max_user_namespaces" in done.stdout


@pytest.mark.needs("root")
def test_a_user_without_root_has_networks_too(cold: Path) -> None:
    """From a copy that another user can enter."""
    uid = 64_999
    base = Path("/tmp") / f"bento-rootless-{os.getpid()}"
    base.mkdir(mode=0o755)
    try:
        for path in {Path(entry) for entry in sys.path if entry.endswith("site-packages")}:
            shutil.copytree(path, base / "packages", ignore=shutil.ignore_patterns("mypy*", "pip*", "ruff*"))
        shutil.copytree(Path(instance.__file__).parents[1], base / "source" / "bento")
        shutil.copytree(cold, base / "net", symlinks=True)
        subprocess.run(["chown", "-hR", f"{uid}:{uid}", base / "net"], check=True)
        script = (
            "from bento.testnet import Network\n"
            f"with Network({str(base / 'net')!r}) as network:\n"
            "    print(network.status().ready, network.exec(['id', '-u']).returncode)\n"
            "    print(open(f'/proc/{network.supervisor_pid}/uid_map').read())\n"
            "    from bento.testnet import instance; print(instance.recorded(network.directory).run)\n"
        )
        command = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "/usr/bin/python3", "-c", script]
        environment = {"PYTHONPATH": f"{base}/source:{base}/packages", "PATH": os.environ["PATH"], "HOME": str(base)}
        done = subprocess.run(command, capture_output=True, text=True, timeout=90, env=environment, cwd=base)
        lines = done.stdout.split()
        assert lines[:6] == ["0", "True", "0", "0", str(uid), "1"], done.stderr
        assert lines[6].startswith("/tmp/bento-")
        assert not Path(lines[6]).exists()
    finally:
        shutil.rmtree(base)


def test_errors_of_the_supervisor_are_bentos(up: Network) -> None:
    with pytest.raises(UsageError, match="there is no box 'box7'"):
        up.start_box("box7")
    with pytest.raises(UsageError, match="no folder"):
        up.site("a.test", "/nowhere")


def test_the_supervisor_refuses_what_is_no_request(up: Network) -> None:
    found = instance.recorded(up.directory)
    assert found
    for request in (b"\n", b"[]\n", b'{"op": 1}\n', b'{"op": "x"}\n', b"x" * 100_000 + b"\n"):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(found.socket))
            with contextlib.suppress(BrokenPipeError):
                connection.sendall(request)
            assert "error" in json.loads(connection.makefile().readline())
    assert up.status().ready
