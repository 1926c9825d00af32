"""Python's own sockets in a confined function: what libraries rely on, each way to end, and what stays shut.

The sandbox and the loader are real; the box is the test's (tests/dialling.py), and keeps a duplicate of each
connection as a real one does.
"""

import fcntl
import http.server
import queue
import socketserver
import ssl
import termios
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import trustme

from bento.protocol.broker import Dial, Resolve
from tests.dialling import WAIT_S, Instance, Sandbox, World

_ADDRESS = "203.0.113.1"
_SOURCE = b"""
import asyncio, ctypes, errno, gc, http.client, os, select, selectors, socket, ssl, stat, struct, threading, time
import traceback, urllib.request

def echo(data, host="demo.test", port=7):
    connected = socket.create_connection((host, port), 10)
    connected.sendall(data)
    assert connected.recv(100) == data
    return connected

def raises(kind, call, *args):
    try:
        call(*args)
    except kind as error:
        return error
    raise AssertionError(f"nothing raised, {kind.__name__} expected")

def attempt(code):
    try:
        exec(code, dict(globals()))
    except BaseException:
        return traceback.format_exc()

def failure(code):
    try:
        exec(code, dict(globals()))
    except OSError as error:
        return [type(error).__name__, str(error)]
"""


class _Pages(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = f"hello {self.path}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


class _Echo(socketserver.BaseRequestHandler):
    """Sends back what comes; at the end of the stream, notes what came first."""

    ended: "queue.Queue[bytes]" = queue.Queue()

    def handle(self) -> None:
        first = b""
        while data := self.request.recv(65536):
            first = first or data
            self.request.sendall(data)
        self.ended.put(first)


class _Late(_Echo):
    """The same, for what the box dials late."""

    ended: "queue.Queue[bytes]" = queue.Queue()


class _Server(socketserver.ThreadingTCPServer):
    """With TLS if it has a context."""

    daemon_threads = True
    request_queue_size = 100

    def __init__(self, handler: Any, tls: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), handler)
        self._tls = tls
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def finish_request(self, request: Any, client_address: Any) -> None:
        if self._tls is not None:
            request = self._tls.wrap_socket(request, server_side=True)
        super().finish_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


@pytest.fixture(scope="module")
def world() -> Iterator[tuple[World, bytes]]:
    """What the box leads to, and the authority of its certificates."""
    authority = trustme.CA()
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("demo.test").configure_cert(tls)
    with ExitStack() as stack:
        kinds = {
            80: (_Pages, None),
            443: (_Pages, tls),
            7: (_Echo, None),
            8: (_Echo, tls),
            1: (_Late, None),
        }
        servers = {port: stack.enter_context(_Server(*kind)) for port, kind in kinds.items()}
        found = World({"demo.test": (_ADDRESS, "2001:db8::1"), "two.test": ("203.0.113.2", _ADDRESS)}, {})
        found.names["xn--bcher-kva.test"] = (_ADDRESS,)
        found.places |= {(_ADDRESS, port): server.server_address for port, server in servers.items()}  # type: ignore[misc]
        found.places |= {("203.0.113.2", 7): "refused", ("203.0.113.3", 7): "unreachable", ("203.0.113.3", 8): "busy"}
        found.places |= {("203.0.113.2", 8): "timeout"}
        yield found, authority.cert_pem.bytes()


@pytest.fixture(scope="module")
def sandbox(
    world: tuple[World, bytes], need: Callable[..., None], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Sandbox]:
    need("namespaces", "seccomp")
    with Sandbox(tmp_path_factory.mktemp("run"), world[1]) as found:
        yield found


@pytest.fixture(scope="module")
def instance(sandbox: Sandbox, world: tuple[World, bytes]) -> Iterator[Instance]:
    """The instance of most tests."""
    with sandbox.start(_SOURCE, world[0]) as found:
        yield found


