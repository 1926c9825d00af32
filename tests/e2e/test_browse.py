"""`bento browse` as people type it, over the private network."""

import json
from pathlib import Path

import pytest

from tests.users import User

pytestmark = pytest.mark.needs("tor", "namespaces", "seccomp")


def test_a_page_comes_as_one_file(user: User, tmp_path: Path) -> None:
    done = user.run("browse", "http://demo.test/", "-o", str(tmp_path / "page.html"), "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["url"], told["status"], told["resources"]) == ("http://demo.test/", 200, 3)
    assert told["sent_bytes"] == 512 * 1024
    assert told["page_bytes"] == (tmp_path / "page.html").stat().st_size
    assert len(told["circuit"]) == 3
    assert told["failures"] == []
