"""The browser's function against web sites that mean harm, are broken, or just old: over plain sockets."""

import gzip
import socket
import zlib
from itertools import repeat

import pytest

from bento.functions.browser import fetching, function
from bento.functions.browser.function import browse
from bento.functions.browser.packet import (
    MAX_ALL_BYTES,
    MAX_NAMED,
    MAX_RESOURCES,
    Fetched,
    padded_size,
    read_header,
    unpack,
)
from tests.hostile_site import Answer, Site, moved, ok, serving

BUCKETS = (4096, 65536)
MIB = 2**20
PIXEL = b"GIF89a"


def visit(url: str, **options: bool) -> Fetched:
    data = b"".join(browse(url, BUCKETS, **options))
    size = read_header(data)
    assert len(data) == padded_size(size, BUCKETS)
    return unpack(data)


def bodies(fetched: Fetched) -> list[bytes]:
    return sorted(part.body for part in fetched.parts[1:])


def reasons(fetched: Fetched) -> list[str]:
    return [failure.reason for failure in fetched.failures]


def page_with(resource: Answer, **options: bool) -> tuple[Fetched, Site]:
    """A page with one picture, answered so."""
    with serving({"/": ok("<img src=a.gif>"), "/a.gif": resource}) as site:
        return visit(site.url(), **options), site


def page_of(answer: Answer, **options: bool) -> Fetched:
    with serving({"/": answer}) as site:
        return visit(site.url(), **options)


@pytest.fixture
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(function, "SILENCE_S", 0.3)
    monkeypatch.setattr(function, "ALL_S", 2)
    monkeypatch.setattr(fetching, "EACH_S", 1)
    monkeypatch.setattr(function, "EACH_S", 1)


def drip(connection: socket.socket) -> None:
    """A byte of a header now and then, for ever."""
    connection.sendall(b"HTTP/1.1 200 OK\r\nX: ")
    event = connection.settimeout
    while True:
        event(0.05)
        try:
            connection.recv(1)
        except TimeoutError:
            connection.sendall(b"x")
        else:
            return


