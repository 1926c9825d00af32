"""Requests for names and connections: each gets its answer, whatever the name, the instance or the name server."""

import asyncio
import contextlib
import errno
import itertools
import socket
import subprocess
import sys
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from bento.box.reach import Reach
from bento.box.resolver import MAX_LOOKUPS, Resolver
from bento.exit_policy import RelayFacts
from bento.policy import Policy
from bento.protocol.broker import MAX_ADDRESSES, Dial, Failed, FromBox, Resolve, Resolved, Unavailable, encode_packet
from tests.asking import ALL, GRANT, WAIT_S, Instance, serve
from tests.lone_box import LoneBox
from tests.wire import RemoteFunction, running

Names = dict[str, list[str]]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[Names]:
    """A name server that knows these names, and never answers for *.silent."""
    known: Names = {}
    is_over = threading.Event()

    def getaddrinfo(host: str, *_: Any, **__: Any) -> list[Any]:
        if host.endswith(".silent"):
            known.setdefault("asked", []).append(host)
            is_over.wait(WAIT_S * 3)
        if host not in known:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in known[host]]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    yield known
    is_over.set()


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Where the box connected to, though nobody is there."""
    seen: list[tuple[str, int]] = []

    async def connect(address: str, port: int, outbound: str | None) -> socket.socket:
        seen.append((address, port))
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr("bento.box.egress._connect", connect)
    return seen


def _denied(answer: FromBox | tuple[FromBox, socket.socket | None]) -> str:
    """The rule that the answer names."""
    if isinstance(answer, tuple):
        answer = answer[0]
    assert isinstance(answer, Failed), answer
    assert answer.error == "denied"
    return answer.message


@pytest.mark.parametrize("host", ["a..b", "." + "x.test", "x" * 64 + ".test", "zero\0byte", "", "\ud7ff.test"])
def test_what_can_not_be_a_name_is_answered_and_the_next_request_too(host: str) -> None:
    async def scenario(instance: Instance) -> None:
        assert await instance.resolve(host) == Failed(1, "name", f"no address for {host}")
        assert _denied(await instance.dial("127.0.0.1")) == "127.0.0.1 is not a public address"

    serve(scenario)


@pytest.mark.parametrize("host", ["\ufdfa" * 1300, "b\u00fccher.test", "a." * 127 + "b"])
def test_what_is_no_name_of_dns_is_not_looked_up(names: Names, host: str) -> None:
    async def scenario(instance: Instance) -> None:
        assert await instance.resolve(host) == Failed(1, "name", f"no address for {host}")

    names[host] = ["5.6.7.8"]
    serve(scenario)


def test_a_request_that_breaks_the_box_s_code_is_answered_and_the_next_too() -> None:
    facts = iter([ZeroDivisionError(), None])

    def read_facts() -> RelayFacts:
        if error := next(facts):
            raise error
        return RelayFacts()

    async def scenario(instance: Instance) -> None:
        answer, _ = await instance.dial("5.6.7.8")
        assert answer == Failed(1, "unreachable", "5.6.7.8:80: can't be reached")
        assert "exit policy rejects" in _denied(await instance.dial("5.6.7.8"))

    serve(scenario, facts=read_facts)


@pytest.mark.parametrize("host", ["10.0.0.1", "::1", "fe80::1%lo", "::ffff:10.0.0.1", "64:ff9b::a00:1", "10.0.0.1."])
def test_an_address_is_not_looked_up(names: Names, host: str) -> None:
    async def scenario(instance: Instance) -> None:
        assert "is not a public address" in _denied(await instance.resolve(host))
        assert await instance.resolve("5.6.7.8") == Resolved(1, ("5.6.7.8",))
        assert await instance.resolve("::ffff:5.6.7.8") == Resolved(1, ("5.6.7.8",))

    serve(scenario)


def test_an_answer_holds_only_what_could_be_dialled(names: Names) -> None:
    names["mixed.test"] = ["10.0.0.1", "5.6.7.8", "127.0.0.1", "9.9.9.9", "2606::1", "2001:db8::1", "5.6.7.8"]
    facts = RelayFacts(policy="reject 9.9.9.9:*,accept *:80,reject *:*", own=("23.1.1.1",))

    async def scenario(instance: Instance) -> None:
        assert await instance.resolve("mixed.test") == Resolved(1, ("5.6.7.8", "2606::1"))
        assert await instance.ask(Resolve(2, "mixed.test", 80, "4")) == Resolved(2, ("5.6.7.8",))
        assert await instance.ask(Resolve(2, "mixed.test", 80, "6")) == Resolved(2, ("2606::1",))
        assert await instance.resolve("mixed.test", 0) == Resolved(1, ("5.6.7.8", "2606::1"))
        names["mixed.test"] = ["5.6.7.8"]
        assert await instance.ask(Resolve(2, "mixed.test", 80, "6")) == Failed(2, "name", "no address for mixed.test")

    serve(scenario, facts=lambda: facts)


@pytest.mark.parametrize(
    ("address", "port", "says"),
    [
        ("10.0.0.1", 80, "intranet.test is not a public address"),
        ("10.0.0.1", 0, "intranet.test is not a public address"),
        ("23.1.1.1", 80, "intranet.test is the relay's own address"),
        ("24.1.1.1", 80, "intranet.test:80 is a Tor relay"),
        ("9.9.9.9", 80, "the relay's exit policy rejects intranet.test:80"),
        ("9.9.9.9", 0, "the relay's exit policy rejects intranet.test:80"),
        ("8.8.8.8", 80, "the box's policy rejects intranet.test:80"),
    ],
)
def test_a_refusal_names_the_rule_and_not_the_address(names: Names, address: str, port: int, says: str) -> None:
    names["intranet.test"] = [address]
    facts = RelayFacts("reject 9.9.9.9:*,accept *:*", ("23.1.1.1",), None, frozenset({("24.1.1.1", 80)}))

    async def scenario(instance: Instance) -> None:
        assert _denied(await instance.resolve("intranet.test", port)) == says

    serve(scenario, facts=lambda: facts, policy=Policy(egress=("reject 8.8.8.8:*", "accept *:*")))


def test_a_name_outside_the_grant_is_not_looked_up(names: Names) -> None:
    names["a.test"] = ["5.6.7.8"]
    grant = replace(GRANT, egress=("a.test:80", "*.b.test:443-444"))

    async def scenario(instance: Instance) -> None:
        assert _denied(await instance.resolve("x.silent")) == "x.silent:80 is not in the grant's egress"
        assert _denied(await instance.resolve("x.silent", 0)) == "x.silent is not in the grant's egress"
        assert _denied(await instance.resolve("a.test", 443)) == "a.test:443 is not in the grant's egress"
        assert _denied(await instance.resolve("a.test", -1)) == "a.test:-1 is not in the grant's egress"
        assert await instance.resolve("A.test.", 0) == Failed(1, "name", "no address for A.test.")
        assert await instance.resolve("a.test", 0) == Resolved(1, ("5.6.7.8",))
        assert "asked" not in names

    serve(scenario, grant=grant)


@pytest.mark.parametrize(
    ("address", "port", "says"),
    [
        ("a.test", 80, "a.test is not an address: a name is resolved first"),
        ("0177.0.0.1", 80, "0177.0.0.1 is not an address: a name is resolved first"),
        ("2130706433", 80, "2130706433 is not an address: a name is resolved first"),
        ("127.1", 80, "127.1 is not an address: a name is resolved first"),
        ("::ffff:127.0.0.1", 80, "127.0.0.1 is not a public address"),
        ("64:ff9b::7f00:1", 80, "127.0.0.1 is not a public address"),
        ("5.6.7.8", 0, "0 is not a port"),
        ("5.6.7.8", 65536, "65536 is not a port"),
        ("5.6.7.8", -80, "-80 is not a port"),
        ("5.6.7.8", 2**63, "9223372036854775808 is not a port"),
        ("5.6.7.8", 443, "5.6.7.8:443 is not in the grant's egress"),
    ],
)
def test_only_an_address_is_dialled_at_a_port(
    connections: list[tuple[str, int]], address: str, port: int, says: str
) -> None:
    async def scenario(instance: Instance) -> None:
        assert _denied(await instance.dial(address, port)) == says

    serve(scenario)
    assert connections == []


def test_an_address_is_dialled_if_this_instance_resolved_a_granted_name_to_it(
    names: Names, connections: list[tuple[str, int]]
) -> None:
    names |= {"a.test": ["5.6.7.8"], "b.test": ["5.6.7.9"]}
    grant = replace(GRANT, egress=("a.test:443", "b.test:80-81", "7.7.7.0/24:25"))

    async def scenario(instance: Instance, other: Instance) -> None:
        assert "not in the grant" in _denied(await instance.dial("5.6.7.8", 443))
        await instance.resolve("a.test", 443)
        await instance.resolve("b.test", 0)
        assert await instance.dial("5.6.7.8", 443) == (Failed(1, "refused", "5.6.7.8:443: Connection refused"), None)
        await instance.dial("5.6.7.9", 80)
        await instance.dial("5.6.7.9", 81)
        await instance.dial("7.7.7.7", 25)
        for address, port in (("5.6.7.8", 80), ("5.6.7.9", 443), ("5.6.7.10", 443), ("7.7.7.7", 443)):
            assert "not in the grant" in _denied(await instance.dial(address, port))
        assert "not in the grant" in _denied(await other.dial("5.6.7.8", 443))

    serve(scenario, instances=2, grant=grant)
    assert connections == [("5.6.7.8", 443), ("5.6.7.9", 80), ("5.6.7.9", 81), ("7.7.7.7", 25)]


def test_a_name_that_turns_private_leads_nowhere(names: Names, connections: list[tuple[str, int]]) -> None:
    async def scenario(instance: Instance) -> None:
        names["rebinding.test"] = ["5.6.7.8"]
        await instance.resolve("rebinding.test")
        names["rebinding.test"] = ["127.0.0.1"]
        assert "is not a public address" in _denied(await instance.resolve("rebinding.test"))
        assert "is not in the grant" in _denied(await instance.dial("127.0.0.1"))
        await instance.dial("5.6.7.8")

    serve(scenario, grant=replace(GRANT, egress=("rebinding.test:80",)))
    assert connections == [("5.6.7.8", 80)]


def test_what_has_been_resolved_is_checked_again_when_dialled(names: Names, connections: list[tuple[str, int]]) -> None:
    names["a.test"] = ["5.6.7.8"]
    facts = [ALL]

    async def scenario(instance: Instance) -> None:
        await instance.resolve("a.test")
        facts[0] = RelayFacts("reject 5.6.7.8:*,accept *:*")
        assert _denied(await instance.dial("5.6.7.8")) == "the relay's exit policy rejects 5.6.7.8:80"
        facts[0] = RelayFacts("accept *:*", listeners=frozenset({("5.6.7.8", 80)}))
        assert _denied(await instance.dial("5.6.7.8")) == "5.6.7.8:80 is a Tor relay"
        assert connections == []
        facts[0] = ALL
        await instance.dial("5.6.7.8")

    serve(scenario, facts=lambda: facts[0])
    assert connections == [("5.6.7.8", 80)]


def test_of_ten_thousand_addresses_a_few_are_looked_at(names: Names) -> None:
    public = [f"5.{number // 250}.{number % 250}.1" for number in range(10_000)]

    async def scenario(instance: Instance) -> None:
        names["large.test"] = public
        assert await instance.resolve("large.test") == Resolved(1, tuple(public[:MAX_ADDRESSES]))
        names["large.test"] = [f"10{address[1:]}" for address in public] + public[:1]
        assert "is not a public address" in _denied(await instance.resolve("large.test"))

    serve(scenario)


def test_the_addresses_of_the_newest_names_are_remembered(names: Names, connections: list[tuple[str, int]]) -> None:
    async def scenario(instance: Instance) -> None:
        for number in range(257):
            names[f"{number}.test"] = [f"5.6.{number // 8}.{number % 8 * 8 + each}" for each in range(8)]
            await instance.resolve(f"{number}.test")
        assert "not in the grant" in _denied(await instance.dial("5.6.0.0"))
        await instance.dial("5.6.0.8")
        await instance.dial("5.6.32.0")

    serve(scenario, grant=replace(GRANT, egress=("*.test:80",)))
    assert connections == [("5.6.0.8", 80), ("5.6.32.0", 80)]


def test_what_an_instance_has_learnt_is_small() -> None:
    grant = replace(GRANT, egress=tuple(f"*.test:{port}-65535" for port in range(1, 128, 2)))
    reach = Reach(grant, Policy(egress=("accept *:*",)), lambda: ALL)
    tracemalloc.start()
    for number in range(256):
        found = [f"5.{number}.6.{each}" for each in range(8)]
        assert reach.choose(f"{number}.test", 443, "any", found) == tuple(found)
    assert tracemalloc.get_traced_memory()[0] < 3 * 2**20
    tracemalloc.stop()


def test_a_flood_of_requests_waits_in_the_instance_s_own_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bento.box.egress._BURST_REQUESTS", 10)
    monkeypatch.setattr("bento.box.egress._REQUESTS_PER_S", 0.5)

    async def scenario(flooding: Instance, other: Instance) -> None:
        with contextlib.suppress(BlockingIOError):
            for number in itertools.count():
                flooding.say(Resolve(number, "10.0.0.1", 80))
        answers = [await flooding.answer() for _ in range(10)]
        assert [answer.id for answer in answers if isinstance(answer, Failed)] == list(range(10))
        assert await other.resolve("5.6.7.8") == Resolved(1, ("5.6.7.8",))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await flooding.answer()
        monkeypatch.setattr("bento.box.egress._REQUESTS_PER_S", 10_000)  # the rest, so that it ends soon

    serve(scenario, instances=2)


def test_an_id_that_comes_twice_is_answered_twice(names: Names) -> None:
    names["a.test"] = ["5.6.7.8"]

    async def scenario(instance: Instance) -> None:
        for _ in range(3):
            instance.say(Resolve(-7, "a.test", 80))
        assert [await instance.answer() for _ in range(3)] == [Resolved(-7, ("5.6.7.8",))] * 3

    serve(scenario)


def test_one_instance_s_silent_name_server_stops_no_other(names: Names) -> None:
    names["prompt.test"] = ["5.6.7.8"]

    async def scenario(slow: Instance, other: Instance) -> None:
        for number in range(3 * MAX_LOOKUPS):
            slow.say(Resolve(number, f"{number}.silent", 80))
        await asyncio.sleep(0.1)
        assert await other.resolve("prompt.test") == Resolved(1, ("5.6.7.8",))

    serve(scenario, instances=2)
    assert len(names["asked"]) == MAX_LOOKUPS


@pytest.mark.parametrize("junk", [b"junk", b"", encode_packet(Unavailable())])
def test_after_what_no_loader_says_all_requests_fail_at_once(names: Names, junk: bytes) -> None:
    async def scenario(instance: Instance) -> None:
        instance.say(Resolve(1, "pending.silent", 80))
        await asyncio.sleep(0.1)
        assert await instance.ask(junk) == Unavailable()
        with pytest.raises(BrokenPipeError):
            instance.say(Dial(2, "10.0.0.1", 80))

    serve(scenario)


@pytest.mark.parametrize(
    ("error", "answer"),
    [
        (OSError(errno.EMFILE, "Too many open files"), ("busy", "the box can open no more connections now")),
        (ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"), ("refused", "Connection refused")),
        (TimeoutError(), ("timeout", "timed out")),
        (OSError(errno.EHOSTUNREACH, "No route to host"), ("unreachable", "No route to host")),
        (KeyError("inside"), ("unreachable", "can't be reached")),
    ],
)
def test_what_a_dial_meets_is_told_and_nothing_of_the_box_s_inside(
    monkeypatch: pytest.MonkeyPatch, error: Exception, answer: tuple[Any, str]
) -> None:
    async def connect(*_: Any) -> None:
        raise error

    monkeypatch.setattr("bento.box.egress._connect", connect)

    async def scenario(instance: Instance) -> None:
        told, _ = await instance.dial("5.6.7.8")
        assert told == Failed(1, answer[0], f"5.6.7.8:80: {answer[1]}")

    serve(scenario)


def test_an_instance_that_ends_with_an_answer_unread_is_no_error() -> None:
    async def scenario(instance: Instance) -> None:
        instance.say(Dial(1, "10.0.0.1", 80))
        await asyncio.sleep(0.1)
        instance.close()  # ECONNRESET for the box

    serve(scenario)


def test_an_unanswered_lookup_does_not_hold_up_the_server_s_end() -> None:
    code = """
