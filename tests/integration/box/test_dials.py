"""Dials: each gets its answer, whatever the name, the instance or the name server."""

import asyncio
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from bento.box.egress import Allowed, serve_dials
from bento.box.resolver import MAX_LOOKUPS, Resolver
from bento.exit_policy import RelayFacts
from bento.policy import Grant, Policy
from bento.protocol.broker import Dial, DialFailed, FromBox, Unavailable, decode_from_box, encode_packet
from tests.lone_box import LoneBox
from tests.wire import RemoteFunction, running

_WAIT_S = 10
_GRANT = Grant("python", 1, 1, 1, 1, 1 << 16, ("*:80",))


class Instance:
    """The other end of a control socket."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control

    def ask(self, host: str, number: int = 1) -> None:
        self._control.send(encode_packet(Dial(number, host, 80)))

    def say(self, data: bytes) -> None:
        self._control.send(data)

    def close(self) -> None:
        self._control.close()

    async def answer(self) -> FromBox:
        async with asyncio.timeout(_WAIT_S):
            return decode_from_box(await asyncio.get_running_loop().sock_recv(self._control, 65536))


def _serve(
    scenario: Callable[..., Awaitable[None]], *, instances: int = 1, facts: Callable[[], RelayFacts] = RelayFacts
) -> None:
    """Run a scenario with so many instances whose dials are served."""

    async def run() -> None:
        resolver = Resolver()
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(instances)]
        for pair in pairs:
            for end in pair:
                end.setblocking(False)
        async with asyncio.TaskGroup() as group:
            allowed = [Allowed(_GRANT, Policy(), facts, resolver) for _ in pairs]
            serving = [group.create_task(serve_dials(pair[0], one)) for pair, one in zip(pairs, allowed, strict=True)]
            await scenario(*(Instance(pair[1]) for pair in pairs))
            for pair in pairs:
                pair[1].close()
            async with asyncio.timeout(_WAIT_S):
                await asyncio.gather(*serving)
        for pair in pairs:
            pair[0].close()

    asyncio.run(run())


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """A name server that never answers for *.silent; the names asked of it."""
    asked: list[str] = []
    is_over = threading.Event()

    def getaddrinfo(host: str, *_: Any, **__: Any) -> list[Any]:
        asked.append(host)
        if host.endswith(".silent"):
            is_over.wait(_WAIT_S * 3)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("10.0.0.1", 80))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    yield asked
    is_over.set()


@pytest.mark.parametrize("host", ["a..b", "." + "x.test", "x" * 64 + ".test", "zero\0byte"])
def test_what_can_not_be_a_name_is_answered_and_the_next_dial_too(host: str) -> None:
    async def scenario(instance: Instance) -> None:
        instance.ask(host)
        assert await instance.answer() == DialFailed(1, "name", f"no address for {host}")
        instance.ask("127.0.0.1", 2)
        assert await instance.answer() == DialFailed(2, "denied", "127.0.0.1 is not a public address")

    _serve(scenario)


def test_a_dial_that_breaks_the_box_s_code_is_answered_and_the_next_too() -> None:
    facts = iter([ZeroDivisionError(), None])

    def read_facts() -> RelayFacts:
        if error := next(facts):
            raise error
        return RelayFacts()

    async def scenario(instance: Instance) -> None:
        instance.ask("5.6.7.8")
        assert await instance.answer() == DialFailed(1, "unreachable", "5.6.7.8:80: can't be dialled")
        instance.ask("5.6.7.8", 2)
        answer = await instance.answer()
        assert isinstance(answer, DialFailed)
        assert answer.error == "denied"

    _serve(scenario, facts=read_facts)


@pytest.mark.parametrize("host", ["10.0.0.1", "::1", "fe80::1%lo"])
def test_an_address_is_not_looked_up(silent: list[str], host: str) -> None:
    async def scenario(instance: Instance) -> None:
        instance.ask(host)
        answer = await instance.answer()
        assert isinstance(answer, DialFailed)
        assert answer.error == "denied"

    _serve(scenario)
    assert silent == []


def test_one_instance_s_silent_name_server_stops_no_other(silent: list[str]) -> None:
    async def scenario(slow: Instance, other: Instance) -> None:
        for number in range(3 * MAX_LOOKUPS):
            slow.ask(f"{number}.silent", number)
        await asyncio.sleep(0.1)
        other.ask("prompt.test")
        assert await other.answer() == DialFailed(1, "denied", "10.0.0.1 is not a public address")

    _serve(scenario, instances=2)
    assert len(silent) == MAX_LOOKUPS + 1


@pytest.mark.parametrize("junk", [b"junk", b"", encode_packet(Unavailable())])
def test_after_what_no_loader_says_all_dials_fail_at_once(silent: list[str], junk: bytes) -> None:
    async def scenario(instance: Instance) -> None:
        instance.ask("pending.silent")
        await asyncio.sleep(0.1)
        instance.say(junk)
        assert await instance.answer() == Unavailable()
        with pytest.raises(BrokenPipeError):
            instance.ask("10.0.0.1", 2)

    _serve(scenario)


def test_an_instance_that_ends_with_an_answer_unread_is_no_error() -> None:
    async def scenario(instance: Instance) -> None:
        instance.ask("10.0.0.1")
        await asyncio.sleep(0.1)
        instance.close()  # ECONNRESET for the box

    _serve(scenario)


def test_an_unanswered_lookup_does_not_hold_up_the_server_s_end() -> None:
    code = """
import asyncio, socket, time
from bento.box.resolver import Resolver
socket.getaddrinfo = lambda *_, **__: time.sleep(60)
async def main():
    try:
        async with asyncio.timeout(0.1):
            await Resolver().resolve("x.test", 80, asyncio.Semaphore(1))
    except TimeoutError:
        print("timed out")
asyncio.run(main())
"""
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=30, check=True)
    assert (done.stdout, done.stderr) == (b"timed out\n", b"")
    assert time.monotonic() - start < _WAIT_S


def test_a_lookup_keeps_its_place_until_its_thread_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()

    def getaddrinfo(*_: Any, **__: Any) -> list[Any]:
        release.wait(_WAIT_S)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)

    async def give_up(resolver: Resolver, own: asyncio.Semaphore) -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.02):
                await resolver.resolve("x.test", 80, own)

    async def scenario() -> None:
        resolver, own = Resolver(max_threads=2), asyncio.Semaphore(1)
        await give_up(resolver, own)
        await give_up(resolver, own)  # waits for the instance's place, and takes none
        await give_up(resolver, asyncio.Semaphore(1))
        assert own.locked()
        await give_up(resolver, asyncio.Semaphore(1))  # waits for the box's
        release.set()
        async with asyncio.timeout(_WAIT_S):
            assert await resolver.resolve("x.test", 80, own) == []
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
