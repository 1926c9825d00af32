"""`bento boxes`, `check` and `run` as people type them, through real circuits."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from bento.cli import READER_GONE
from tests.users import FUNCTION, User

pytestmark = pytest.mark.needs("tor", "namespaces", "seccomp")

MORE = b"""
def typed(*values):
    return [type(value).__name__ for value in values]

def raw():
    return b"\\x00\\xff raw"

def patient():
    api.send("begun")
    while True:
        time.sleep(1)
"""


@pytest.fixture
def function(tmp_path: Path) -> str:
    path = tmp_path / "function.py"
    path.write_bytes(FUNCTION + MORE)
    return str(path)


def written(tmp_path: Path, source: str) -> str:
    path = tmp_path / "other.py"
    path.write_text(source)
    return str(path)


def outcome(done: "subprocess.CompletedProcess[bytes]") -> tuple[int, bytes, bytes]:
    return done.returncode, done.stdout, done.stderr


def test_boxes_lists_three(user: User) -> None:
    done = user.run("boxes", "--json")
    boxes: list[dict[str, Any]] = json.loads(done.stdout)
    assert len(boxes) == 3
    for box in boxes:
        assert {"fingerprint", "nickname", "images", "conclave", "policy"} <= box.keys()
        assert box["images"] == ["python"]
        assert box["conclave"] is None
    table = user.run("boxes").stdout.decode().splitlines()
    assert [line.split()[0] for line in table[1:]] == [box["fingerprint"] for box in boxes]


def test_a_returned_value_is_a_line_of_json(user: User, function: str) -> None:
    assert outcome(user.run("run", function, "hello", "world")) == (0, b'"hello world"\n', b"")


def test_returned_bytes_come_raw(user: User, function: str) -> None:
    assert outcome(user.run("run", function, "raw")) == (0, b"\x00\xff raw", b"")


def test_arguments_are_json_strings_and_files(user: User, function: str) -> None:
    done = user.run("run", function, "typed", "1", "x", '{"a": 1}', "null", f"@{function}", "-5", "--timeout", "60")
    assert json.loads(done.stdout) == ["int", "str", "dict", "NoneType", "bytes", "int"]


def test_the_only_function_needs_no_name(user: User, tmp_path: Path) -> None:
    assert user.run("run", written(tmp_path, "def only():\n    yield 'it'\n")).stdout == b"it"


def test_stdin_is_the_input(user: User, function: str) -> None:
    assert outcome(user.run("run", function, "shout", stdin=b"one\ntwo\n")) == (0, b"ONE\nTWO\n8\n", b"")
    assert user.run("run", function, "shout", stdin=b"").stdout == b"0\n"


def test_a_closed_stdin_is_an_input_that_has_ended(user: User, function: str) -> None:
    process = user.bento("run", function, "shout", stdin=None, preexec_fn=lambda: os.close(0))
    assert process.communicate(timeout=60) == (b"0\n", b"")


def test_output_comes_as_it_is_made_and_talks_back(user: User, function: str) -> None:
    process = user.bento("run", function, "shout", stdin=subprocess.PIPE)
    assert process.stdin
    assert process.stdout
    for word in (b"one\n", b"two\n"):
        process.stdin.write(word)
        process.stdin.flush()
        assert process.stdout.readline() == word.upper()
    process.stdin.close()
    assert process.stdout.read() == b"8\n"
    assert process.wait(30) == 0


def test_a_megabyte_of_source_runs_under_a_manifest_that_asks_for_the_memory(user: User, tmp_path: Path) -> None:
    lines = "\n".join(f"value_{number} = {number} # {'x' * 60}" for number in range(14_000))
    manifest = "# /// bento\n# memory_bytes = 536_870_912\n# ///\n"
    source = f"{manifest}{lines}\ndef last():\n    return value_13999\n"
    assert len(source) > 2**20
    assert outcome(user.run("run", written(tmp_path, source))) == (0, b"13999\n", b"")


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["fail"], 1, b"ValueError: as asked"),
        (["vanish"], 1, b"process"),
        (["nope"], 2, b"no public function 'nope'"),
        (["hello"], 2, b"0 arguments"),
        (["hello", "x", "--box", "r5"], 2, b"not a fingerprint"),
        (["hello", "x", "--box", "F" * 40], 5, b"no box"),
        (["spin", "--timeout", "2"], 7, b"wall_s"),
        (["eat"], 7, b"memory_bytes"),
    ],
)
def test_what_goes_wrong_is_one_line_and_its_status(
    user: User, function: str, words: list[str], status: int, message: bytes
) -> None:
    done = user.run("run", function, *words)
    assert done.returncode == status
    assert message in done.stderr
    assert done.stderr.startswith(b"bento: error: ")
    assert b"Traceback" not in done.stderr


def test_an_endless_loop_ends_at_its_processor_time(user: User, tmp_path: Path) -> None:
    source = "# /// bento\n# cpu_s = 1\n# ///\ndef spin():\n    while True:\n        pass\n"
    done = user.run("run", written(tmp_path, source))
    assert done.returncode == 7
    assert b"cpu_s" in done.stderr


def test_a_manifest_that_asks_too_much_is_refused_by_every_rule(user: User, tmp_path: Path) -> None:
    asks = "# /// bento\n# memory_bytes = 999_999_999_999\n# cpu_s = 999_999\n# wall_s = 99_999_999\n# ///\n"
    path = written(tmp_path, asks + "def f():\n    pass\n")
    done = user.run("run", path)
    assert done.returncode == 3
    for rule in (b"memory_bytes", b"cpu_s", b"wall_s"):
        assert rule in done.stderr
    box = json.loads(user.run("boxes", "--json").stdout)[0]["fingerprint"]
    checked = user.run("check", path, "--box", box, "--json")
    assert checked.returncode == 3
    (verdict,) = json.loads(checked.stdout)
    assert not verdict["admitted"]
    assert {"memory_bytes", "cpu_s", "wall_s"} <= {refusal["rule"] for refusal in verdict["refusals"]}
    assert all(refusal.keys() == {"rule", "asked", "limit", "hint"} for refusal in verdict["refusals"])
    assert {"name", "version", "digest"} == verdict["packages"]["python"][0].keys()


def test_check_spawns_nothing_and_says_who_admits(user: User, tmp_path: Path) -> None:
    path = written(tmp_path, '# /// bento\n# egress = ["*:80"]\n# ///\ndef f():\n    pass\n')
    verdicts = json.loads(user.run("check", path, "--json").stdout)
    classes = {box["fingerprint"]: box["policy"] for box in json.loads(user.run("boxes", "--json").stdout)}
    assert {verdict["fingerprint"]: verdict["admitted"] for verdict in verdicts} == {
        fingerprint: policy == "exit" for fingerprint, policy in classes.items()
    }


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_ends_the_instance(user: User, function: str, number: int, status: int) -> None:
    process = user.bento("run", function, "patient")
    assert process.stdout
    assert process.stdout.read(5) == b"begun"
    process.send_signal(number)
    start_s = time.monotonic()
    _, err = process.communicate(timeout=30)
    # Nothing was left: else it would say that the box did not confirm the end.
    assert (process.returncode, err) == (status, b"")
    assert time.monotonic() - start_s < 15


def test_a_reader_that_goes_away_ends_the_instance(user: User, function: str) -> None:
    process = user.bento("run", function, "ticks", "1000", "0.05")
    assert process.stdout
    assert process.stdout.readline() == b"0\n"
    process.stdout.close()
    assert process.wait(30) == READER_GONE
    assert process.stderr
    assert process.stderr.read() == b""


def test_a_full_disk_is_a_clear_error(user: User, function: str) -> None:
    with Path("/dev/full").open("wb") as full:
        process = user.bento("run", function, "hello", "x", stdout=full)
        _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert b"can't write the output" in err
