"""The ten functions of `examples/`, run as its README says, over the private network."""

import asyncio
import json
import re
import zlib
from pathlib import Path

import pytest

from bento.testnet.web import DEMO_FOLDER
from tests.users import User

pytestmark = pytest.mark.needs("tor", "namespaces", "seccomp")

EXAMPLES = Path(__file__).parents[2] / "examples"
PAGE = (DEMO_FOLDER / "index.html").read_bytes()


def run(user: User, name: str, *words: str, stdin: bytes = b"") -> tuple[int, bytes, bytes]:
    done = user.run("run", str(EXAMPLES / f"{name}.py"), *words, stdin=stdin)
    return done.returncode, done.stdout, done.stderr


def test_the_table_has_every_example() -> None:
    table = (EXAMPLES / "README.md").read_text("utf-8")
    rows = re.findall(r"^\| \[(\w+\.py)\]\((\w+\.py)\) \| .+ \| `bento (?:run|deploy) examples/(\w+\.py)", table, re.M)
    assert all(len(set(row)) == 1 for row in rows)
    assert {row[0] for row in rows} == {path.name for path in EXAMPLES.glob("*.py")} - {"page.py"}
    assert len(rows) == 10


def test_hello(user: User) -> None:
    assert run(user, "hello", "hello", "you") == (0, b'"hello you"\n', b"")


def test_echo(user: User) -> None:
    data = bytes(range(256)) * 1000
    assert run(user, "echo", stdin=data) == (0, data, b"")


def test_counter_remembers_from_call_to_call(user: User) -> None:
    async def count() -> list[object]:
        async with user.client() as client, client.spawn(EXAMPLES / "counter.py") as function:
            answers = [await function.call("add", "apples"), await function.call("add", "apples", 3)]
            return [*answers, await function.call("counts")]

    assert asyncio.run(count()) == [1, 4, {"apples": 4}]


def test_notes_stay_until_the_function_is_stopped(user: User) -> None:
    assert user.run("deploy", str(EXAMPLES / "notes.py"), "--name", "notes").returncode == 0
    try:
        for note in ("buy milk", "sell it"):
            assert user.run("invoke", "notes", "write", note).returncode == 0
        assert json.loads(user.run("invoke", "notes", "read").stdout) == "buy milk\nsell it\n"
    finally:
        assert user.run("stop", "notes").returncode == 0


def test_ticks_come_one_by_one(user: User) -> None:
    process = user.bento("run", str(EXAMPLES / "ticks.py"), "ticks", "3", "0.5")
    assert process.stdout
    assert process.stdout.readline() == b"tick 0\n"
    assert process.poll() is None
    assert process.stdout.read() == b"tick 1\ntick 2\ntick 3\ntick 4\ntick 5\n"
    assert process.wait(30) == 0


@pytest.mark.parametrize("padding", [1000, 65536])
def test_browser_sends_the_page_in_an_exact_multiple_of_its_padding(user: User, padding: int) -> None:
    status, sent, error = run(user, "browser", "browser", "https://demo.test/", str(padding))
    assert (status, error) == (0, b"")
    assert sent
    assert len(sent) % padding == 0
    assert zlib.decompressobj().decompress(sent) == PAGE


def test_sizes_reports_each_page(user: User) -> None:
    urls = ["http://demo.test/", "https://demo.test/", "http://demo.test/style.css", "http://demo.test/none"]
    status, lines, error = run(user, "sizes", "sizes", *urls)
    assert (status, error) == (0, b"")
    found = {page["url"]: (page["status"], page["bytes"]) for page in map(json.loads, lines.splitlines())}
    assert found.keys() == set(urls)
    assert found[urls[0]] == found[urls[1]] == (200, len(PAGE))
    assert found[urls[3]][0] == 404


def test_certificate_tells_who_vouches_and_what_is_wrong(user: User) -> None:
    status, answer, error = run(user, "certificate", "certificate", "demo.test")
    assert (status, error) == (0, b"")
    found = json.loads(answer)
    assert found["valid"]
    assert "private network" in found["issuer"]["organizationName"]
    found = json.loads(run(user, "certificate", "certificate", "wrong.test")[1])
    assert not found["valid"]
    assert "not valid for 'wrong.test'" in found["reason"]


def test_greedy_is_refused_by_every_rule(user: User) -> None:
    status, answer, error = run(user, "greedy")
    assert (status, answer) == (3, b"")
    assert all(rule in error for rule in (b"memory_bytes", b"cpu_s", b"egress"))


def test_hungry_meets_its_limit_and_what_it_sent_is_there(user: User) -> None:
    status, answer, error = run(user, "hungry")
    assert status == 7
    assert answer.startswith(b"1 MiB\n2 MiB\n")
    assert b"memory_bytes" in error