LIBRARIES = {
    "urllib": "assert urllib.request.urlopen('https://demo.test/x', timeout=10).read() == b'hello /x'",
    "http.client": """
connection = http.client.HTTPSConnection("demo.test", timeout=10)
for _ in range(2):
    connection.request("GET", "/x")
    assert connection.getresponse().read() == b"hello /x"
connection.close()""",
    "requests": """
import requests
with requests.Session() as session:
    for url in ("http://demo.test/x", "https://demo.test/x", "https://demo.test/x"):
        assert session.get(url, timeout=10).text == "hello /x"
""",
    "requests and httpx, timed out, no name": """
import httpx, requests
raises(requests.ConnectTimeout, requests.get, "http://203.0.113.2:8/")
raises(httpx.ConnectTimeout, httpx.get, "http://203.0.113.2:8/")
for kind, get in ((requests.ConnectionError, requests.get), (httpx.ConnectError, httpx.get)):
    assert "no address for nothing.test" in str(raises(kind, get, "http://nothing.test/"))
    assert "refused" in str(raises(kind, get, "http://203.0.113.2:7/"))""",
    "requests, refused": """
import requests
error = raises(requests.ConnectionError, requests.get, "http://203.0.113.9/")
assert "203.0.113.9:80 is denied" in str(error), error""",
    "httpx": """
import httpx
with httpx.Client(timeout=10) as client:
    for url in ("http://demo.test/x", "https://demo.test/x", "https://demo.test/x"):
        assert client.get(url).text == "hello /x"
error = raises(httpx.ConnectError, httpx.get, "http://203.0.113.9/")
assert "203.0.113.9:80 is denied" in str(error), error""",
    "httpx, async": """
import httpx
async def main():
    async with httpx.AsyncClient(timeout=10) as client:
        urls = ["https://demo.test/x", "http://demo.test/x"] * 10
        for answer in await asyncio.gather(*map(client.get, urls)):
            assert answer.text == "hello /x"
asyncio.run(main())
assert not any(thread.name.startswith("asyncio") for thread in threading.enumerate())""",
    "TLS that begins later": """
async def main():
    reader, writer = await asyncio.open_connection("demo.test", 8)
    await writer.start_tls(ssl.create_default_context(), server_hostname="demo.test")
    writer.write(b"hello")
    assert await reader.read(10) == b"hello"
    writer.close()
    await writer.wait_closed()
asyncio.run(main())""",
    "urllib3 in threads": """
import urllib3
from concurrent.futures import ThreadPoolExecutor
def get(number):
    return pool.request("GET", f"http{'s' * (number % 2)}://demo.test/{number}").data
with urllib3.PoolManager(maxsize=4) as pool, ThreadPoolExecutor(8) as threads:
    assert list(threads.map(get, range(40))) == [b"hello /%d" % number for number in range(40)]""",
    "asyncio streams": """
async def main():
    reader, writer = await asyncio.open_connection("demo.test", 8, ssl=ssl.create_default_context())
    writer.write(b"x" * 1_000_000)
    assert len(await reader.readexactly(1_000_000)) == 1_000_000
    writer.close()
    await writer.wait_closed()
asyncio.run(main())""",
    "a certificate of another name": """
error = raises(ssl.SSLCertVerificationError, lambda: ssl.create_default_context().wrap_socket(
    socket.create_connection(("demo.test", 443)), server_hostname="other.test"))""",
    "TLS before the connection": """
wrapped = ssl.create_default_context().wrap_socket(socket.socket(), server_hostname="demo.test")
wrapped.settimeout(10)
wrapped.connect(("demo.test", 8))
wrapped.sendall(b"x")
assert wrapped.recv(1) == b"x"
wrapped.close()""",
    "api.fetch": "assert api.fetch('https://demo.test/x').text == 'hello /x'",
    "a file that is sent": """
with open("/data/file", "wb") as file:
    file.write(b"x" * 100_000)
connected = echo(b".")
with open("/data/file", "rb") as file:
    connected.sendfile(file)
assert len(connected.makefile("rb").read(100_000)) == 100_000""",
    "twenty threads": """
done = []
def one(number):
    data = b"%d" % number
    with echo(data):
        done.append(data)
threads = [threading.Thread(target=one, args=(number,)) for number in range(20)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
assert len(set(done)) == 20""",
    "eighty at once in a loop": """
async def one(number):
    reader, writer = await asyncio.open_connection("demo.test", 7)
    writer.write(b"%d" % number)
    assert await reader.read(9) == b"%d" % number
    writer.close()
async def main():
    await asyncio.gather(*map(one, range(80)))
asyncio.run(main())""",
}

