"""What a state directory remembers of functions, and the commands that ask nobody."""

import asyncio
import dataclasses
import io
import json
import multiprocessing
import stat
import time
from pathlib import Path
from typing import Any

import pytest

from bento.cli import main
from bento.client.records import Deployed, Records, verify_name
from bento.errors import ConfigError, NoSuchInstance, UsageError
from bento.ticket import FunctionTicket, encode_ticket
from bento.tokens import InvocationToken, ShutdownToken

BOX = "0123456789ABCDEF0123456789ABCDEF01234567"


def deployed(name: str, number: int = 1, **changes: Any) -> Deployed:
    record = Deployed(
        name,
        BOX,
        InvocationToken(bytes([number]) * 32),
        ShutdownToken(bytes([number + 100]) * 32),
        expires_s=time.time() + 600,
        lease_s=600,
    )
    return dataclasses.replace(record, **changes)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The functions of a state directory, which commands use, too."""
    (tmp_path / "state").mkdir(mode=0o700)
    monkeypatch.setenv("BENTO_STATE", str(tmp_path / "state"))
    monkeypatch.delenv("BENTO_NET", raising=False)
    return tmp_path / "state" / "functions"


@pytest.fixture
def records(folder: Path) -> Records:
    return Records(folder)


def add(records: Records, *added: Deployed) -> None:
    for record in added:
        asyncio.run(records.add(record))


def test_a_record_comes_back_as_it_was(records: Records) -> None:
    for record in (deployed("a"), deployed("b", 2, shutdown_token=None, expires_s=None, lease_s=None)):
        add(records, record)
        assert records.read(record.name) == record


def test_a_record_is_its_user_s_alone_and_nothing_lies_beside_it(records: Records, folder: Path) -> None:
    add(records, deployed("a"))
    asyncio.run(records.replace(deployed("a", is_starting=True)))
    assert [path.name for path in (folder / "a").iterdir()] == ["function.json"]
    assert {path.name for path in folder.iterdir()} == {"a", ".lock"}
    assert stat.S_IMODE((folder / "a" / "function.json").stat().st_mode) == 0o600
    for directory in (folder, folder / "a"):
        assert stat.S_IMODE(directory.stat().st_mode) == 0o700


def test_no_token_shows_where_a_record_is_printed() -> None:
    shown = repr(deployed("a"))
    assert "secret" not in shown
    for byte in (1, 101):
        assert repr(bytes([byte]) * 32) not in shown


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "-x", "a/b", "a b", "é", "a\n", "x" * 65, "../up", "a\0"])
def test_refuses_what_can_be_no_name(name: str, records: Records) -> None:
    with pytest.raises(UsageError, match="name"):
        verify_name(name)
    with pytest.raises(UsageError):
        records.read(name)


@pytest.mark.parametrize("name", ["a", "A.b_c-9", "_x", "0", "x" * 64])
def test_takes_every_other_name(name: str, records: Records) -> None:
    add(records, deployed(name))
    assert records.read(name).name == name


def test_a_name_in_use_is_refused_with_what_to_do(records: Records) -> None:
    add(records, deployed("a"), deployed("b", 2, shutdown_token=None, expires_s=None))
    for name, hint in (("a", "stop"), ("b", "use another")):
        with pytest.raises(UsageError, match="in use") as found:
            add(records, deployed(name, 9))
        assert hint in found.value.hint
    assert records.read("a") == dataclasses.replace(deployed("a"), expires_s=records.read("a").expires_s)


def test_the_name_of_an_expired_function_is_free_and_what_lay_in_its_folder_gone(
    records: Records, folder: Path
) -> None:
    add(records, deployed("a", expires_s=time.time() - 1))
    (folder / "a" / "sessions").mkdir()
    (folder / "a" / "sessions" / "1.json").write_text("{}")
    add(records, deployed("a", 2))
    assert records.read("a").invocation_token == deployed("a", 2).invocation_token
    assert not (folder / "a" / "sessions").exists()


def test_a_writer_that_was_killed_leaves_nothing_in_the_way(records: Records, folder: Path) -> None:
    for name in (".new", ".gone"):
        (folder / name).mkdir(parents=True)
        (folder / name / "function.json").write_text("half")
    add(records, deployed("a"))
    (folder / "a" / ".function.json").write_text("half")
    asyncio.run(records.replace(deployed("a", is_starting=True)))
    assert records.read("a").is_starting
    assert records.read_all()[1] == []


def test_only_the_same_instance_s_record_is_replaced_or_removed(records: Records) -> None:
    add(records, deployed("a"))
    other = deployed("a", 2)
    with pytest.raises(NoSuchInstance, match="stopped meanwhile"):
        asyncio.run(records.replace(other))
    asyncio.run(records.remove(other))
    assert records.read("a").invocation_token == deployed("a").invocation_token
    asyncio.run(records.remove(deployed("a")))
    asyncio.run(records.remove(deployed("a")))
    with pytest.raises(NoSuchInstance, match="stopped meanwhile"):
        asyncio.run(records.replace(deployed("a")))


def test_a_directory_that_can_t_be_one_is_a_clear_error(records: Records, folder: Path) -> None:
    folder.write_text("a file")
    for use in (lambda: add(records, deployed("a")), records.read_all):
        with pytest.raises(ConfigError, match="functions"):
            use()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "damaged"),
        (b"\xff\xfe", "damaged"),
        (b"[]", "damaged"),
        (b'{"version": 1}', "damaged"),
        (b'{"version": 1, "function": {"name": "a", "box": "x", "invocation_token": {"secret": "AA=="}}}', "damaged"),
        (b'{"version": 2, "anything": true}', "of version 2"),
    ],
)
def test_a_damaged_record_is_named_and_stays(records: Records, folder: Path, data: bytes, message: str) -> None:
    add(records, deployed("a"), deployed("b"))
    path = folder / "a" / "function.json"
    path.write_bytes(data)
    for use in (lambda: records.read("a"), lambda: records.verify_free("a"), lambda: add(records, deployed("a"))):
        with pytest.raises(ConfigError, match=message) as found:
            use()
        assert str(path) in found.value.message
        assert found.value.hint
    found_all, damaged = records.read_all()
    assert [record.name for record in found_all] == ["b"]
    assert len(damaged) == 1
    assert path.read_bytes() == data


@pytest.mark.parametrize(
    "changes", [{"box": "../up"}, {"box": BOX + "\n"}, {"expires_s": 9e18}, {"expires_s": -1.0}, {"lease_s": 0}]
)
def test_a_record_with_a_value_that_can_t_be_is_damaged(
    records: Records, changes: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    add(records, deployed("a", **changes), deployed("b"))
    with pytest.raises(ConfigError, match="damaged"):
        records.read("a")
    assert main(["ls"]) == 0
    out, err = capsys.readouterr()
    assert "b " in out
    assert "damaged" in err


@pytest.mark.parametrize("is_link", [True, False])
def test_what_lies_in_a_name_s_place_and_is_no_folder_gives_way(
    records: Records, folder: Path, tmp_path: Path, is_link: bool
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "mine").touch()
    add(records, deployed("b"))
    if is_link:
        (folder / "a").symlink_to(elsewhere)
    else:
        (folder / "a").touch()
    add(records, deployed("a"), deployed("c", 3))
    assert [record.name for record in records.read_all()[0]] == ["a", "b", "c"]
    assert (elsewhere / "mine").exists()


def test_a_record_cut_at_any_byte_is_damaged(records: Records, folder: Path) -> None:
    add(records, deployed("a"))
    path = folder / "a" / "function.json"
    whole = path.read_bytes()
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(ConfigError):
            records.read("a")


def _claim(folder: Path, number: int, won: "multiprocessing.Queue[int]") -> None:
    try:
        asyncio.run(Records(folder).add(deployed("a", number)))
        won.put(number)
    except UsageError:
        won.put(0)


def test_of_many_at_once_one_gets_the_name(folder: Path) -> None:
    context = multiprocessing.get_context("fork")
    answers: multiprocessing.Queue[int] = context.Queue()
    claims = [context.Process(target=_claim, args=(folder, number, answers)) for number in range(1, 9)]
    for claim in claims:
        claim.start()
    (winner,) = (number for number in (answers.get(timeout=30) for _ in claims) if number)
    for claim in claims:
        claim.join()
    assert Records(folder).read("a").invocation_token == deployed("a", winner).invocation_token


def _rewrite(folder: Path) -> None:
    for lease_s in range(1, 101):
        asyncio.run(Records(folder).replace(deployed("a", lease_s=lease_s)))


def test_a_reader_never_sees_half_a_record(records: Records, folder: Path) -> None:
    add(records, deployed("a"))
    writers = [multiprocessing.get_context("fork").Process(target=_rewrite, args=(folder,)) for _ in range(2)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        assert records.read("a").box == BOX
    assert [writer.exitcode for writer in writers] == [0, 0]


# --- the commands that ask nobody -----------------------------------------------------------------------------------


def test_ls_tells_what_each_record_says(records: Records, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ls", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == []
    add(records, deployed("here"), deployed("late", 2, expires_s=time.time() - 1))
    add(records, deployed("new", 3, is_starting=True), deployed("taken", 4, shutdown_token=None, expires_s=None))
    assert main(["ls", "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)}
    assert {name: (row["state"], row["own"]) for name, row in rows.items()} == {
        "here": ("leased", True),
        "late": ("expired", True),
        "new": ("starting", True),
        "taken": ("unknown", False),
    }
    assert all({"name", "box", "instance", "expires"} <= row.keys() for row in rows.values())
    assert rows["taken"]["expires"] is None
    (folder / "new" / "function.json").write_text("{")
    assert main(["ls"]) == 0
    shown = capsys.readouterr()
    assert [line.split()[0] for line in shown.out.splitlines()] == ["NAME", "here", "late", "taken"]
    assert "new" in shown.err


def test_a_ticket_goes_from_share_to_accept(
    records: Records, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    add(records, deployed("mine"))
    assert main(["share", "mine"]) == 0
    line = capsys.readouterr().out
    assert line == encode_ticket(FunctionTicket(BOX, deployed("mine").invocation_token)) + "\n"
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(line.encode())))
    assert main(["accept", "--name", "theirs"]) == 0
    assert capsys.readouterr().out == ""
    taken = records.read("theirs")
    assert (taken.invocation_token, taken.box, taken.is_own) == (deployed("mine").invocation_token, BOX, False)


def test_of_what_is_over_there_is_no_ticket(records: Records, capsys: pytest.CaptureFixture[str]) -> None:
    add(records, deployed("late", expires_s=time.time() - 1))
    assert main(["share", "late"]) == 4
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "is over" in shown.err


@pytest.mark.parametrize(
    ("text", "message"),
    [(b"", "no ticket"), (b"hello", "no ticket"), (b"BENTO:AEAQ", "10 characters, of 102"), (b"\xff\n", "no ticket")],
)
def test_a_spoilt_ticket_is_status_2_and_leaves_no_record(
    folder: Path, text: bytes, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text)))
    assert main(["accept", "--name", "theirs"]) == 2
    error, hint = capsys.readouterr().err.splitlines()
    assert message in error
    assert hint.startswith("bento: hint: ")
    assert not (folder / "theirs").exists()


@pytest.mark.parametrize(
    "words", [["invoke", "x", "f"], ["inspect", "x"], ["renew", "x"], ["stop", "x"], ["share", "x"]]
)
def test_a_name_that_nobody_has_is_status_4(folder: Path, words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 4
    error, hint = capsys.readouterr().err.splitlines()
    assert error == "bento: error: there is no function 'x' here"
    assert "bento ls" in hint


@pytest.mark.parametrize(
    "words",
    [
        ["deploy", "f.py"],
        ["deploy", "f.py", "--name", "../up"],
        ["deploy", "f.py", "--name", "x", "--lease", "0"],
        ["invoke", "x"],
        ["invoke", "../up", "f"],
        ["accept"],
        ["accept", "--name", ".x"],
        ["renew", "x", "--lease", "-1"],
        ["stop"],
    ],
)
def test_words_that_do_not_fit_are_status_2(
    folder: Path, words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"")))
    assert main(words) == 2
    assert capsys.readouterr().err.startswith("bento: error: ")
