"""The network's DNS answers and web pages, without sockets."""

from http import HTTPStatus
from pathlib import Path

import pytest
from dnslib import RCODE, DNSError, DNSRecord

from bento.errors import UsageError
from bento.testnet.dns import answer
from bento.testnet.layout import WEB_ADDRESSES, web_address
from bento.testnet.web import Request, add_site, find_page, parse_request


@pytest.fixture
def sites(tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    (folder / "inner").mkdir(parents=True)
    (folder / "index.html").write_text("front")
    (folder / "inner/index.html").write_text("inner")
    (folder / "a b.txt").write_text("spaced")
    (folder / "way-out").symlink_to(tmp_path)
    (tmp_path / "secret").write_text("secret")
    (tmp_path / "folder-beside").mkdir()
    (tmp_path / "folder-beside/secret").write_text("secret")
    (tmp_path / "sites").mkdir()
    add_site(tmp_path / "sites", "demo.test", folder)
    return tmp_path / "sites"


def get(path: str, host: str = "demo.test") -> Request:
    request = parse_request(f"GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
    assert request
    return request


def ask(name: str, kind: str = "A") -> DNSRecord:
    return DNSRecord.parse(answer(DNSRecord.question(name, kind).pack()))


def test_names_in_test_resolve_to_the_web_server_whatever_their_case() -> None:
    assert ask("demo.test").short() == ask("DeMo.TeSt").short() == web_address("demo.test")
    assert {ask(f"n{number}.test").short() for number in range(500)} == set(WEB_ADDRESSES)


def test_pages_name_their_own_character_set(sites: Path) -> None:
    assert find_page(sites, get("/")).content_type == "text/html"
    assert find_page(sites, get("/a%20b.txt")).content_type == "text/plain; charset=utf-8"


@pytest.mark.parametrize("name", ["example.com", "test.com", "nottest", "demo.test.org"])
def test_other_names_do_not_exist(name: str) -> None:
    assert ask(name).header.rcode == RCODE.NXDOMAIN


def test_other_types_of_a_name_in_test_are_empty() -> None:
    reply = ask("demo.test", "AAAA")
    assert (reply.header.rcode, reply.rr) == (RCODE.NOERROR, [])


def test_refuses_what_is_no_query() -> None:
    with pytest.raises(DNSError):
        answer(b"\x00\x01")


@pytest.mark.parametrize(
    ("path", "content"),
    [("/", "front"), ("/index.html?x=1", "front"), ("/inner", "inner"), ("/inner/", "inner"), ("/a%20b.txt", "spaced")],
)
def test_serves_files_and_index_pages(sites: Path, path: str, content: str) -> None:
    page = find_page(sites, get(path))
    assert page.status is HTTPStatus.OK
    assert page.file
    assert page.file.read_text() == content


@pytest.mark.parametrize(
    "path",
    [
        "/../secret",
        "/..%2fsecret",
        "/%2e%2e/secret",
        "/inner/../../secret",
        "//../secret",
        "/way-out/secret",
        "/../folder-beside/secret",
        "/nothing",
        "/%00",
    ],
)
def test_no_path_leaves_the_folder(sites: Path, path: str) -> None:
    assert find_page(sites, get(path)).status is HTTPStatus.NOT_FOUND


@pytest.mark.parametrize("host", ["..", "../folder", "demo.com", "", "/", ".test", "a..test"])
def test_no_host_leaves_the_sites(sites: Path, host: str) -> None:
    assert find_page(sites, get("/", host)).status is HTTPStatus.NOT_FOUND


def test_a_name_without_a_folder_says_what_it_is(sites: Path) -> None:
    page = find_page(sites, get("/anything", "other.test"))
    assert page.status is HTTPStatus.OK
    assert "other.test" in page.text


def test_a_site_may_be_given_another_folder(sites: Path, tmp_path: Path) -> None:
    (tmp_path / "folder-beside/index.html").write_text("other")
    add_site(sites, "Demo.test", tmp_path / "folder-beside")
    page = find_page(sites, get("/"))
    assert page.file
    assert page.file.read_text() == "other"


@pytest.mark.parametrize("name", ["demo.com", "test", "../x.test", "a b.test", "-.test", "x" * 64 + ".test"])
def test_refuses_names_that_are_no_host_in_test(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"ends in \.test"):
        add_site(tmp_path, name, tmp_path)


def test_refuses_a_folder_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no folder"):
        add_site(tmp_path, "demo.test", tmp_path / "nothing")


def test_refuses_methods_that_change_things(sites: Path) -> None:
    request = parse_request(b"POST / HTTP/1.1\r\nHost: demo.test\r\nContent-Length: 3\r\n\r\n")
    assert request
    assert find_page(sites, request).status is HTTPStatus.METHOD_NOT_ALLOWED
    assert not request.keeps_open


@pytest.mark.parametrize("head", [b"\r\n\r\n", b"GET /\r\n\r\n", b"SSH-2.0-x\r\n\r\n", b"\xff\xfe \x00 HTTP/2\r\n\r\n"])
def test_what_is_not_http_is_no_request(head: bytes) -> None:
    assert parse_request(head) is None