BEHAVIOUR = {
    "select and a socket that does not block": """
waiting = socket.socket()
waiting.setblocking(False)
assert waiting.connect_ex(("203.0.113.1", 7)) in (0, errno.EINPROGRESS)
with selectors.DefaultSelector() as selector:
    selector.register(waiting, selectors.EVENT_WRITE)
    assert selector.select(5)
    assert waiting.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
    raises(BlockingIOError, waiting.recv, 1)
    waiting.send(b"x")
    assert select.select([waiting], [], [], 5)[0] and waiting.recv(1) == b"x"
assert (waiting.gettimeout(), os.get_blocking(waiting.fileno())) == (0, False)""",
    "a timeout stays, and is kept": """
connected = echo(b"x")
connected.settimeout(0.05)
raises(TimeoutError, connected.recv, 1)
fresh = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
assert (fresh.gettimeout(), fresh.type) == (0, socket.SOCK_STREAM)
blocking = socket.socket()
blocking.connect(("203.0.113.1", 7))
assert blocking.gettimeout() is None and os.get_blocking(blocking.fileno())""",
    "a number that stays": """
fresh = socket.socket()
number = fresh.fileno()
fresh.connect(("203.0.113.1", 7))
assert fresh.fileno() == number and not os.get_inheritable(number)""",
    "options set before": """
fresh = socket.socket()
fresh.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
fresh.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, struct.pack("i", 77))
fresh.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
for _ in range(2):
    assert fresh.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
    assert fresh.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 77
    assert fresh.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
    assert fresh.getsockopt(socket.SOL_SOCKET, socket.SO_DOMAIN) == socket.AF_INET
    assert fresh.getsockopt(socket.SOL_SOCKET, socket.SO_PROTOCOL) == socket.IPPROTO_TCP
    assert fresh.getsockopt(socket.SOL_SOCKET, socket.SO_TYPE, 4) == struct.pack("i", socket.SOCK_STREAM)
    assert not fresh.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT) or fresh.getpeername()
    fresh.connect(("203.0.113.1", 7)) if not _ else None""",
    "options that are refused, before as after": """
for sock in (socket.socket(), echo(b"x")):
    for level, option in ((socket.SOL_SOCKET, socket.SO_RCVBUF), (socket.IPPROTO_TCP, 30)):
        assert raises(PermissionError, sock.setsockopt, level, option, 1).errno == errno.EPERM
    assert raises(PermissionError, sock.getsockopt, socket.SOL_SOCKET, socket.SO_PEERCRED, 12).errno == errno.EPERM
    raises(TypeError, sock.setsockopt, 1, 9)""",
    "before the connection": """
with socket.socket() as fresh:
    assert raises(OSError, fresh.getpeername).errno == errno.ENOTCONN
    assert (fresh.getsockname(), fresh.family, fresh.proto) == (("0.0.0.0", 0), socket.AF_INET, 0)
    assert "laddr=('0.0.0.0', 0)" in repr(fresh) and "raddr" not in repr(fresh)
with socket.socket(socket.AF_INET6) as fresh:
    assert fresh.getsockname() == ("::", 0, 0, 0)
assert raises(OSError, fresh.connect, ("203.0.113.1", 7)).errno == errno.EBADF""",
    "twice": """
connected = echo(b"x")
assert raises(OSError, connected.connect, ("203.0.113.1", 7)).errno == errno.EISCONN
assert connected.connect_ex(("203.0.113.1", 7)) == errno.EISCONN""",
    "numbers of errors": """
def number(address, family=socket.AF_INET):
    with socket.socket(family) as fresh:
        return fresh.connect_ex(address)
assert number(("203.0.113.2", 7)) == errno.ECONNREFUSED
assert number(("203.0.113.9", 7)) == errno.EACCES
assert number(("203.0.113.3", 7)) == errno.EHOSTUNREACH
assert number(("203.0.113.2", 8)) == errno.ETIMEDOUT
raises(socket.gaierror, number, ("nothing.test", 7))""",
    "addresses that are none": """
fresh = socket.socket()
raises(TypeError, fresh.connect, "demo.test")
raises(TypeError, fresh.connect, ("demo.test",))
raises(TypeError, fresh.connect, ("demo.test", "7"))
raises(OverflowError, fresh.connect, ("demo.test", 65536))
assert raises(socket.gaierror, fresh.connect, ("::1", 7)).errno == socket.EAI_ADDRFAMILY
fresh.connect(("203.0.113.1", 7))""",
    "a failed one may try again": """
fresh = socket.socket()
raises(ConnectionRefusedError, fresh.connect, ("203.0.113.2", 7))
fresh.connect(("203.0.113.1", 7))""",
    "the next address": "echo(b'x', 'two.test').close()",
    "listening": """
async def serve():
    await asyncio.start_server(print, "127.0.0.1", 8000)
fresh = socket.socket()
for call in (lambda: socket.create_server(("", 8000)), fresh.listen, fresh.accept, lambda: asyncio.run(serve())):
    assert "listen" in str(raises(PermissionError, call))""",
    "other kinds": """
for args in ((socket.AF_INET, socket.SOCK_DGRAM), (socket.AF_INET, socket.SOCK_RAW, 1), (socket.AF_UNIX,),
             (socket.AF_INET, socket.SOCK_STREAM, 132), (socket.AF_NETLINK, socket.SOCK_RAW)):
    assert "TCP connections only" in str(raises(PermissionError, socket.socket, *args))""",
    "addresses of names": """
streams = socket.SOCK_STREAM
found = socket.getaddrinfo("demo.test", 80)
assert found == [(2, 1, 6, "", ("203.0.113.1", 80)), (10, 1, 6, "", ("2001:db8::1", 80, 0, 0))], found
assert isinstance(found[0][0], socket.AddressFamily)
assert socket.getaddrinfo(b"demo.test", "http", socket.AF_INET6, streams) == found[1:]
assert socket.getaddrinfo("demo.test", 80, type=socket.SOCK_DGRAM)[0][1] == socket.SOCK_DGRAM
assert socket.getaddrinfo("demo.test", None, flags=socket.AI_CANONNAME)[0][3] == "demo.test"
assert socket.getaddrinfo("b\\u00fccher.test", 80)[0][4] == ("203.0.113.1", 80)
assert raises(socket.gaierror, socket.getaddrinfo, "demo.test", 80, 0, 0, 0, socket.AI_NUMERICHOST).errno == -2
raises(socket.gaierror, socket.getaddrinfo, "demo.test", "nothing")
assert socket.gethostbyname("demo.test") == "203.0.113.1"
assert socket.gethostbyname_ex("demo.test") == ("demo.test", [], ["203.0.113.1"])
raises(socket.gaierror, socket.gethostbyname, "nothing.test")
raises(socket.herror, socket.gethostbyaddr, "203.0.113.1")
assert socket.getfqdn()
async def main():
    loop = asyncio.get_running_loop()
    assert await loop.getaddrinfo("demo.test", 80) == found
    assert await loop.getnameinfo(("203.0.113.1", 80)) == ("203.0.113.1", "80")
asyncio.run(main())""",
    "one's own name": """
import smtplib
assert socket.gethostbyname(socket.gethostname()) == "127.0.0.1"
assert socket.getaddrinfo("Localhost", 7, socket.AF_INET6, socket.SOCK_STREAM)[0][4] == ("::1", 7, 0, 0)
raises(socket.gaierror, socket.getaddrinfo, "localhost", 7, 0, 0, 0, socket.AI_NUMERICHOST)
assert smtplib.SMTP(timeout=5).local_hostname == "[127.0.0.1]"
""",
    "addresses as they are written": """
assert socket.getaddrinfo("203.0.113.1", 80, type=1) == [(2, 1, 6, "", ("203.0.113.1", 80))]
assert socket.getaddrinfo("::1", "443", type=1) == [(10, 1, 6, "", ("::1", 443, 0, 0))]
assert socket.getaddrinfo("2130706433", 80, type=1)[0][4] == ("127.0.0.1", 80)
assert {entry[4][0] for entry in socket.getaddrinfo(None, 80)} == {"127.0.0.1", "::1"}
assert {entry[4][0] for entry in socket.getaddrinfo(None, 80, flags=socket.AI_PASSIVE)} == {"0.0.0.0", "::"}
raises(socket.gaierror, socket.getaddrinfo, None, None)
raises(socket.gaierror, socket.getaddrinfo, "", 80)
assert socket.gethostbyname("203.0.113.1") == "203.0.113.1"
assert socket.getnameinfo(("203.0.113.1", 80), 0) == ("203.0.113.1", "80")""",
    "a default timeout": """
socket.setdefaulttimeout(5)
try:
    fresh = socket.socket()
    fresh.connect(("203.0.113.1", 7))
    assert fresh.gettimeout() == 5
    raises(TimeoutError, fresh.settimeout(0.01) or fresh.recv, 1)
finally:
    socket.setdefaulttimeout(None)""",
    "pairs, as before": """
ours, theirs = socket.socketpair()
ours.sendall(b"x")
assert theirs.recv(1) == b"x"
ours.close()
assert theirs.recv(1) == b\"\"""",
}