def pour(size: int, head: bytes = b"HTTP/1.1 200 OK\r\nContent-Type: image/gif\r\n\r\n") -> Answer:
    def send(connection: socket.socket) -> None:
        connection.sendall(head)
        for piece in repeat(bytes(MIB), size // MIB):
            connection.sendall(piece)

    return send


def test_a_page_and_all_that_it_names_come() -> None:
    answers: dict[str, Answer] = {
        "/": ok(
            '<link rel=stylesheet href="s/a.css"><link rel=icon href=i.png><img src="p.gif?a=1&amp;b=2#x">'
            '<img srcset="small.gif 320w, right.gif 1280w, huge.gif 4000w" src=none.gif><video poster=v.gif src=v.mp4>'
            "</video><table background=b.gif></table><p style=\"background: url('q.gif')\"></p>"
            "<picture><source srcset=w.webp type=image/webp><img src=fallback.gif></picture>"
            "<svg><image xlink:href=x.gif></image></svg><input type=image src=in.gif><input src=no.gif>"
            "<style>@import 'm.css' print; p { background: url(data:,) }</style><script src=no.js></script>"
            "<noscript><img src=lazy.gif></noscript><iframe src=frame.html></iframe>"
        ),
        "/s/a.css": ok(
            '@import "b.css"; @font-face { src: url(f.eot); src: url(f.eot?#iefix), url(f.woff2), url(f.woff) }',
            "text/css",
        ),
        "/s/b.css": ok("/* url(no.gif) */ a { background: url( ../bg.gif ) }", "text/css"),
        "/m.css": ok("", "text/css"),
    }
    found = ["/i.png", "/p.gif?a=1&b=2", "/right.gif", "/v.gif", "/b.gif", "/q.gif", "/w.webp", "/x.gif", "/in.gif"]
    found += ["/lazy.gif", "/s/f.woff2", "/bg.gif"]
    answers |= {path: ok(path, "image/gif") for path in found}
    with serving(answers) as site:
        fetched = visit(site.url())
    assert sorted(site.paths) == sorted(answers)
    assert len(fetched.parts) == len(answers)
    assert sorted(reasons(fetched)) == ["left out: frames are left out", "left out: sound and video are left out"]


def test_scripts_come_if_asked_for() -> None:
    with serving({"/": ok("<script src=a.js></script>"), "/a.js": ok("1", "text/javascript")}) as site:
        assert len(visit(site.url()).parts) == 1
        assert len(visit(site.url(), scripts=True).parts) == 2


def test_references_are_relative_to_the_base_and_to_where_a_redirect_led() -> None:
    answers: dict[str, Answer] = {
        "/": moved("/deep/page"),
        "/deep/page": ok('<base href="/other/"><img src=a.gif><link rel=stylesheet href=//127.0.0.1:PORT/s.css>'),
        "/other/a.gif": ok("a", "image/gif"),
        "/s.css": moved("/styles/s.css"),
        "/styles/s.css": ok("a { background: url(b.gif) }", "text/css"),
        "/styles/b.gif": ok("b", "image/gif"),
    }
    with serving(answers) as site:
        page = answers["/deep/page"]
        assert isinstance(page, bytes)
        body = page.partition(b"\r\n\r\n")[2].replace(b"PORT", str(site.port).encode())
        answers["/deep/page"] = ok(body)
        fetched = visit(site.url())
    assert fetched.parts[0].base == site.url("/deep/page")
    assert bodies(fetched) == [b"a", b"a { background: url(b.gif) }", b"b"]


def test_cookies_last_for_the_visit() -> None:
    answers: dict[str, Answer] = {
        "/": moved("/page", "Set-Cookie: seen=1"),
        "/page": ok("<img src=a.gif>", "text/html", "Set-Cookie: page=2"),
        "/a.gif": ok("a", "image/gif"),
    }
    with serving(answers) as site:
        visit(site.url())
        visit(site.url("/page"))
    assert ["Cookie: seen=1\r" in head or "cookie: seen=1\r" in head.lower() for head in site.asked[:2]] == [
        False,
        True,
    ]
    assert "seen=1; page=2" in site.asked[2]
    assert "cookie:" not in site.asked[3].lower()


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ("é.gif".join(('<img src="', '">')).encode("latin-1"), "text/html; charset=iso-8859-1"),
        ('<meta charset=windows-1252><img src="é.gif">'.encode("cp1252"), "text/html"),
        ('\ufeff<meta charset=koi8-r><img src="é.gif">'.encode(), "text/html; charset=koi8-r"),
        ('<img src="é.gif">'.encode("utf-16"), "text/html"),
        ('<meta http-equiv=content-type content="text/html; charset=utf-16"><img src="é.gif">'.encode(), "text/html"),
    ],
)
def test_a_page_is_read_in_its_character_set(body: bytes, kind: str) -> None:
    with serving({"/": ok(body, kind), "/%C3%A9.gif": ok(PIXEL, "image/gif")}) as site:
        assert bodies(visit(site.url())) == [PIXEL]


def test_a_page_that_is_not_found_is_a_page() -> None:
    fetched = page_of(b"HTTP/1.1 404 Not Found\r\nContent-Type: text/html\r\nContent-Length: 4\r\n\r\nnone")
    assert (fetched.status, fetched.parts[0].body) == (404, b"none")


def test_a_resource_that_is_not_found_is_recorded() -> None:
    fetched, _ = page_with(b"HTTP/1.1 404 Not Found\r\nContent-Length: 4\r\n\r\nnone")
    assert (len(fetched.parts), reasons(fetched)) == (1, ["the server answered 404"])


def test_what_is_no_style_sheet_is_not_taken_for_one() -> None:
    with serving({"/": ok("<link rel=stylesheet href=a.css>"), "/a.css": ok("a{}", "text/html")}) as site:
        assert reasons(visit(site.url())) == ["it is text/html, no style sheet"]


def test_style_sheets_that_import_each_other_are_fetched_once() -> None:
    answers: dict[str, Answer] = {
        "/": ok("<link rel=stylesheet href=a.css>"),
        "/a.css": ok("@import 'b.css'; @import 'a.css';", "text/css"),
        "/b.css": ok("@import url(a.css);", "text/css"),
    }
    with serving(answers) as site:
        visit(site.url())
    assert sorted(site.paths) == ["/", "/a.css", "/b.css"]