import asyncio, socket, time
from bento.box.resolver import Resolver
socket.getaddrinfo = lambda *_, **__: time.sleep(60)
async def main():
    try:
        async with asyncio.timeout(0.1):
            await Resolver().resolve("x.test", asyncio.Semaphore(1))
    except TimeoutError:
        print("timed out")
asyncio.run(main())
"""
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=30, check=True)
    assert (done.stdout, done.stderr) == (b"timed out\n", b"")
    assert time.monotonic() - start < WAIT_S


def test_a_name_is_not_looked_up_in_the_machine_s_own_domain(need: Callable[..., None], tmp_path: Path) -> None:
    need("namespaces")
    (tmp_path / "resolv.conf").write_text("nameserver 127.0.0.1\nsearch corp.test\n")
    code = """
import asyncio, socket, subprocess, sys, threading
from bento.box.resolver import Resolver
for command in ("mount --make-rprivate /", f"mount --bind {sys.argv[1]} /etc/resolv.conf", "ip link set lo up"):
    subprocess.run(command.split(), check=True)
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.1", 53))
def answer():
    while True:
        asked, client = server.recvfrom(512)
        print(asked[12:].split(b"\\0")[0].decode())
        server.sendto(asked[:2] + b"\\x81\\x83" + asked[4:6] + bytes(6) + asked[12:], client)