@pytest.mark.parametrize("code", [*LIBRARIES.values(), *BEHAVIOUR.values()], ids=[*LIBRARIES, *BEHAVIOUR])
def test_works_as_anywhere(instance: Instance, code: str) -> None:
    assert instance.call("attempt", code) is None


def test_an_address_or_a_service_s_name_is_not_looked_up(instance: Instance, world: tuple[World, bytes]) -> None:
    world[0].asked.clear()
    assert instance.call("attempt", BEHAVIOUR["addresses as they are written"]) is None
    assert world[0].asked == []
    instance.call("failure", "socket.create_connection(('203.0.113.1', 'http'))")
    assert [(type(one), one.port) for one in world[0].asked] == [(Dial, 80)]


def test_the_box_learns_family_and_port_of_a_lookup(instance: Instance, world: tuple[World, bytes]) -> None:
    world[0].asked.clear()
    instance.call("attempt", "socket.getaddrinfo('demo.test', 80, socket.AF_INET6); socket.gethostbyname('demo.test')")
    asked = [(one.host, one.port, one.family) for one in world[0].asked if isinstance(one, Resolve)]
    assert asked == [("demo.test", 80, "6"), ("demo.test", 0, "4")]


@pytest.mark.parametrize(
    ("address", "kind", "says"),
    [
        ("203.0.113.9:7", "PermissionError", "[Errno 13] 203.0.113.9:7 is denied"),
        ("203.0.113.2:7", "ConnectionRefusedError", "[Errno 111] 203.0.113.2:7 is refused"),
        ("203.0.113.2:8", "TimeoutError", "[Errno 110] 203.0.113.2:8 is timeout"),
        ("203.0.113.3:7", "OSError", "[Errno 113] 203.0.113.3:7 is unreachable"),
        ("203.0.113.3:8", "OSError", "[Errno 105] 203.0.113.3:8 is busy"),
        ("localhost:7", "PermissionError", "[Errno 13] 127.0.0.1:7 is denied"),
        ("a..b:7", "gaierror", "[Errno -2] no address for a..b"),
        (f"{'x' * 400}:7", "gaierror", f"[Errno -2] no address for {'x' * 300}"),
    ],
)
def test_a_refusal_is_what_python_people_expect(instance: Instance, address: str, kind: str, says: str) -> None:
    host, _, port = address.partition(":")
    assert instance.call("failure", f"socket.create_connection(({host!r}, {port}))") == [kind, says]


