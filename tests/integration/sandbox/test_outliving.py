"""The reaper outlives its server: what runs goes on, ends when it must, and is told to the next server."""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bento.config import MIB
from bento.errors import SandboxUnavailable
from bento.sandbox import messages
from bento.sandbox.link import NoRoom, ReaperLink
from bento.sandbox.messages import Notice
from bento.sandbox.spec import MAX_BEGIN_BYTES, MAX_RECORD_BYTES, Limits, SandboxConfig
from bento.sandbox.start import is_reaper_running, start_reaper

LIMITS = Limits(memory_bytes=64 * MIB, cpu_s=30, storage_bytes=16 * MIB)
ECHO = """
while True:
    data = connection.recv(100)
    if not data: break
    connection.sendall(data)
"""
ASK = """
connection.sendall(b"asking ")
control.send(b"a question")
connection.sendall(control.recv(100))
connection.recv(1)
"""


def path_of(sandbox: Any) -> Path:
    return Path(sandbox.config.run) / "reaper.sock"


def test_a_session_goes_on_without_a_server(with_sandbox: Callable[..., Any]) -> None:
    async def scenario(sandbox: Any) -> None:
        guest = await sandbox.start(ECHO, record=b"what the server knew")
        sandbox.link.close()
        guest.connection.send(b"still there")
        assert await guest.read_some() == b"still there"
        sandbox.use(await ReaperLink.connect(path_of(sandbox)))
        (living,) = sandbox.link.adopted
        assert (living.instance, living.record) == (guest.name, b"what the server knew")
        assert 50 < living.lease_left_s <= 60
        living.control.close()
        guest.close()

    with_sandbox(scenario)


def test_a_question_is_answered_without_a_server(with_sandbox: Callable[..., Any]) -> None:
    async def scenario(sandbox: Any) -> None:
        early = await sandbox.start("control.send(b'before')\ncontrol.recv(100)\n" + ASK)
        assert await asyncio.get_running_loop().sock_recv(early.control, 100) == b"before"
        sandbox.link.close()
        early.control.send(b"the last word of the old server")
        heard = b""
        while heard != b"asking no server":
            heard += await early.read_some()
        early.close()
        await sandbox.reconnect()

    with_sandbox(scenario)


def test_a_flood_of_questions_does_not_stop_the_reaper(with_sandbox: Callable[..., Any]) -> None:
    async def scenario(sandbox: Any) -> None:
        flood = await sandbox.start("connection.send(b'.')\nwhile True: control.send(bytes(60000))", lease_s=1.5)
        await flood.read_some()
        pid = sandbox.link.reaper_pid
        sandbox.link.close()
        used_s = cpu_used_s(pid)
        await asyncio.sleep(0.5)
        assert cpu_used_s(pid) - used_s < 0.25
        assert await flood.read() == b""  # its lease is over
        flood.close()
        await sandbox.reconnect()

    with_sandbox(scenario)


def cpu_used_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_a_lease_ends_an_instance_without_a_server(with_sandbox: Callable[..., Any]) -> None:
    async def scenario(sandbox: Any) -> None:
        guest = await sandbox.start("connection.recv(1)", lease_s=0.3)
        sandbox.link.close()
        assert await guest.read() == b""
        await sandbox.reconnect()
        assert sandbox.link.adopted == ()
        assert (await sandbox.tombstone(guest)).cause == "lease"
        guest.close()

    with_sandbox(scenario)


def test_a_newer_server_replaces_the_older(with_sandbox: Callable[..., Any]) -> None:
    async def scenario(sandbox: Any) -> None:
        older = sandbox.link
        await sandbox.reconnect()
        await sandbox.until(lambda: not older.is_open)
        with pytest.raises(SandboxUnavailable):
            older.renew(b"x", 1)
        assert sandbox.link.is_open

    with_sandbox(scenario)


