"""The records of detached calls: whole or not at all, one attachment's at a time, for no one else's eyes."""

import asyncio
import json
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import pytest

from bento.client.sessions import Session, Sessions
from bento.errors import ConfigError, NoSuchInstance, Replaced, UsageError
from bento.protocol.inner import INPUT_WINDOW_BYTES


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


@pytest.fixture
def sessions(tmp_path: Path) -> Sessions:
    return Sessions(tmp_path / "sessions")


def made(sessions: Sessions) -> Session:
    session = run(sessions.create("entry", b"abc"))
    assert isinstance(session, Session)
    return session


def test_a_session_is_found_again_where_it_stood(sessions: Sessions) -> None:
    begun = made(sessions)
    run(sessions.save(begun, 7))
    found = run(sessions.take_over(begun.id))
    assert (found.entry, found.invocation, found.input_bytes, found.offset) == ("entry", begun.invocation, 3, 7)
    assert sessions.ids == [begun.id]


def test_who_was_replaced_neither_writes_nor_removes(sessions: Sessions) -> None:
    begun = made(sessions)
    newer = run(sessions.take_over(begun.id))
    with pytest.raises(Replaced):
        run(sessions.save(begun, 7))
    run(sessions.remove(begun))
    run(sessions.save(newer, 5))
    assert run(sessions.take_over(begun.id)).offset == 5


def test_a_session_that_was_removed_is_no_such_instance(sessions: Sessions) -> None:
    begun = made(sessions)
    run(sessions.remove(begun))
    run(sessions.remove(begun))
    for work in (sessions.take_over(begun.id), sessions.save(begun, 1)):
        with pytest.raises(NoSuchInstance, match="no session"):
            run(work)
    assert sessions.ids == []


@pytest.mark.parametrize("name", ["", "../x", "ABCDEFGH", "abcdefghi", "abcdefg1", "a" * 8])
def test_no_other_file_is_a_session(sessions: Sessions, name: str) -> None:
    with pytest.raises(NoSuchInstance):
        sessions.verify(name)
    with pytest.raises(NoSuchInstance):
        run(sessions.take_over(name))


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'{"id": 5}'])
def test_a_damaged_record_is_named(sessions: Sessions, tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "sessions" / f"{made(sessions).id}.json"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="damaged") as found:
        sessions.verify(path.stem)
    assert str(path) in found.value.message


@pytest.mark.parametrize(
    ("field", "value"), [("offset", -1), ("offset", 2**63), ("attachment", "AAAA"), ("input_bytes", 2**40)]
)
def test_a_record_with_a_value_that_can_t_be_is_damaged(
    sessions: Sessions, tmp_path: Path, field: str, value: object
) -> None:
    path = tmp_path / "sessions" / f"{made(sessions).id}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(ConfigError, match="damaged"):
        run(sessions.take_over(path.stem))


def test_a_record_that_can_t_be_read_is_named(sessions: Sessions, tmp_path: Path) -> None:
    path = tmp_path / "sessions" / f"{made(sessions).id}.json"
    path.unlink()
    path.mkdir()
    for use in (lambda: sessions.verify(path.stem), lambda: run(sessions.take_over(path.stem))):
        with pytest.raises(ConfigError, match="can't read"):
            use()


def test_records_are_for_their_user_alone_and_nothing_else_is_left(sessions: Sessions, tmp_path: Path) -> None:
    begun = made(sessions)
    run(sessions.save(begun, 1))
    folder = tmp_path / "sessions"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert {path.name for path in folder.iterdir()} == {".lock", f"{begun.id}.json"}
    assert {path.stat().st_mode & 0o777 for path in folder.iterdir()} == {0o600}


def test_a_half_written_record_of_one_who_was_killed_is_passed_by(sessions: Sessions, tmp_path: Path) -> None:
    begun = made(sessions)
    (tmp_path / "sessions" / f"{begun.id}.new").write_bytes(b'{"id"')
    run(sessions.save(begun, 1))
    assert run(sessions.take_over(begun.id)).offset == 1


def test_more_input_than_can_be_left_is_refused(sessions: Sessions) -> None:
    with pytest.raises(UsageError, match=str(INPUT_WINDOW_BYTES)):
        run(sessions.create("entry", bytes(INPUT_WINDOW_BYTES + 1)))
    assert sessions.ids == []
