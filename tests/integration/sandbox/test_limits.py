"""Each limit ends or stops what it should, and says so; what stays below it runs."""

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from bento.config import MIB
from bento.sandbox.spec import Limits

LIMITS = Limits(memory_bytes=32 * MIB, cpu_s=30, storage_bytes=8 * MIB, storage_files=100, threads=8, descriptors=32)


def test_memory_beyond_the_limit_is_an_error_in_the_function(with_sandbox: Callable[..., Any]) -> None:
    code = """
answer = [len(bytearray(24 << 20)) >> 20]
try:
    bytearray(40 << 20)
except MemoryError:
    answer.append("MemoryError")
"""

    async def scenario(sandbox: Any) -> Any:
        return await sandbox.answer(code, limits=LIMITS)

    assert with_sandbox(scenario) == [24, "MemoryError"]


def test_memory_that_ends_the_loader_is_the_memory_limit(with_sandbox: Callable[..., Any]) -> None:
    async def scenario(sandbox: Any) -> None:
        guest = await sandbox.start("hoard = []\nwhile True:\n    hoard.append(bytearray(1 << 20))", limits=LIMITS)
        assert await guest.read() == b""
        tombstone = await sandbox.tombstone(guest)
        assert (tombstone.cause, tombstone.rule, tombstone.limit) == ("limit", "memory_bytes", 32 * MIB)
        guest.close()

    with_sandbox(scenario)


def test_kernel_memory_counts_too(with_sandbox: Callable[..., Any]) -> None:
    """Pipes and sockets are no part of the address space: only the cgroup sees them."""
    code = """
import fcntl, os, socket
hoard = []
connection.send(b"begun")
while True:
    pair = socket.socketpair()
    hoard.append(pair)
    for each in pair:
        each.setblocking(False)
        try:
            while True:
                each.send(bytes(65536))
        except BlockingIOError:
            pass
"""
    limits = msgspec.structs.replace(LIMITS, memory_bytes=4 * MIB, storage_bytes=4096, descriptors=4000)

    async def scenario(sandbox: Any) -> None:
        if sandbox.link.tier == "rlimits":
            pytest.skip("without cgroups only the address space is limited")
        guest = await sandbox.start(code, limits=limits)
        assert await guest.read() == b"begun"
        tombstone = await sandbox.tombstone(guest)
        assert (tombstone.cause, tombstone.rule) == ("limit", "memory_bytes")
        guest.close()

    with_sandbox(scenario)


def test_processor_time_ends_a_function(with_sandbox: Callable[..., Any]) -> None:
    code = """
import contextlib, signal
for number in range(1, 32):
    with contextlib.suppress(OSError):
        signal.signal(number, signal.SIG_IGN)
while True: pass
"""

    async def scenario(sandbox: Any) -> None:
        guest = await sandbox.start(code, limits=msgspec.structs.replace(LIMITS, cpu_s=0.5))
        assert await guest.read() == b""
        tombstone = await sandbox.tombstone(guest)
        assert (tombstone.cause, tombstone.rule, tombstone.limit) == ("limit", "cpu_s", 0.5)
        assert 0.5 <= tombstone.asked < 3
        guest.close()

    with_sandbox(scenario)


def test_one_instance_gets_one_core(with_sandbox: Callable[..., Any]) -> None:
    code = """
import hashlib, threading, time
data, used, began = bytes(1 << 20), time.process_time(), time.monotonic()
def work():
    while time.monotonic() < began + 1:
        hashlib.sha256(data)  # lets other threads run meanwhile
threads = [threading.Thread(target=work) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
answer = (time.process_time() - used) / (time.monotonic() - began)
"""

    async def scenario(sandbox: Any) -> None:
        if sandbox.link.tier == "rlimits":
            pytest.skip("without cgroups cores are not limited")
        assert await sandbox.answer(code) < 0.6

    with_sandbox(scenario, cpu_cores=0.4)


def test_storage_ends_at_its_bytes_and_files(with_sandbox: Callable[..., Any]) -> None:
    code = """
import os
answer = []
with open("/data/a", "wb", buffering=0) as file:
    try:
        for written in range(100):
            file.write(bytes(1 << 20))
    except OSError as error:
        answer += [written, error.errno]
os.remove("/data/a")
try:
    for made in range(1000):
        open(f"/data/{made}", "w").close()
except OSError as error:
    answer += [made, error.errno]
"""

    async def scenario(sandbox: Any) -> Any:
        return await sandbox.answer(code, limits=LIMITS)

    no_space = 28
    assert with_sandbox(scenario) == [8, no_space, 100, no_space]


