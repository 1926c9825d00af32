"""The command line without a network: words, errors, exit statuses."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bento.cli import main, tell
from bento.cli.running import encode_value
from bento.cli.users import parse_argument
from bento.errors import BadToken

HELLO = "def hello(name):\n    return name\n"


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("BENTO_STATE", str(tmp_path / "state"))
    monkeypatch.delenv("BENTO_NET", raising=False)


@pytest.fixture
def hello(tmp_path: Path) -> str:
    path = tmp_path / "hello.py"
    path.write_text(HELLO)
    return str(path)


def test_an_argument_is_json_if_it_parses_else_a_string(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(b"\x00\xff")
    cases = {"1": 1, '"1"': "1", "[1, null]": [1, None], "true": True, "hello": "hello", "NaN": "NaN", "": "", "{": "{"}
    assert {text: parse_argument(text) for text in cases} == cases
    assert parse_argument(f"@{tmp_path}/data") == b"\x00\xff"
    assert parse_argument("[" * 100_000) == "[" * 100_000


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"\x00\xff", b"\x00\xff"),
        ("text", b'"text"\n'),
        (False, b"false\n"),
        ({"a": [1, "\u00fc"]}, '{"a": [1, "\u00fc"]}\n'.encode()),
        ([b"in a list"], b'["in a list"]\n'),
        ("\ud800", b'"\xed\xa0\x80"\n'),
    ],
)
def test_a_returned_value_is_printed_raw_if_bytes_else_as_a_line_of_json(value: object, expected: bytes) -> None:
    assert encode_value(value) == expected


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "required"),
        (["nonsense"], "invalid choice"),
        (["run"], "required: FILE"),
        (["run", "HELLO", "--nonsense"], "unrecognized"),
        (["boxes", "too", "much"], "unrecognized"),
        (["run", "HELLO", "--timeout", "0"], "seconds"),
        (["run", "HELLO", "--timeout", "1.5"], "seconds"),
        (["run", "/nowhere.py"], "can't read"),
        (["run", "HELLO", "goodbye"], "goodbye"),
        (["run", "HELLO", "hello"], "0 arguments"),
        (["run", "HELLO", "hello", "@/nowhere"], "can't read"),
        (["check", "/nowhere.py"], "can't read"),
    ],
)
def test_a_usage_error_is_one_line_a_hint_and_status_2(
    words: list[str], message: str, hello: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([hello if word == "HELLO" else word for word in words]) == 2
    error, hint = capsys.readouterr().err.splitlines()
    assert error.startswith("bento: error: ")
    assert message in error
    assert hint.startswith("bento: hint: ")


def test_without_a_box_list_the_hint_says_how_to_get_one(hello: str, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["boxes"], ["run", hello, "hello", "x"], ["check", hello]):
        assert main(words) == 5
        assert "boxes.list" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["boxes"], ["run", "HELLO", "hello", "x"], ["check", "HELLO"]])
def test_a_network_that_is_not_there_is_status_5(
    words: list[str], hello: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*(hello if word == "HELLO" else word for word in words), "--net", str(tmp_path / "none")]) == 5
    assert "bento net up" in capsys.readouterr().err


def test_a_state_directory_that_others_may_enter_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tmp_path.chmod(0o755)
    monkeypatch.setenv("BENTO_STATE", str(tmp_path))
    assert main(["boxes"]) == 2
    assert "chmod 700" in capsys.readouterr().err


def test_a_fault_of_our_own_is_no_traceback(
    monkeypatch: pytest.MonkeyPatch, hello: str, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(source: object) -> None:
        raise RuntimeError("surprise")

    monkeypatch.setattr("bento.cli.users.read_source", fail)
    assert main(["check", hello]) == 70
    err = capsys.readouterr().err
    assert "internal: RuntimeError: surprise" in err
    assert "Traceback" not in err


def test_options_may_stand_between_the_words_of_run(hello: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", hello, "--timeout", "5", "hello", "--box", "F" * 40, "x"]) == 5
    assert "boxes.list" in capsys.readouterr().err


def test_starting_takes_no_module_of_another_command() -> None:
    code = "import sys; from bento.cli import main; main(['boxes']); print('bento.testnet.supervisor' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30, env=os.environ)
    assert done.stdout == "False\n"


def run_shell(command: str) -> "subprocess.CompletedProcess[str]":
    line = command.replace("bento", f"{sys.executable} -m bento")
    return subprocess.run(["/bin/sh", "-c", line], capture_output=True, text=True, timeout=30, env=os.environ)


def test_with_stderr_closed_no_error_goes_to_stdout() -> None:
    done = run_shell("bento share nobody 2>&-")
    assert (done.returncode, done.stdout) == (4, "")


def test_with_stdin_closed_there_is_no_ticket() -> None:
    done = run_shell("bento accept --name x <&-")
    assert done.returncode == 2
    assert "there is no ticket" in done.stderr


def test_a_full_disk_under_stdout_is_no_fault_of_our_own() -> None:
    done = run_shell("bento ls --json > /dev/full")
    assert done.returncode == 2
    assert done.stderr.splitlines()[0] == (
        "bento: error: can't write the output, or in the state directory: No space left on device"
    )


def test_what_a_box_says_steers_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert tell(BadToken("no\x1b[2J\nbento: error: forged\u202e", hint="\x07é")) == 4
    assert capsys.readouterr().err.splitlines() == [
        r"bento: error: no\x1b[2J\nbento: error: forged\u202e",
        r"bento: hint: \x07é",
    ]