def test_a_chain_of_imports_ends() -> None:
    chain: dict[str, Answer] = {f"/{n}.css": ok(f"@import '{n + 1}.css';", "text/css") for n in range(20)}
    with serving({"/": ok("<link rel=stylesheet href=0.css>"), **chain}) as site:
        fetched = visit(site.url())
    assert len(fetched.parts) == 1 + function.MAX_DEPTH
    assert reasons(fetched) == [f"left out: more than {function.MAX_DEPTH} style sheets deep"]


def test_a_page_with_5000_resources_has_the_most_important_fetched_and_the_rest_told() -> None:
    names = "".join(f"<img src={n}.gif>" for n in range(5000))
    answers: dict[str, Answer] = {f"/{n}.gif": ok(PIXEL, "image/gif") for n in range(5000)}
    answers |= {"/": ok(f"{names}<link rel=stylesheet href=a.css>"), "/a.css": ok("a{}", "text/css")}
    with serving(answers) as site:
        fetched = visit(site.url())
    assert "/a.css" in site.paths[: 1 + function.WORKERS]
    assert len(fetched.parts) + len(fetched.failures) == 5002
    assert len(fetched.parts) == MAX_RESOURCES + 1
    assert set(reasons(fetched)) == {f"left out: {MAX_RESOURCES} others came first"}


def test_a_page_that_names_a_hundred_thousand_is_told_of_in_part() -> None:
    fetched = page_of(ok("".join(f"<iframe src={n}></iframe>" for n in range(100_000))))
    assert len(fetched.failures) == MAX_NAMED
    assert "all behind it" in fetched.failures[-1].reason


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (moved("/"), "failed", "more than 20 redirects"),
        (moved("ftp://127.0.0.1/"), "failed", "ftp"),
        (moved("http://[:::/"), "failed", "URL"),
        (moved("/" + "x" * 9000), "failed", "4096 characters"),
        (b"", "failed", "disconnected"),
        (b"\x00\xff" * 5000, "failed", ""),
        (b"SSH-2.0-OpenSSH\r\n", "failed", ""),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100_000, "failed", ""),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "cut", ""),
        (ok("half", length=1000), "cut", "4 bytes"),
        (ok(b"no gzip", "text/html", "Content-Encoding: gzip"), "cut", "header"),
        (ok(gzip.compress(b"x" * 9999)[:-20], "text/html", "Content-Encoding: gzip"), "cut", "compressed form"),
        (ok(b"x", "text/html", "Content-Encoding: br"), "cut", "br"),
        (pour(200 * MIB, b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n"), "limit", "8388608"),
        (ok(gzip.compress(bytes(64 * MIB)), "text/html", "Content-Encoding: gzip"), "limit", "8388608"),
    ],
)
def test_why_there_is_no_page_is_told(answer: Answer, kind: str, words: str) -> None:
    fetched = page_of(answer)
    assert fetched.parts == ()
    assert fetched.problem
    assert fetched.problem.kind == kind
    assert words in fetched.problem.message


def test_a_server_that_is_not_there_is_told_of() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    problem = visit(f"http://127.0.0.1:{port}/").problem
    assert problem
    assert (problem.kind, problem.type, problem.message) == ("failed", "ConnectionRefusedError", "Connection refused")


def test_a_denied_page_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    def deny(*_: object, **__: object) -> socket.socket:
        raise PermissionError(13, "the relay's exit policy rejects 10.0.0.1:80")

    monkeypatch.setattr(socket, "create_connection", deny)
    problem = visit("http://10.0.0.1/").problem
    assert problem
    assert (problem.kind, problem.message) == ("denied", "denied: the relay's exit policy rejects 10.0.0.1:80")


@pytest.mark.parametrize("answer", [ok("half", length=1000), pour(9 * MIB, b"HTTP/1.1 200 OK\r\n\r\n")])
def test_a_page_that_was_cut_short_is_kept_if_asked_for(answer: Answer) -> None:
    fetched = page_of(answer, keep_cut=True)
    assert fetched.problem is None
    assert len(fetched.parts) == len(fetched.failures) == 1


