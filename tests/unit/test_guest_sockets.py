"""What a function asks its box, without a box: requests in order and within limits, answers that come late or never."""

import asyncio
import errno
import os
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from bento.guest import broker as broker_module
from bento.guest.broker import Broker, current, use_broker, wait, wait_in_loop
from bento.guest.names import Lookup
from bento.protocol.broker import (
    MAX_REQUESTS,
    Dial,
    Dialled,
    Failed,
    Resolve,
    Resolved,
    Unavailable,
    decode_from_instance,
)


class Box:
    """The other end of a broker's control socket."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control

    def read(self) -> Resolve | Dial | None:
        """The next request; None if there is none."""
        try:
            return decode_from_instance(self._control.recv(65536, socket.MSG_DONTWAIT))
        except BlockingIOError:
            return None

    def read_all(self) -> list[Resolve | Dial]:
        return list(iter(self.read, None))

    def stop_reading(self) -> None:
        self._control.shutdown(socket.SHUT_RD)


@pytest.fixture
def ends() -> Iterator[tuple[Broker, Box]]:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield Broker(ours), Box(theirs)


def _connection() -> tuple[socket.socket, int]:
    """The far end of a connection, and the descriptor that the box passes."""
    far, near = socket.socketpair()
    far.settimeout(10)
    return far, near.detach()


def test_asks_and_is_answered(ends: tuple[Broker, Box]) -> None:
    broker, box = ends
    names, connections = broker.resolve("demo.test", 80, "6"), broker.dial("203.0.113.1", 80)
    assert box.read_all() == [Resolve(0, "demo.test", 80, "6"), Dial(1, "203.0.113.1", 80)]
    far, near = _connection()
    broker.deliver(Dialled(1), near)
    broker.deliver(Resolved(0, ("203.0.113.1",)), None)
    assert wait(names) == ("203.0.113.1",)
    with far, wait(connections) as dialled:
        dialled.sendall(b"x")
        assert far.recv(1) == b"x"


def test_no_more_is_under_way_than_the_box_reads(ends: tuple[Broker, Box]) -> None:
    broker, box = ends
    asked = [broker.dial("203.0.113.1", port) for port in range(MAX_REQUESTS + 3)]
    assert len(box.read_all()) == MAX_REQUESTS
    asked[MAX_REQUESTS].cancel()  # waits here still, and is never sent
    asked[0].cancel()  # is with the box, and keeps its place
    broker.deliver(Failed(1, "refused", "no"), None)
    broker.deliver(Failed(2, "refused", "no"), None)
    assert [one.id for one in box.read_all()] == [MAX_REQUESTS + 1, MAX_REQUESTS + 2]


def test_what_a_dead_server_took_keeps_no_place(ends: tuple[Broker, Box], monkeypatch: pytest.MonkeyPatch) -> None:
    broker, box = ends
    for port in range(MAX_REQUESTS):
        broker.dial("203.0.113.1", port)
    box.read_all()
    monkeypatch.setattr(broker_module, "_ANSWER_WAIT_S", 0)
    broker.dial("203.0.113.1", 80)
    assert [one.id for one in box.read_all()] == [MAX_REQUESTS]


@pytest.mark.parametrize("give_up", ["time", "cancel"])
def test_a_connection_that_comes_too_late_is_closed(ends: tuple[Broker, Box], give_up: str) -> None:
    broker, _ = ends
    asked = broker.dial("203.0.113.1", 80)
    if give_up == "time":
        with pytest.raises(TimeoutError, match="timed out"):
            wait(asked, 0.01)
    else:
        asked.cancel()
    far, near = _connection()
    broker.deliver(Dialled(0), near)
    with far:
        assert far.recv(1) == b""


def test_a_connection_that_was_never_asked_for_is_closed(ends: tuple[Broker, Box]) -> None:
    far, near = _connection()
    ends[0].deliver(Dialled(7), near)
    with far:
        assert far.recv(1) == b""


@pytest.mark.parametrize(
    ("failed", "kind", "number"),
    [
        ("denied", PermissionError, errno.EACCES),
        ("refused", ConnectionRefusedError, errno.ECONNREFUSED),
        ("timeout", TimeoutError, errno.ETIMEDOUT),
        ("unreachable", OSError, errno.EHOSTUNREACH),
        ("busy", OSError, errno.ENOBUFS),
        ("name", socket.gaierror, socket.EAI_NONAME),
    ],
)
def test_a_failure_is_the_error_that_people_expect(
    ends: tuple[Broker, Box], failed: str, kind: type[OSError], number: int
) -> None:
    broker, _ = ends
    asked = broker.dial("203.0.113.1", 80)
    broker.deliver(Failed(0, failed, "says the rule"), None)  # type: ignore[arg-type]
    with pytest.raises(kind, match="says the rule") as caught:
        wait(asked)
    assert caught.value.errno == number


def test_a_descriptor_that_the_kernel_dropped_is_one_too_many(ends: tuple[Broker, Box]) -> None:
    broker, _ = ends
    asked = broker.dial("203.0.113.1", 80)
    broker.deliver(Dialled(0), None)
    with pytest.raises(OSError, match=os.strerror(errno.EMFILE)):
        wait(asked)


def test_without_a_server_all_fail_and_the_next_may_be_asked(ends: tuple[Broker, Box]) -> None:
    broker, box = ends
    asked = [broker.dial("203.0.113.1", port) for port in range(MAX_REQUESTS + 1)]
    broker.fail_all(Unavailable())
    for one in asked:
        with pytest.raises(ConnectionError, match="server is not running"):
            wait(one)
    box.read_all()
    broker.dial("203.0.113.1", 80)
    assert len(box.read_all()) == 1


def test_a_dial_fails_at_once_where_the_box_reads_no_more(ends: tuple[Broker, Box]) -> None:
    broker, box = ends
    box.stop_reading()
    with pytest.raises(ConnectionError, match=r"can't dial x\.test:80"):
        wait(broker.resolve("x.test", 80))


def test_a_loop_goes_on_and_may_give_up(ends: tuple[Broker, Box]) -> None:
    broker, _ = ends
    far, near = _connection()

    async def scenario() -> None:
        given_up, asked = broker.dial("203.0.113.1", 80), broker.dial("203.0.113.1", 81)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await wait_in_loop(given_up)
        assert given_up.cancelled()
        broker.deliver(Failed(0, "refused", "too late"), None)
        thread = threading.Timer(0.01, broker.deliver, (Dialled(1), near))
        thread.start()
        with far, await wait_in_loop(asked):
            thread.join()

    asyncio.run(scenario())


def test_an_instance_has_one_broker(ends: tuple[Broker, Box], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(broker_module, "_brokers", [])
    use_broker(ends[0])
    assert current() is ends[0]


@pytest.mark.parametrize(
    "asked",
    [
        Lookup("203.0.113.1", 80),
        Lookup(b"203.0.113.1", "80", socket.AF_INET, socket.SOCK_STREAM),
        Lookup("2130706433", b"80"),
        Lookup("2001:db8::1", "443", 0, 0, 0, socket.AI_ADDRCONFIG),
        Lookup(None, 80),
        Lookup(None, 80, 0, 0, 0, socket.AI_PASSIVE),
    ],
)
def test_an_address_is_read_as_the_c_library_does(asked: Lookup) -> None:
    expected = socket.getaddrinfo(asked.host, asked.port, asked.family, asked.kind, asked.proto, asked.flags)
    assert sorted(asked.numeric() or []) == sorted(expected)


@pytest.mark.parametrize(
    ("asked", "number"),
    [
        (Lookup(None, None), socket.EAI_NONAME),
        (Lookup("", 80), socket.EAI_NONAME),
        (Lookup("demo.test", 80, 0, 0, 0, socket.AI_NUMERICHOST), socket.EAI_NONAME),
        (Lookup("::1", 80, socket.AF_INET), socket.EAI_ADDRFAMILY),
        (Lookup("demo.test", 80, socket.AF_UNIX), socket.EAI_FAMILY),
        (Lookup("203.0.113.1", 65536), socket.EAI_SERVICE),
        (Lookup("203.0.113.1", -1), socket.EAI_SERVICE),
        (Lookup("demo.test", "nothing"), socket.EAI_SERVICE),
    ],
)
def test_what_needs_no_box_to_be_refused(asked: Lookup, number: int) -> None:
    with pytest.raises(socket.gaierror) as caught:
        asked.numeric()
    assert caught.value.errno == number


def test_an_answer_s_entries_are_of_the_family_and_type_that_were_asked_for() -> None:
    addresses = ("203.0.113.1", "2001:db8::1")
    four, six = ("203.0.113.1", 80), ("2001:db8::1", 80, 0, 0)
    assert [entry[4] for entry in Lookup("demo.test", 80).entries(addresses)] == [four, six]
    assert [entry[4] for entry in Lookup("demo.test", 80, socket.AF_INET6).entries(addresses)] == [six]
    datagrams = Lookup("demo.test", 80, socket.AF_INET, socket.SOCK_DGRAM).entries(addresses)
    assert [entry[1] for entry in datagrams] == [socket.SOCK_DGRAM]
    with pytest.raises(socket.gaierror):
        Lookup("demo.test", 80, socket.AF_INET6).entries(addresses[:1])


@pytest.mark.parametrize(
    ("host", "asked"), [("b\u00fccher.test", "xn--bcher-kva.test"), (b"demo.test", "demo.test"), (b"\xff", "\ufffd")]
)
def test_a_name_travels_as_dns_knows_it(host: str | bytes, asked: str) -> None:
    assert Lookup(host, 80, socket.AF_INET).question() == (asked, 80, "4")


def test_sockets_of_this_process_are_its_own() -> None:
    """To import what functions get changes nothing; only `install` does."""
    import bento.guest.sockets as module

    found: Callable[..., object] = socket.socket.connect
    assert found is not vars(module)["_connect"]
