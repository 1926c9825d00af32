"""Invocations through real circuits that break at any moment, and clients that die at any moment."""

import asyncio
import contextlib
import os
from collections.abc import Callable, Coroutine
from random import Random
from typing import Any

import pytest

from bento.client import Function, Invocation
from bento.client.tasks import alongside, task_group
from bento.errors import Replaced
from bento.guest.loader import MAX_INVOCATIONS
from bento.protocol.inner import InvocationSide
from tests.users import FUNCTION, LIMIT_S, User

pytestmark = pytest.mark.needs("tor", "namespaces", "seccomp")

_ID = b"i" * 16


def run(user: User, work: Callable[[Function], Coroutine[Any, Any, Any]], *, source: bytes = FUNCTION) -> Any:
    """The result of some work with a spawned function."""

    async def spawn_and_work() -> Any:
        async with asyncio.timeout(LIMIT_S), user.client() as client, client.spawn(source) as function:
            await function.load()
            return await work(function)

    return asyncio.run(spawn_and_work())


def begun(function: Function, entry: str, *args: Any) -> Invocation:
    """A call whose id is known to the test."""
    side = InvocationSide(function.invocation_token.invoke, _ID, b"1" * 16)
    return Invocation(function, side, entry, args, has_input=False)


def taken_up(function: Function, received: int, attachment: bytes = b"2" * 16) -> Invocation:
    """The same call, as another client takes it up that has the output before `received`."""
    side = InvocationSide(function.invocation_token.invoke, _ID, attachment, received=received)
    return Invocation(function, side, None, (), has_input=False)


async def die(invocation: Invocation) -> None:
    """What becomes of a client that is killed: its streams end, and it says nothing more."""
    invocation._drop_stream()
    await asyncio.sleep(0)


async def break_at_random(user: User, function: Function, seed: int) -> None:
    random = Random(seed)
    while True:
        await asyncio.sleep(random.uniform(0.05, 0.5))
        await asyncio.to_thread(user.break_circuits_to, function.box.fingerprint)


@pytest.mark.parametrize("seed", [1, 2])
def test_both_directions_are_whole_while_circuits_are_closed_at_random_moments(user: User, seed: int) -> None:
    data = os.urandom(6 * 2**20)

    async def work(function: Function) -> tuple[bytes, Any]:
        async with function.invoke("shout") as invocation:

            async def feed() -> None:
                await invocation.send(data)
                await invocation.end_input()

            async with alongside(break_at_random(user, function, seed)), task_group() as group:
                group.create_task(feed())
                output = b"".join([chunk async for chunk in invocation])
            return output, await invocation.result()

    output, total = run(user, work)
    assert output == data.upper()
    assert total == len(data)


def test_what_its_caller_had_not_taken_is_there_for_the_next(user: User) -> None:
    async def work(function: Function) -> tuple[bytes, bytes]:
        first = begun(function, "flood", 2**21)
        async with first:
            head = await anext(first)
            while len(head) < 2**20:
                head += await anext(first)
            safe = len(head) - 65536  # the last piece was given, and nobody has asked for the next
            await die(first)
        async with taken_up(function, safe) as second:
            return head[:safe], b"".join([chunk async for chunk in second])

    head, rest = run(user, work)
    assert head + rest == bytes(2**21)


def test_an_end_is_there_until_its_caller_has_left_with_it(user: User) -> None:
    async def work(function: Function) -> list[Any]:
        results = []
        first = begun(function, "hello", "world")
        async with first:
            results.append(await first.result())
            await die(first)
        for attachment in (b"2" * 16, b"3" * 16):
            with contextlib.suppress(RuntimeError):
                async with taken_up(function, 0, attachment) as next_one:
                    results.append(await next_one.result())
                    raise RuntimeError("before it was used")
        for _ in range(2 * MAX_INVOCATIONS):  # each is told, and makes room
            await function.call("hello", "you")
        async with taken_up(function, 0, b"4" * 16) as last:
            results.append(await last.result())
        return results

    assert run(user, work) == ["hello world"] * 4


def test_an_attachment_that_was_replaced_does_not_fight_back(user: User) -> None:
    async def work(function: Function) -> bytes:
        async with begun(function, "ticks", 20, 0.1) as first:
            await anext(first)
            async with taken_up(function, 0) as second:
                with pytest.raises(Replaced):
                    async for _ in first:
                        pass
                return b"".join([chunk async for chunk in second])

    assert run(user, work) == b"".join(b"%d\n" % number for number in range(20))


def test_the_smallest_buffer_flows_though_acknowledgements_are_lost(user: User) -> None:
    source = b"# /// bento\n# buffer_bytes = 65_536\n# ///\n" + FUNCTION
    size = 2**20

    async def work(function: Function) -> int:
        received = broken = 0
        async with function.invoke("flood", size, has_input=False) as invocation:
            async for chunk in invocation:
                received += len(chunk)
                if received > (broken + 1) * size // 4:
                    broken += 1
                    await asyncio.to_thread(user.break_circuits_to, function.box.fingerprint)
        return received

    assert run(user, work, source=source) == size