ENDINGS = {
    "close": "echo(TOKEN).close()",
    "shutdown": "connected = echo(TOKEN); connected.shutdown(socket.SHUT_WR); assert connected.recv(1) == b''",
    "a block's end": "with echo(TOKEN): pass",
    "the last name gone": "connected = echo(TOKEN); del connected",
    "the collector": "held = [echo(TOKEN)]; held.append(held); del held; gc.collect()",
    "a file, closed last": """
connected = echo(TOKEN)
file = connected.makefile("rwb")
connected.close()
file.write(b"more\\n"); file.flush()
assert file.readline() == b"more\\n"
file.close()""",
    "a duplicate, closed last": """
connected = echo(TOKEN)
other = connected.dup()
connected.close()
other.sendall(b"more")
assert other.recv(4) == b"more"
other.close()""",
    "another object": "socket.socket(fileno=echo(TOKEN).detach()).close()",
    "TLS": """
wrapped = ssl.create_default_context().wrap_socket(
    socket.create_connection(("demo.test", 8), 10), server_hostname="demo.test")
wrapped.sendall(TOKEN)
assert wrapped.recv(100) == TOKEN
wrapped.close()""",
    "TLS, the last name gone": """
wrapped = ssl.create_default_context().wrap_socket(socket.socket(), server_hostname="demo.test")
wrapped.connect(("demo.test", 8))
wrapped.sendall(TOKEN)
assert wrapped.recv(100) == TOKEN
del wrapped""",
    "a stream of asyncio": """
async def main():
    reader, writer = await asyncio.open_connection("demo.test", 7)
    writer.write(TOKEN)
    await reader.read(1)
    writer.close()
asyncio.run(main())""",
    "an exception": """
def fail():
    connected = echo(TOKEN)
    raise ValueError
raises(ValueError, fail)""",
}