def test_a_new_server_may_end_what_an_older_one_started(with_sandbox: Callable[..., Any]) -> None:
    async def scenario(sandbox: Any) -> None:
        guest = await sandbox.start("connection.recv(1)")
        await sandbox.reconnect()
        sandbox.link.end(guest.name, "shutdown")
        assert (await sandbox.tombstone(guest)).cause == "shutdown"
        guest.close()

    with_sandbox(scenario)


def test_a_packet_that_does_not_fit_costs_nothing_else(with_sandbox: Callable[..., Any]) -> None:
    async def scenario(sandbox: Any) -> None:
        channel = sandbox.link._channel
        messages.send_packet(channel, b"\xc1 is no message")
        messages.send(channel, messages.Renew(b"name", -1))
        assert "is no message" in await sandbox.notice()
        messages.send(channel, messages.Measure(1_000_000, b""))
        assert await sandbox.answer("answer = 1") == 1
        assert sandbox.link.is_open

    with_sandbox(scenario)


def test_a_request_that_does_not_fit_is_answered(with_sandbox: Callable[..., Any]) -> None:
    async def scenario(sandbox: Any) -> None:
        answer = asyncio.get_running_loop().create_future()
        sandbox.link._answers[1_000_000] = answer
        messages.send(sandbox.link._channel, messages.Measure(1_000_000, b""))
        failed, _ = await asyncio.wait_for(answer, 10)
        assert (failed.reason, "does not fit" in failed.message) == ("broken", True)

    with_sandbox(scenario)


def test_what_the_reaper_would_refuse_is_not_sent(with_sandbox: Callable[..., Any]) -> None:
    async def scenario(sandbox: Any) -> None:
        start = partial(sandbox.link.start, limits=LIMITS, lease_s=1, wall_s=0, connection=socket.socket())
        with pytest.raises(SandboxUnavailable, match=f"record has .* the limit is {MAX_RECORD_BYTES}"):
            await start(b"x", b"begin", record=bytes(MAX_RECORD_BYTES + 1))
        with pytest.raises(SandboxUnavailable, match=f"first packet has .* the limit is {MAX_BEGIN_BYTES}"):
            await start(b"x", bytes(MAX_BEGIN_BYTES + 1), record=b"")
        with pytest.raises(SandboxUnavailable, match="would refuse this Renew"):
            sandbox.link.renew(bytes(65), 1)
        assert await sandbox.answer("answer = 1") == 1

    with_sandbox(scenario)


def test_the_largest_record_comes_back(with_sandbox: Callable[..., Any]) -> None:
    async def scenario(sandbox: Any) -> None:
        guest = await sandbox.start("connection.recv(1)", record=bytes(MAX_RECORD_BYTES))
        sandbox.link.close()
        await sandbox.reconnect()
        assert [len(living.record) for living in sandbox.link.adopted] == [MAX_RECORD_BYTES]
        guest.close()

    with_sandbox(scenario)


def test_a_lease_renewed_for_less_than_nothing_is_over(with_sandbox: Callable[..., Any]) -> None:
    async def scenario(sandbox: Any) -> None:
        guest = await sandbox.start("connection.recv(1)")
        sandbox.link.renew(guest.name, -0.5)
        assert (await sandbox.tombstone(guest)).cause == "lease"
        guest.close()

    with_sandbox(scenario)


def test_a_flood_of_renewals_waits_its_turn(with_sandbox: Callable[..., Any]) -> None:
    async def scenario(sandbox: Any) -> None:
        guest = await sandbox.start("connection.recv(1)")
        for lease_s in range(20_000, 10_000, -1):
            sandbox.link.renew(guest.name, lease_s)
        sandbox.link.end(guest.name, "limit", rule="flood")  # in order, after all of them
        assert (await sandbox.tombstone(guest)).rule == "flood"
        assert sandbox.link.is_open
        guest.close()

    with_sandbox(scenario)


def test_says_when_it_is_full(with_sandbox: Callable[..., Any]) -> None:
    async def scenario(sandbox: Any) -> None:
        guests = [await sandbox.start("connection.recv(1)") for _ in range(3)]
        with pytest.raises(NoRoom):
            await sandbox.start("")
        guests[0].connection.send(b".")
        await sandbox.tombstone(guests[0])
        assert await sandbox.answer("answer = 1") == 1
        for guest in guests:
            guest.close()

    with_sandbox(scenario, slots=3)