def test_a_body_longer_than_its_length_is_as_long_as_it_says() -> None:
    fetched = page_of(ok("rightjunk", length=5))
    assert fetched.parts[0].body == b"right"


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (pour(200 * MIB), "33554432"),
        (ok(gzip.compress(bytes(200 * MIB), 1), "image/gif", "Content-Encoding: gzip"), "33554432"),
        (ok(PIXEL, "image/gif", length=100), "6 bytes"),
        (moved("/a.gif"), "20 redirects"),
        (b"\x00" * 100, ""),
    ],
)
def test_a_resource_that_can_not_be_had_costs_only_itself(answer: Answer, words: str) -> None:
    fetched, _ = page_with(answer)
    assert fetched.problem is None
    assert len(fetched.parts) == 1
    assert words in reasons(fetched)[0]


def test_what_came_of_a_resource_is_kept_if_asked_for() -> None:
    fetched, _ = page_with(ok(PIXEL, "image/gif", length=100), keep_cut=True)
    assert (bodies(fetched), len(fetched.failures)) == ([PIXEL], 1)


@pytest.mark.parametrize("packed", [gzip.compress(PIXEL), zlib.compress(PIXEL), zlib.compress(PIXEL)[2:-4]])
def test_compressed_resources_are_unpacked(packed: bytes) -> None:
    encoding = "gzip" if packed[:1] == b"\x1f" else "deflate"
    fetched, _ = page_with(ok(packed, "image/gif", f"Content-Encoding: {encoding}"))
    assert bodies(fetched) == [PIXEL]


def test_all_together_stay_within_the_limit() -> None:
    with serving({"/": ok("".join(f"<img src={n}>" for n in range(9)))}) as site:
        site.answers.update({f"/{n}": ok(bytes(20 * MIB), "image/gif") for n in range(9)})
        fetched = visit(site.url())
    assert sum(len(part.body) for part in fetched.parts) <= MAX_ALL_BYTES
    assert any("67108864" in reason for reason in reasons(fetched))


@pytest.mark.usefixtures("short_waits")
def test_a_page_that_stalls_is_given_up() -> None:
    for answer in (lambda connection: connection.recv(1), drip):
        problem = page_of(answer).problem
        assert problem
        assert (problem.kind, problem.type) == ("failed", "TimeoutError")


@pytest.mark.usefixtures("short_waits")
def test_resources_that_stall_are_left_out() -> None:
    names = "".join(f"<img src={n}.gif>" for n in range(20))
    answers: dict[str, Answer] = {f"/{n}.gif": drip for n in range(20)}
    with serving({"/": ok(f"<img src=a.gif>{names}"), "/a.gif": ok(PIXEL, "image/gif"), **answers}) as site:
        fetched = visit(site.url())
    assert bodies(fetched) == [PIXEL]
    assert len(fetched.failures) == 20


def test_a_referrer_is_told_as_much_as_browsers_tell_at_each_redirect_anew() -> None:
    with serving({}) as other, serving({}) as site:
        name = f"127.0.0.1:{site.port}"
        site.answers |= {"/p": ok("<img src=a><img src=b>"), "/a": ok(PIXEL, "image/gif"), "/b": moved(other.url("/b"))}
        visit(f"http://me:secret@{name}/p#fragment")
    lines = "".join([*site.asked, *other.asked]).split("\r\n")
    told = [line for line in lines if line[:8].lower() == "referer:"]
    assert sorted(told) == sorted([f"Referer: http://{name}/p"] * 2 + [f"Referer: http://{name}/"])
    assert not any("secret" in head or "fragment" in head for head in (*site.asked, *other.asked))
    assert not any("authorization" in head.lower() for head in other.asked)


def test_headers_are_a_common_browsers_and_name_no_more_than_that() -> None:
    fetched, site = page_with(ok(PIXEL, "image/gif"))
    assert bodies(fetched) == [PIXEL]
    for head in site.asked:
        names = {line.partition(":")[0].lower() for line in head.split("\r\n")[1:] if line}
        assert names <= {"host", "accept", "connection", "user-agent", "accept-language", "accept-encoding", "referer"}
        assert "python" not in head.lower()
    assert f"referer: {site.url()}\r\n" in site.asked[1].lower()