@pytest.mark.parametrize("how", ENDINGS)
def test_the_end_of_the_last_object_is_the_end_of_the_connection(instance: Instance, how: str) -> None:
    assert instance.call("attempt", f"TOKEN = {how.encode()!r}\n{ENDINGS[how]}") is None
    while _Echo.ended.get(timeout=WAIT_S) != how.encode():
        pass


@pytest.mark.parametrize("how", ["connected.close()", "del connected", "connected.shutdown(2); connected.close()"])
def test_what_a_closed_connection_left_unread_is_dropped(
    instance: Instance, world: tuple[World, bytes], how: str
) -> None:
    """Else the box would think that somebody may still read it."""
    code = "connected = echo(b'x'); connected.sendall(bytes(5000)); select.select([connected], [], [])\n" + how
    assert instance.call("attempt", code) is None
    assert fcntl.ioctl(world[0].kept[-1], termios.FIONREAD, bytes(4)) == bytes(4)


def test_without_a_descriptor_left_an_error_says_so_and_the_next_attempt_works(
    sandbox: Sandbox, world: tuple[World, bytes]
) -> None:
    code = """
fresh, held = socket.socket(), []
try:
    while True:
        held.append(os.open("/dev/null", os.O_RDONLY))
except OSError:
    pass
assert raises(OSError, socket.socket).errno == errno.EMFILE
assert raises(OSError, fresh.connect, ("203.0.113.1", 7)).errno == errno.EMFILE
for descriptor in held:
    os.close(descriptor)
fresh.connect(("203.0.113.1", 7))
"""
    with sandbox.start(_SOURCE, world[0]) as instance:  # of its own: the sessions of earlier calls may end meanwhile
        assert instance.call("attempt", code) is None


LATE = {
    "a timeout": """
fresh = socket.socket()
fresh.settimeout(0.1)
assert str(raises(TimeoutError, fresh.connect, ("203.0.113.1", 1))) == "timed out"
assert raises(OSError, fresh.getpeername).errno == errno.ENOTCONN""",
    "a timeout's number": """
fresh = socket.socket()
fresh.settimeout(0.1)
assert fresh.connect_ex(("203.0.113.1", 1)) == errno.EAGAIN""",
    "a loop that goes on": """
async def main():
    await asyncio.wait_for(asyncio.open_connection("203.0.113.1", 1), 0.1)
raises(TimeoutError, asyncio.run, main())""",
    "a socket connected meanwhile": """
from bento.guest.broker import current
fresh = socket.socket()
def connect():
    while not current()._underway:
        time.sleep(0.001)
    fresh.connect(("203.0.113.1", 7))
    raises(socket.gaierror, socket.gethostbyname, "go.test")
thread = threading.Thread(target=connect)
thread.start()
assert raises(OSError, fresh.connect, ("203.0.113.1", 1)).errno == errno.EISCONN
thread.join()
fresh.sendall(b"x")
assert fresh.recv(1) == b'x'""",
    "a socket closed meanwhile, whose number is a file's now": """
from bento.guest.broker import current
fresh, held = socket.socket(), []
def replace():
    while not current()._underway:
        time.sleep(0.001)
    fresh.close()
    held.extend(open("/data/other", "w") for _ in range(8))
    raises(socket.gaierror, socket.gethostbyname, "go.test")
thread = threading.Thread(target=replace)
thread.start()
assert raises(OSError, fresh.connect, ("203.0.113.1", 1)).errno == errno.EBADF
thread.join()
assert all(stat.S_ISREG(os.fstat(file.fileno()).st_mode) for file in held)""",
}


@pytest.mark.parametrize("code", LATE.values(), ids=LATE)
def test_a_connection_that_comes_too_late_is_closed(instance: Instance, world: tuple[World, bytes], code: str) -> None:
    world[0].held.clear()
    try:
        assert instance.call("attempt", code) is None
    finally:
        world[0].held.set()
    assert _Late.ended.get(timeout=WAIT_S) == b""


