"""What libraries do unmodified in a function, at a real box beside a real relay: the network's own web server, over TLS
with the network's own authority; and what a function can't make of the sockets it has."""

import asyncio

import pytest

from bento.client import Client
from bento.testnet import Network

SOURCE = b"""# /// bento
# egress = ["demo.test:80", "demo.test:443", "192.0.2.1:80"]
# ///
import asyncio, http.client, socket, ssl, urllib.request

def with_urllib():
    return urllib.request.urlopen("https://demo.test/", timeout=20).read()

def with_http_client():
    connection = http.client.HTTPSConnection("demo.test", timeout=20)
    connection.request("GET", "/")
    return connection.getresponse().read()

def with_requests():
    import requests
    return requests.get("https://demo.test/", timeout=20).content

def with_httpx():
    import httpx
    return httpx.get("https://demo.test/", timeout=20).content

async def with_httpx_async():
    import httpx
    async with httpx.AsyncClient(timeout=20) as client:
        answers = await asyncio.gather(*(client.get("https://demo.test/") for _ in range(5)))
    assert len({answer.content for answer in answers}) == 1
    return answers[0].content

async def with_streams():
    reader, writer = await asyncio.open_connection("demo.test", 443, ssl=ssl.create_default_context())
    writer.write(b"GET / HTTP/1.0\\r\\nHost: demo.test\\r\\n\\r\\n")
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    return answer.partition(b"\\r\\n\\r\\n")[2]

def refusals():
    from bento.guest import broker, names
    told = {}
    def attempt(title, call, *args):
        try:
            call(*args)
        except Exception as error:
            told[title] = f"{type(error).__name__}: {error}"
    address = socket.gethostbyname("demo.test")
    socket.create_connection((address, 80), 20).close()
    attempt("a name", socket.getaddrinfo, "other.test", 443)
    attempt("a port", socket.create_connection, ("demo.test", 8080))
    attempt("an address", socket.create_connection, ("198.51.100.7", 80))
    attempt("an answer at another port", socket.create_connection, (address, 8080))
    attempt("a private address", socket.create_connection, ("192.0.2.1", 80))
    def dial(address):
        broker.wait(broker.current().dial(address, 80)).close()
    attempt("the broker itself", dial, "127.0.0.1")
    names.look_up = lambda asked: [(2, 1, 6, "", ("127.0.0.1", 80))]
    attempt("another answer put in", socket.create_connection, ("127.0.0.1", 80))
    return told
"""

LIBRARIES = ("urllib", "http_client", "requests", "httpx", "httpx_async", "streams")


@pytest.fixture(scope="module")
def answers(network: Network, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    """What each entry of one function returned."""

    async def call_all() -> dict[str, object]:
        async with Client(state=tmp_path_factory.mktemp("state"), net=network.directory) as client:
            exit_box = next(relay.nickname for relay in network.status().relays if relay.box)
            box = next(box.fingerprint for box in await client.boxes() if box.nickname == exit_box)
            async with client.spawn(SOURCE, box=box) as function:
                found: dict[str, object] = {name: await function.call(f"with_{name}") for name in LIBRARIES}
                found["refusals"] = await function.call("refusals")
                return found

    return asyncio.run(call_all())


@pytest.mark.parametrize("library", LIBRARIES)
def test_a_library_fetches_over_tls_unmodified(answers: dict[str, object], library: str) -> None:
    assert b"private Tor network" in bytes(answers[library])  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("attempt", "says"),
    [
        ("a name", "PermissionError: [Errno 13] other.test:443 is not in the grant's egress"),
        ("a port", "PermissionError: [Errno 13] demo.test:8080 is not in the grant's egress"),
        ("an address", "PermissionError: [Errno 13] 198.51.100.7:80 is not in the grant's egress"),
        ("an answer at another port", ":8080 is not in the grant's egress"),
        ("a private address", "PermissionError: [Errno 13] 192.0.2.1 is not a public address"),
        ("the broker itself", "PermissionError: [Errno 13] 127.0.0.1:80 is not in the grant's egress"),
        ("another answer put in", "PermissionError: [Errno 13] 127.0.0.1:80 is not in the grant's egress"),
    ],
)
def test_a_refusal_names_its_rule_whatever_is_done_to_the_guest(
    answers: dict[str, object], attempt: str, says: str
) -> None:
    refusals = answers["refusals"]
    assert isinstance(refusals, dict)
    assert says in refusals[attempt]