def test_a_burst_waits_for_the_pool(with_sandbox: Callable[..., Any]) -> None:
    async def scenario(sandbox: Any) -> None:
        answers = await asyncio.gather(*(sandbox.answer(f"answer = {number}") for number in range(20)))
        assert answers == list(range(20))

    with_sandbox(scenario)


def test_one_name_is_one_instance(with_sandbox: Callable[..., Any]) -> None:
    async def scenario(sandbox: Any) -> None:
        guest = await sandbox.start("connection.recv(1)")
        theirs, ours = socket.socketpair()
        start = partial(sandbox.link.start, guest.name, b"x", sandbox.config.waiting, lease_s=1, wall_s=0, record=b"")
        with theirs, ours, pytest.raises(SandboxUnavailable, match="runs already"):
            await start(connection=theirs)
        guest.close()

    with_sandbox(scenario)


def test_a_name_that_has_ended_is_not_used_again(with_sandbox: Callable[..., Any]) -> None:
    async def scenario(sandbox: Any) -> None:
        guest = await sandbox.start("")
        await sandbox.tombstone(guest)
        theirs, ours = socket.socketpair()
        with theirs, ours, pytest.raises(SandboxUnavailable, match="has ended"):
            await sandbox.link.start(guest.name, b"x", LIMITS, lease_s=1, wall_s=0, record=b"", connection=theirs)
        guest.close()

    with_sandbox(scenario)


def test_one_run_folder_has_one_reaper(with_sandbox: Callable[..., Any]) -> None:
    async def scenario(sandbox: Any) -> None:
        pid = sandbox.link.reaper_pid
        assert is_reaper_running(Path(sandbox.config.run))
        await asyncio.to_thread(start_reaper, sandbox.config)
        await sandbox.reconnect()
        assert sandbox.link.reaper_pid == pid

    with_sandbox(scenario)


def test_ends_by_itself_when_nobody_is_left(with_sandbox: Callable[..., Any]) -> None:
    async def scenario(sandbox: Any) -> None:
        sandbox.link.close()
        await sandbox.until(lambda: not is_reaper_running(Path(sandbox.config.run)))
        assert sandbox.left() == []

    with_sandbox(scenario, grace_s=1)


def test_ends_on_sigterm(with_sandbox: Callable[..., Any]) -> None:
    async def scenario(sandbox: Any) -> None:
        guest = await sandbox.start("connection.recv(1)")
        os.kill(sandbox.link.reaper_pid, signal.SIGTERM)
        assert await guest.read() == b""
        await sandbox.until(lambda: not is_reaper_running(Path(sandbox.config.run)))
        guest.close()

    with_sandbox(scenario, own=True)


def test_a_log_that_nobody_reads_does_not_stop_the_reaper(make_config: Callable[..., SandboxConfig]) -> None:
    """Its stderr may be a pipe whose reader died with the server, or reads no more."""

    async def scenario() -> None:
        reading, writing = os.pipe2(os.O_NONBLOCK)
        with contextlib.suppress(BlockingIOError):
            while True:
                os.write(writing, bytes(4096))
        config = make_config()
        path = await asyncio.to_thread(start_reaper, config, log=writing)
        os.set_blocking(writing, True)
        await provoke_a_notice(path)  # the pipe is full
        os.close(reading)
        os.close(writing)
        await provoke_a_notice(path)  # the pipe is broken
        await (await ReaperLink.connect(path)).stop()

    asyncio.run(scenario())


async def provoke_a_notice(path: Path) -> None:
    """Kill a child that waits, and hear of it."""
    link = await ReaperLink.connect(path)
    os.kill(last_child_of(link.reaper_pid), signal.SIGKILL)
    assert isinstance(await asyncio.wait_for(anext(link.events()), 10), Notice)
    link.close()


def last_child_of(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[-1])