ATTACKS = {
    "a socket": "libc.socket(2, 1, 0)",
    "a datagram socket": "libc.socket(2, 2, 0)",
    "a raw socket": "libc.socket(2, 3, 255)",
    "a unix socket": "libc.socket(1, 1, 0)",
    "another peer": "libc.connect(fd, there, 16)",
    "no peer": "libc.connect(fd, bytes(16), 16)",
    "no peer, in two bytes": "libc.connect(fd, bytes(2), 2)",
    "a peer for a placeholder": "libc.connect(socket.socket().fileno(), there, 16)",
    "an address of its own": "libc.bind(fd, there, 16)",
    "listening": "libc.listen(fd, 1)",
    "accepting": "libc.accept(fd, None, None)",
    "accepting, too": "libc.accept4(fd, None, None, 0)",
    "data to an address": "libc.sendto(fd, b'x', 1, 0, there, 16)",
    "data to an address, opened fast": "libc.sendto(fd, b'x', 1, 0x20000000, there, 16)",
    "fast open in a message": "libc.sendmsg(fd, message, 0x20000000)",
    "fast open, later": "option(6, 30, 1)",
    "a device": "libc.setsockopt(fd, 1, 25, b'lo', 2)",
    "a device by index": "option(1, 62, 1)",
    "a mark": "option(1, 36, 1)",
    "a close that waits": "libc.setsockopt(fd, 1, 13, struct.pack('ii', 1, 1000), 8)",
    "a limit on waiting": "libc.setsockopt(fd, 1, 20, bytes(16), 16)",
    "room by a low mark": "option(1, 18, 1 << 24)",
    "a priority": "option(1, 12, 7)",
    "room to send": "option(1, 7, 1 << 24)",
    "room to receive": "option(1, 8, 1 << 24)",
    "room to receive, by force": "option(1, 33, 1 << 24)",
    "a window": "option(6, 10, 1 << 24)",
    "congestion control": "libc.setsockopt(fd, 6, 13, b'cubic', 5)",
    "repair": "option(6, 19, 1)",
    "another protocol on top": "libc.setsockopt(fd, 6, 31, b'tls', 3)",
    "a filter": "libc.setsockopt(fd, 1, 26, bytes(16), 16)",
    "an address that is not its own": "option(0, 19, 1)",
    "a type of service": "option(0, 1, 16)",
    "the peer's pidfd": "read(1, 77)",
    "the peer's identity": "read(1, 17)",
    "what the connection costs": "read(6, 11)",
    "urgent data": "libc.send(fd, b'x', 1, 1)",
    "data that is not copied": "libc.send(fd, b'x', 1, 0x4000000)",
}


def test_a_connection_can_be_neither_led_elsewhere_nor_made(instance: Instance) -> None:
    code = f"""
libc = ctypes.CDLL(None, use_errno=True)
connected = echo(b"x")
fd = connected.fileno()
there = struct.pack("=HH4s8x", 2, socket.htons(7), socket.inet_aton("203.0.113.2"))
vector = struct.pack("=QQ", ctypes.addressof(piece := ctypes.create_string_buffer(b"x")), 1)
name = ctypes.create_string_buffer(there)
pieces = ctypes.create_string_buffer(vector)
message = struct.pack("=QI4xQQQQi4x", ctypes.addressof(name), 16, ctypes.addressof(pieces), 1, 0, 0, 0)
def option(level, number, value):
    return libc.setsockopt(fd, level, number, struct.pack("i", value), 4)
def read(level, number):
    return libc.getsockopt(fd, level, number, ctypes.create_string_buffer(256), ctypes.byref(ctypes.c_int(256)))
assert (option(6, 1, 1), read(1, 4), libc.send(fd, b"x", 1, 0)) == (0, 0, 1) and connected.recv(1) == b"x"
done = {{}}
for title, attempt in {ATTACKS!r}.items():
    if eval(attempt) >= 0 or ctypes.get_errno() != errno.EPERM:
        done[title] = ctypes.get_errno()
assert not done, done
# An address beside a message is not looked at by the kernel: what is sent goes where the box has dialled.
assert libc.sendmsg(fd, message, 0) == 1
assert connected.recv(9) == b"x"
assert connected.getpeername()[0] != "203.0.113.2"
"""
    assert instance.call("attempt", code) is None
