"""Calls that outlive their commands: `bento invoke --detach` and `bento attach`, killed and cut off at any moment."""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bento.protocol.inner import INPUT_WINDOW_BYTES
from tests.users import User, wait_until

pytestmark = pytest.mark.needs("tor", "namespaces", "seccomp")

NAME = "long-lived"
REPEAT_LIMIT_BYTES = 64 * 1024
LINE_BYTES = 16

SOURCE = b"""
import threading, time

gate = threading.Event()

def open_gate():
    gate.set()

def gated():
    gate.clear()
    yield bytes(100_000)
    gate.wait()
    yield b"x" * 100_000

def lines(count, pause_s=0):
    for start in range(0, count, 4096):
        yield b"".join(b"%015d\\n" % number for number in range(start, min(start + 4096, count)))
        time.sleep(pause_s)
    return "all of them"

def shout():
    total = 0
    while data := api.recv():
        total += len(data)
        api.send(data.upper())
    return total

def fail():
    yield "before"
    raise ValueError("as asked")

def value():
    return "kept"

def vanish():
    time.sleep(1)
    import os
    os._exit(0)
"""

GATED = bytes(100_000) + b"x" * 100_000


def lines(count: int) -> bytes:
    return b"".join(b"%015d\n" % number for number in range(count))


@dataclass
class Deployed:
    """The function under its name, and what its user does with it."""

    user: User
    box: str

    @property
    def records(self) -> Path:
        return self.user.profile.state / "functions" / NAME / "sessions"

    def detach(self, *words: str, stdin: bytes = b"") -> str:
        done = self.user.run("invoke", NAME, *words, "--detach", stdin=stdin)
        assert (done.returncode, done.stderr) == (0, b"")
        session = done.stdout.decode()
        assert re.fullmatch(r"[a-z2-7]{8}\n", session)
        return session.strip()

    def attach(self, session: str) -> "subprocess.CompletedProcess[bytes]":
        return self.user.run("attach", NAME, session)

    def open_gate(self) -> None:
        assert self.user.run("invoke", NAME, "open_gate").returncode == 0

    def attached(self, session: str) -> "Attached":
        return Attached(self.user.bento("attach", NAME, session))


class Attached:
    """A running `bento attach`."""

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self.process = process
        self.output = b""

    def read(self, size: int) -> None:
        """At least so many bytes more."""
        assert self.process.stdout
        end = len(self.output) + size
        while len(self.output) < end:
            data = os.read(self.process.stdout.fileno(), 65536)
            assert data, self.process.stderr and self.process.stderr.read()
            self.output += data

    def end(self, number: int | None = None) -> tuple[int, bytes]:
        """End it by a signal, or wait; the rest of its output is taken in. Returns: its status and its errors."""
        if number is not None:
            self.process.send_signal(number)
        rest, errors = self.process.communicate(timeout=60)
        self.output += rest
        self.start, self.errors = parse_start(errors)
        return self.process.returncode, self.errors


def parse_start(errors: bytes) -> tuple[int, bytes]:
    """The offset in the first line that an attachment prints, and the other lines."""
    first, _, rest = errors.partition(b"\n")
    found = re.fullmatch(rb"bento: output from byte (\d+) on", first)
    assert found, errors
    return int(found[1]), rest


