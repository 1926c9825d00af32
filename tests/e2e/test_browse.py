"""`bento browse` as people type it, over the private network. `test_pages.py` has real sites."""

import json
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bento.functions.browser.packet import DEFAULT_BUCKETS
from bento.testnet import Network
from tests.users import User, wait_until

pytestmark = pytest.mark.needs("tor", "namespaces", "seccomp")

HEAVY_BYTES = 25_000_000


@pytest.fixture(scope="module", autouse=True)
def site(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """http://browse.test/."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "index.html").write_text("<title>x</title><img src=0.png><a href=other.html>other</a>")
    (folder / "heavy.html").write_text("".join(f"<img src={number}.png>" for number in range(25)))
    for number in range(25):
        (folder / f"{number}.png").write_bytes(os.urandom(HEAVY_BYTES // 25))
    (folder / "paper.pdf").write_bytes(b"%PDF-1.4")
    (folder / "huge.html").write_bytes(b"<p>" + b"text " * 2_000_000)
    network.site("browse.test", folder)
    return folder


def told(done: "subprocess.CompletedProcess[bytes]") -> dict[str, Any]:
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_page_comes_as_one_file(user: User, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    found = told(user.run("browse", "http://demo.test/", "-o", str(file), "--json"))
    assert (found["url"], found["status"], found["type"]) == ("http://demo.test/", 200, "text/html")
    assert (found["resources"], found["failures"], found["file"]) == (3, [], str(file))
    assert found["sent_bytes"] == DEFAULT_BUCKETS[0]
    assert found["page_bytes"] == file.stat().st_size
    assert len(found["circuit"]) == 3
    assert found["seconds"] > 0
    assert b"http-equiv" in file.read_bytes()
    assert stat.S_IMODE(file.stat().st_mode) == 0o666 & ~os.umask(os.umask(0o22) or 0)
    assert list(tmp_path.iterdir()) == [file]


def test_without_a_file_the_page_goes_to_stdout(user: User) -> None:
    done = user.run("browse", "https://browse.test/", "--pad", "none")
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"<html><head><meta http-equiv=")
    assert b'<a href="https://browse.test/other.html">' in done.stdout


def test_what_is_no_file_is_written_to_and_not_replaced(user: User, tmp_path: Path) -> None:
    done = user.run("browse", "https://browse.test/", "-o", "/dev/stdout")
    assert (done.returncode, done.stdout[:6]) == (0, b"<html>")
    assert Path("/dev/stdout").is_symlink()
    assert user.run("browse", "https://browse.test/", "-o", "-").stdout == done.stdout
    link = tmp_path / "link.html"
    link.symlink_to("page.html")
    assert user.run("browse", "https://browse.test/", "-o", str(link)).returncode == 0
    assert link.is_symlink()
    assert (tmp_path / "page.html").read_bytes() == done.stdout


def test_a_padded_page_has_a_multiple_of_its_padding(user: User) -> None:
    found = told(user.run("browse", "http://browse.test/", "--pad", "300KB", "--json"))
    assert found["sent_bytes"] == 1_200_000
    assert found["file"] is None


def test_a_heavy_page_fits_what_the_function_asks_for(user: User) -> None:
    found = told(user.run("browse", "http://browse.test/heavy.html", "--json"))
    assert (found["resources"], found["failures"]) == (25, [])
    assert found["page_bytes"] > HEAVY_BYTES
    assert found["sent_bytes"] == DEFAULT_BUCKETS[-1]


def test_a_page_that_is_not_there_is_a_page(user: User) -> None:
    assert told(user.run("browse", "http://browse.test/nothing", "--json"))["status"] == 404


def test_another_document_comes_as_it_is(user: User) -> None:
    assert user.run("browse", "http://browse.test/paper.pdf").stdout == b"%PDF-1.4"


def test_a_page_over_the_limit_is_an_error_and_kept_if_asked_for(user: User, tmp_path: Path) -> None:
    file = tmp_path / "page.html"
    done = user.run("browse", "http://browse.test/huge.html", "-o", str(file))
    assert done.returncode == 7
    assert b"8388608 bytes" in done.stderr
    assert b"--partial" in done.stderr
    assert not file.exists()
    found = told(user.run("browse", "http://browse.test/huge.html", "-o", str(file), "--partial", "--json"))
    assert "8388608" in found["failures"][0]["reason"]
    assert file.stat().st_size > 8_000_000


@pytest.mark.parametrize(
    ("url", "status", "words"),
    [
        ("http://10.0.0.1/", 3, "10.0.0.1"),
        ("http://127.0.0.1/", 3, "127.0.0.1"),
        ("http://browse.test:8081/", 3, "egress"),
        ("http://nothing.invalid/", 1, "gaierror"),
        ("https://wrong.test/", 1, "CERTIFICATE_VERIFY_FAILED"),
    ],
)
def test_why_a_page_did_not_come_is_told_and_leaves_by_its_status(
    user: User, url: str, status: int, words: str
) -> None:
    done = user.run("browse", url)
    assert (done.returncode, done.stdout) == (status, b"")
    assert words in done.stderr.decode()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["ftp://browse.test/"], "not an http(s) URL"),
        (["browse.test"], "https://"),
        (["http://"], "not an http(s) URL"),
        (["http://[::1/"], "not a URL"),
        (["http://x:99999/"], "not a URL"),
        (["file:///etc/passwd"], "not an http(s) URL"),
        (["http://browse.test/", "--mode", "full"], "not in this version"),
        (["http://browse.test/", "--pad", "many:1MB"], "padding"),
        (["http://browse.test/", "-o", "/nowhere/page.html"], "no folder"),
        (["http://browse.test/", "-o", "/"], "is a folder"),
    ],
)
def test_what_can_not_be_browsed_is_refused_before_anything_leaves(
    words: list[str], message: str, tmp_path: Path
) -> None:
    environment = os.environ | {"BENTO_STATE": str(tmp_path), "BENTO_NET": str(tmp_path / "nothing")}
    done = subprocess.run([sys.executable, "-m", "bento", "browse", *words], capture_output=True, env=environment)
    assert done.returncode == 2
    assert message in done.stderr.decode()


@pytest.mark.parametrize(("kind", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_visit_that_is_ended_leaves_nothing_behind(user: User, tmp_path: Path, kind: int, status: int) -> None:
    process = user.bento("browse", "http://browse.test/heavy.html", "-o", str(tmp_path / "page.html"))
    wait_until(lambda: bool(_rebuilders_of(process.pid)))
    rebuilders = _rebuilders_of(process.pid)
    process.send_signal(kind)
    assert process.wait(30) == status
    assert not any(Path(f"/proc/{pid}").exists() for pid in rebuilders)
    assert list(tmp_path.iterdir()) == []


def _rebuilders_of(parent: int) -> list[int]:
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    commands = {int(pid): Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children}
    return [pid for pid, words in commands.items() if b"bento.functions.browser.apart" in words]


def test_the_saved_page_is_opened_in_the_users_browser(
    user: User, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {tmp_path}/opened\n')
    browser.chmod(0o755)
    monkeypatch.setenv("BROWSER", str(browser))
    file = tmp_path / "a page.html"
    assert user.run("browse", "http://browse.test/", "-o", str(file), "--open").returncode == 0
    assert (tmp_path / "opened").read_text() == f"{file.as_uri()}\n"