def test_storage_and_memory_may_both_be_full(with_sandbox: Callable[..., Any]) -> None:
    """The cgroup charges files as memory; a function may use all of both."""
    code = """
open("/data/a", "wb", buffering=0).write(bytes(7 << 20))
hoard = bytearray(28 << 20)
answer = len(hoard) >> 20
"""

    async def scenario(sandbox: Any) -> Any:
        return await sandbox.answer(code, limits=LIMITS)

    assert with_sandbox(scenario) == 28


def test_threads_end_at_their_number(with_sandbox: Callable[..., Any]) -> None:
    code = """
import threading
done, answer = threading.Event(), 1
try:
    while True:
        threading.Thread(target=done.wait).start()
        answer += 1
except RuntimeError:
    done.set()
"""

    async def scenario(sandbox: Any) -> Any:
        return await sandbox.answer(code, limits=LIMITS)

    assert with_sandbox(scenario) == 8


def test_descriptors_end_at_their_number(with_sandbox: Callable[..., Any]) -> None:
    code = """
hoard, answer = [], 0
try:
    while True:
        hoard.append(open("/dev/null"))
except OSError as error:
    answer = hoard[-1].fileno(), error.errno
    hoard.clear()
"""

    async def scenario(sandbox: Any) -> Any:
        return await sandbox.answer(code, limits=LIMITS)

    too_many = 24
    assert with_sandbox(scenario) == [31, too_many]


def test_wall_time_ends_an_instance(with_sandbox: Callable[..., Any]) -> None:
    async def scenario(sandbox: Any) -> None:
        guest = await sandbox.start("connection.recv(1)", wall_s=0.2)
        assert await guest.read() == b""
        tombstone = await sandbox.tombstone(guest)
        assert (tombstone.cause, tombstone.rule, tombstone.limit) == ("limit", "wall_s", 0.2)
        assert 0.2 <= tombstone.asked < 1
        guest.close()

    with_sandbox(scenario)


def test_a_lease_ends_an_instance_unless_renewed(with_sandbox: Callable[..., Any]) -> None:
    async def scenario(sandbox: Any) -> None:
        renewed = await sandbox.start("connection.recv(1)", lease_s=0.3)
        ended = await sandbox.start("connection.recv(1)", lease_s=0.3)
        sandbox.link.renew(renewed.name, 60)
        assert (await sandbox.tombstone(ended)).cause == "lease"
        await asyncio.sleep(0.3)
        renewed.connection.send(b".")
        assert await renewed.read() == b""
        assert (await sandbox.tombstone(renewed)).cause == "exit"
        for guest in (renewed, ended):
            guest.close()

    with_sandbox(scenario)


@pytest.mark.parametrize(
    ("code", "cause"), [("import os; os._exit(0)", "exit"), ("import os; os._exit(3)", "crash"), ("", "exit")]
)
def test_an_end_of_its_own_is_told_apart(with_sandbox: Callable[..., Any], code: str, cause: str) -> None:
    async def scenario(sandbox: Any) -> Any:
        guest = await sandbox.start(code)
        await guest.read()
        guest.close()
        return (await sandbox.tombstone(guest)).cause

    assert with_sandbox(scenario) == cause


def test_an_ordered_end_carries_its_reason(with_sandbox: Callable[..., Any]) -> None:
    async def scenario(sandbox: Any) -> None:
        first = await sandbox.start("connection.recv(1)")
        second = await sandbox.start("connection.recv(1)")
        sandbox.link.end(first.name, "shutdown")
        sandbox.link.end(second.name, "limit", rule="egress_bytes", limit=5, asked=6)
        assert (await sandbox.tombstone(first)).cause == "shutdown"
        tombstone = await sandbox.tombstone(second)
        assert (tombstone.cause, tombstone.rule, tombstone.limit, tombstone.asked) == ("limit", "egress_bytes", 5, 6)
        for guest in (first, second):
            guest.close()

    with_sandbox(scenario)


def test_measures_what_an_instance_uses(with_sandbox: Callable[..., Any]) -> None:
    async def scenario(sandbox: Any) -> None:
        measured = await sandbox.start("connection.recv(1)")
        found = await sandbox.link.measure(measured.name)
        assert found.memory_bytes > 0 or sandbox.link.tier == "rlimits"
        assert found.cpu_s < 1
        measured.close()
        assert await sandbox.answer("answer = 1") == 1

    with_sandbox(scenario)