threading.Thread(target=answer, daemon=True).start()
try:
    asyncio.run(Resolver().resolve("intranet", asyncio.Semaphore(1)))
except socket.gaierror as error:
    print(error.errno)
"""
    command = ["unshare", "-mn", sys.executable, "-c", code, str(tmp_path / "resolv.conf")]
    done = subprocess.run(command, capture_output=True, timeout=WAIT_S, check=True)
    assert set(done.stdout.decode().split()) == {"\x08intranet", "-2"}


def test_a_lookup_keeps_its_place_until_its_thread_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    def getaddrinfo(*_: Any, **__: Any) -> list[Any]:
        release.wait(WAIT_S)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    async def give_up(resolver: Resolver, own: asyncio.Semaphore) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await resolver.resolve("x.test", own)

    async def scenario() -> None:
        resolver, own = Resolver(max_threads=2), asyncio.Semaphore(1)
        await give_up(resolver, own)
        await give_up(resolver, own)  # waits for the instance's place, and takes none
        await give_up(resolver, asyncio.Semaphore(1))
        assert own.locked()
        await give_up(resolver, asyncio.Semaphore(1))  # waits for the box's
        release.set()
        async with asyncio.timeout(WAIT_S):
            assert await resolver.resolve("x.test", own) == []
        assert not own.locked()

    asyncio.run(scenario())


_SOURCE = b"""
# /// bento
# egress = ["*:80"]
# ///
import os

def fetch(url):
    try:
        api.fetch(url)
    except OSError as error:
        return f"{type(error).__name__}: {error}"

def junk():
    os.write(3, b"junk")
"""


def test_a_function_is_told_and_goes_on(box: LoneBox) -> None:
    with running(RemoteFunction(box.address, _SOURCE)) as function:
        told = function.start("fetch", "http://a..b/").value()
        assert told == "gaierror: [Errno -2] no address for a..b"
        assert "10.0.0.1 is not a public address" in function.again("fetch", "http://10.0.0.1/").value()


def test_a_function_that_writes_junk_to_the_box_loses_its_dials_only(box: LoneBox) -> None:
    with running(RemoteFunction(box.address, _SOURCE)) as function:
        function.start("junk").value()
        for _ in range(2):
            told = function.again("fetch", "http://10.0.0.1/").value()
            assert told.startswith("ConnectionError: the box can't dial 10.0.0.1:80: ")