@pytest.fixture(scope="module")
def deployed(user: User, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    path = tmp_path_factory.mktemp("function") / "function.py"
    path.write_bytes(SOURCE)
    done = user.run("deploy", str(path), "--name", NAME, "--json")
    assert done.returncode == 0, done.stderr
    yield Deployed(user, json.loads(done.stdout)["box"])
    user.run("stop", NAME)


def test_whoever_is_killed_and_whatever_breaks_the_pieces_joined_by_offset_are_the_whole(deployed: Deployed) -> None:
    whole = lines(20_000_000 // LINE_BYTES)
    session = deployed.detach("lines", str(20_000_000 // LINE_BYTES))
    joined = b""
    for number, size in enumerate([3_000_000, 1, 2_500_000, 4_000_000]):
        attached = deployed.attached(session)
        attached.read(size)
        if number % 2 == 0:
            assert deployed.user.break_circuits_to(deployed.box)
            attached.read(1_000_000)
        attached.end(signal.SIGKILL)
        assert len(joined) - REPEAT_LIMIT_BYTES <= attached.start <= len(joined)
        joined = joined[: attached.start] + attached.output
        assert whole.startswith(joined)
    last = deployed.attached(session)
    last.read(1_000_000)
    assert deployed.user.break_circuits_to(deployed.box)
    assert last.end() == (0, b"")
    assert len(joined) - REPEAT_LIMIT_BYTES <= last.start <= len(joined)
    assert joined[: last.start] + last.output == whole + b'"all of them"\n'
    assert not list(deployed.records.glob("*.json"))


def test_what_a_detached_call_took_in_gave_and_returned_comes_when_it_is_asked_for(deployed: Deployed) -> None:
    session = deployed.detach("shout", stdin=b"word " * 20_000)
    assert (deployed.records / f"{session}.json").stat().st_mode & 0o777 == 0o600
    done = deployed.attach(session)
    assert (done.returncode, done.stderr) == (0, b"bento: output from byte 0 on\n")
    assert done.stdout == b"WORD " * 20_000 + b"100000\n"
    again = deployed.attach(session)
    assert again.returncode == 4
    assert b"no session" in again.stderr


def test_input_up_to_the_window_is_left_and_more_is_refused(deployed: Deployed) -> None:
    session = deployed.detach("shout", stdin=b"x" * INPUT_WINDOW_BYTES)
    assert deployed.attach(session).stdout == b"X" * INPUT_WINDOW_BYTES + b"%d\n" % INPUT_WINDOW_BYTES
    more = deployed.user.run("invoke", NAME, "shout", "--detach", stdin=b"x" * (INPUT_WINDOW_BYTES + 1))
    assert (more.returncode, more.stdout) == (2, b"")
    assert str(INPUT_WINDOW_BYTES).encode() in more.stderr


def test_what_a_detached_call_raised_is_told_once(deployed: Deployed) -> None:
    session = deployed.detach("fail")
    done = deployed.attach(session)
    assert (done.returncode, done.stdout) == (1, b"before")
    assert b"bento: error: ValueError: as asked" in done.stderr
    assert deployed.attach(session).returncode == 4


def test_a_value_that_could_not_be_written_is_there_for_the_next(deployed: Deployed) -> None:
    session = deployed.detach("value")
    with Path("/dev/full").open("wb") as full:
        process = deployed.user.bento("attach", NAME, session, stdout=full)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert b"can't write the output" in errors
    assert deployed.attach(session).stdout == b'"kept"\n'


def test_the_newer_attachment_replaces_the_older_which_says_so_and_stays_away(deployed: Deployed) -> None:
    session = deployed.detach("gated")
    older = deployed.attached(session)
    older.read(100_000)
    newer = deployed.attached(session)
    status, errors = older.end()
    assert status == 4
    assert errors.startswith(b"bento: error: a newer attachment")
    deployed.open_gate()
    assert newer.end() == (0, b"")
    assert older.output[: newer.start] + newer.output == GATED


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_detaches_and_says_how_to_attach_again(deployed: Deployed, number: int, status: int) -> None:
    session = deployed.detach("gated")
    attached = deployed.attached(session)
    attached.read(1)
    found, errors = attached.end(number)
    assert found == status
    assert f"bento attach {NAME} {session}".encode() in errors
    deployed.open_gate()
    rest = deployed.attach(session)
    start, _ = parse_start(rest.stderr)
    assert attached.output[:start] + rest.stdout == GATED


def test_a_call_that_can_t_begin_leaves_no_session(deployed: Deployed) -> None:
    done = deployed.user.run("invoke", NAME, "nope", "--detach")
    assert (done.returncode, done.stdout) == (2, b"")
    assert b"nope" in done.stderr
    assert not list(deployed.records.glob("*.json"))


@pytest.mark.parametrize(("name", "session"), [(NAME, "aaaaaaaa"), (NAME, "../../x"), ("nobody", "aaaaaaaa")])
def test_a_session_that_never_was_is_no_such_instance(deployed: Deployed, name: str, session: str) -> None:
    done = deployed.user.run("attach", name, session)
    assert (done.returncode, done.stdout) == (4, b"")
    assert done.stderr.startswith(b"bento: error: ")
    assert b"Traceback" not in done.stderr


def test_an_instance_that_ended_is_named_with_its_cause(user: User, tmp_path: Path) -> None:
    path = tmp_path / "short.py"
    path.write_bytes(SOURCE)
    assert user.run("deploy", str(path), "--name", "short-lived").returncode == 0
    done = user.run("invoke", "short-lived", "vanish", "--detach")
    assert done.returncode == 0
    time.sleep(1)
    for _ in range(2):
        ended = user.run("attach", "short-lived", done.stdout.decode().strip())
        assert (ended.returncode, ended.stdout) == (4, b"")
        assert b"its process ended by itself" in ended.stderr
    user.run("stop", "short-lived")


def test_a_killed_agent_interrupts_no_attachment(deployed: Deployed) -> None:
    session = deployed.detach("gated")
    attached = deployed.attached(session)
    attached.read(100_000)
    for pid in deployed.user.agent_pids:
        os.kill(pid, signal.SIGKILL)
    deployed.open_gate()
    assert attached.end() == (0, b"")
    assert attached.output == GATED
    wait_until(lambda: len(deployed.user.agent_pids) == 1)
