"""Functions at boxes through real circuits: values, output, input, errors, ends."""

import asyncio
import dataclasses
import time
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from bento.client import Client, Function, Invocation
from bento.errors import (
    BentoError,
    BoxUnreachable,
    FunctionRaised,
    LimitReached,
    NoSuchInstance,
    Refused,
    SourceError,
)
from bento.protocol.messages import Describe, Description, State, Status
from bento.tor.box_list import ListedBox
from tests.users import FUNCTION, LIMIT_S, User, ask_box

pytestmark = pytest.mark.needs("tor", "namespaces", "seccomp")

WithFunction = Callable[[Function], Coroutine[Any, Any, Any]]


def run(user: User, work: WithFunction, *, source: bytes = FUNCTION, **options: Any) -> Any:
    """The result of some work with a spawned function."""

    async def spawn_and_work() -> Any:
        async with asyncio.timeout(LIMIT_S), user.client() as client, client.spawn(source, **options) as function:
            return await work(function)

    return asyncio.run(spawn_and_work())


async def collect(invocation: Invocation) -> bytes:
    return b"".join([chunk async for chunk in invocation])


def test_a_call_gives_the_returned_value(user: User) -> None:
    assert run(user, lambda function: function.call("hello", "world")) == "hello world"


def test_an_instance_keeps_its_state_from_call_to_call(user: User) -> None:
    async def work(function: Function) -> list[int]:
        return [await function.call("remember") for _ in range(3)]

    assert run(user, work) == [1, 2, 3]


def test_output_comes_while_the_function_runs(user: User) -> None:
    async def work(function: Function) -> tuple[float, float, bytes]:
        async with function.invoke("ticks", 10, 0.2) as invocation:
            first = await anext(invocation)
            first_s = time.monotonic()
            rest = await collect(invocation)
            assert await invocation.result() == "done"
            return first_s, time.monotonic(), first + rest

    first_s, last_s, output = run(user, work)
    assert output == b"".join(b"%d\n" % number for number in range(10))
    assert last_s - first_s > 1


def test_a_function_talks_back(user: User) -> None:
    async def work(function: Function) -> int:
        async with function.invoke("shout") as invocation:
            for word in (b"one", b"two"):
                await invocation.send(word)
                assert await anext(invocation) == word.upper()
            await invocation.end_input()
            result: int = await invocation.result()
            return result

    assert run(user, work) == 6


def test_input_beyond_every_buffer_flows_while_output_is_read(user: User) -> None:
    size = 12 * 2**20

    async def work(function: Function) -> int:
        async with function.invoke("shout") as invocation:

            async def feed() -> None:
                await invocation.send(b"x" * size)
                await invocation.end_input()

            async with asyncio.TaskGroup() as group:
                group.create_task(feed())
                output = await collect(invocation)
            assert output == b"X" * size
            result: int = await invocation.result()
            return result

    assert run(user, work) == size


def test_calls_run_at_once_on_one_instance(user: User) -> None:
    async def work(function: Function) -> list[Any]:
        return list(await asyncio.gather(*(function.call("ticks", 3, 0.3) for _ in range(5))))

    start_s = time.monotonic()
    assert run(user, work) == ["done"] * 5
    assert time.monotonic() - start_s < 10


def test_a_lost_circuit_loses_nothing(user: User) -> None:
    async def work(function: Function) -> tuple[int, bytes]:
        broken = 0
        output = b""
        async with function.invoke("ticks", 30, 0.1) as invocation:
            async for chunk in invocation:
                output += chunk
                if chunk in (b"5\n", b"15\n"):
                    broken += await asyncio.to_thread(user.break_circuits_to, function.box.fingerprint)
            assert await invocation.result() == "done"
        return broken, output

    broken, output = run(user, work)
    assert broken >= 2
    assert output == b"".join(b"%d\n" % number for number in range(30))


def test_a_circuit_lost_in_full_flow_loses_nothing(user: User) -> None:
    size = 20 * 2**20

    async def work(function: Function) -> tuple[int, int]:
        received = broken = 0
        async with function.invoke("flood", size) as invocation:
            async for chunk in invocation:
                received += len(chunk)
                if received > size // 2 and not broken:
                    broken = await asyncio.to_thread(user.break_circuits_to, function.box.fingerprint)
        return broken, received

    broken, received = run(user, work)
    assert broken
    assert received == size


def test_input_survives_a_lost_circuit(user: User) -> None:
    async def work(function: Function) -> bytes:
        async with function.invoke("shout") as invocation:
            await invocation.send(b"one ")
            output = await anext(invocation)
            assert await asyncio.to_thread(user.break_circuits_to, function.box.fingerprint)
            await invocation.send(b"two")
            await invocation.end_input()
            output += await collect(invocation)
            return output

    assert run(user, work) == b"ONE TWO"


def test_what_the_function_raises_reaches_its_caller_behind_the_output(user: User) -> None:
    async def work(function: Function) -> None:
        async with function.invoke("fail") as invocation:
            assert await anext(invocation) == b"before"
            await invocation.result()

    with pytest.raises(FunctionRaised) as found:
        run(user, work)
    assert (found.value.type_name, found.value.text) == ("ValueError", "as asked")


@pytest.mark.parametrize(
    ("entry", "options", "rule"), [("spin", {"timeout_s": 2}, "wall_s"), ("eat", {}, "memory_bytes")]
)
def test_a_limit_that_was_hit_is_named(user: User, entry: str, options: dict[str, Any], rule: str) -> None:
    with pytest.raises(LimitReached) as found:
        run(user, lambda function: function.call(entry), **options)
    assert found.value.rule == rule


def test_a_process_that_ends_by_itself_is_the_function_s_fault(user: User) -> None:
    with pytest.raises(FunctionRaised, match="process"):
        run(user, lambda function: function.call("vanish"))


def test_source_that_fails_as_it_loads_says_so(user: User) -> None:
    with pytest.raises(FunctionRaised, match="ZeroDivisionError"):
        run(user, lambda function: function.call("f"), source=b"def f(): pass\n1 / 0\n")


def test_load_runs_the_source_before_any_call(user: User) -> None:
    async def work(function: Function) -> int:
        await function.load()
        await function.load()
        assert (await function.status()).running
        result: int = await function.call("remember")
        return result

    assert run(user, work) == 1


def test_what_only_the_box_can_tell_is_still_a_source_error(user: User) -> None:
    source = b"def f(): pass\ng = 5\n"
    with pytest.raises(SourceError, match="'g'"):
        run(user, lambda function: function.call("g"), source=source)


def test_leaving_the_block_ends_the_instance(user: User) -> None:
    async def work() -> State:
        async with asyncio.timeout(LIMIT_S), user.client() as client, client.spawn(FUNCTION) as function:
            await function.call("hello", "x")
            box, token = function.box, function.invocation_token
        assert function.is_ended
        state: State = await ask_box(user, box, Status(token.route), State)
        return state

    state = asyncio.run(work())
    assert (state.running, state.cause) == (False, "shutdown")


@pytest.mark.parametrize("error", [RuntimeError("mine"), asyncio.CancelledError()])
def test_leaving_the_block_by_an_error_ends_the_instance_too(user: User, error: BaseException) -> None:
    functions: list[Function] = []

    async def work(function: Function) -> None:
        functions.append(function)
        async with function.invoke("ticks", 100, 1) as invocation:
            await anext(invocation)
            raise error

    with pytest.raises(type(error)):
        run(user, work)
    assert functions[0].is_ended


def test_a_lease_can_be_renewed_up_to_the_wall_time(user: User) -> None:
    async def work(function: Function) -> tuple[int, int, int]:
        await function.load()
        before = (await function.status()).lease_s
        return before, await function.renew(60), await function.renew(5000)

    before, renewed, most = run(user, work, lease_s=20, timeout_s=100)
    assert before <= 20 < renewed <= 60 < most <= 100


def test_a_lease_that_ends_is_no_such_instance(user: User) -> None:
    async def work(function: Function) -> None:
        await function.call("ticks", 100, 1)

    with pytest.raises(NoSuchInstance, match="lease"):
        run(user, work, lease_s=2, timeout_s=60)


def test_outside_its_block_a_function_is_no_instance(user: User) -> None:
    async def work() -> None:
        client = user.client()
        function = client.spawn(FUNCTION)
        async with function:
            pass
        await function.status()

    with pytest.raises(NoSuchInstance, match="block"):
        asyncio.run(work())


def test_a_refusal_names_every_rule(user: User) -> None:
    source = b"# /// bento\n# memory_bytes = 999_999_999_999\n# cpu_s = 999_999\n# ///\n" + FUNCTION
    with pytest.raises(Refused) as found:
        run(user, lambda function: function.call("hello", "x"), source=source)
    assert {getattr(refusal, "rule", "") for refusal in found.value.refusals} == {"memory_bytes", "cpu_s"}


def changed(user: User, **changes: Any) -> ListedBox:
    """The first box of the list, as it is not; keys of its item or its own."""
    box = asyncio.run(user.client().boxes())[0]
    item = dataclasses.replace(box.item, **{key: value for key, value in changes.items() if hasattr(box.item, key)})
    own = {key: value for key, value in changes.items() if not hasattr(box.item, key)}
    return dataclasses.replace(box, item=item, **own)


def describe(user: User, box: ListedBox) -> Description:
    found: Description = asyncio.run(ask_box(user, box, Describe(), Description))
    return found


@pytest.mark.parametrize(
    "changes",
    [
        {"is_open": False},
        {"port": 7001},  # the relay's policy refuses it, which shows at the first stream only
    ],
)
def test_a_box_whose_relay_can_t_exit_to_itself_is_reached_by_its_onion_service(
    user: User, changes: dict[str, Any]
) -> None:
    assert describe(user, changed(user, **changes)).images == ("python",)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fingerprint": "A" * 40}, "not in the network's consensus"),
        ({"is_open": False, "onion": None}, "no onion service"),
        ({"port": 7001, "onion": None}, "does not let circuits end"),
        ({"is_open": False, "onion": "a" * 56}, "no connection"),
    ],
)
def test_a_box_that_can_t_be_reached_is_a_clear_error(user: User, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BoxUnreachable, match=message) as found:
        describe(user, changed(user, **changes))
    assert found.value.hint


def test_where_one_box_can_t_be_reached_the_next_is_asked(user: User, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = changed(user, fingerprint="A" * 40)

    async def work() -> tuple[str, str]:
        client = user.client()
        boxes = await client.boxes()
        monkeypatch.setattr("bento.client.client.choose_boxes", lambda *_: [gone, boxes[0]])
        async with client.spawn(FUNCTION) as function:
            return await function.call("hello", "x"), function.box.fingerprint

    value, fingerprint = asyncio.run(work())
    assert value == "hello x"
    assert fingerprint != gone.fingerprint


def test_a_circuit_has_three_relays_apart_and_the_box_last(user: User) -> None:
    async def work(function: Function) -> None:
        assert len({hop.address.rsplit(".", 2)[0] for hop in function.path}) == 3
        assert function.path[-1].fingerprint == function.box.fingerprint

    run(user, work)


def test_the_guard_is_the_same_for_every_box_but_itself(user: User) -> None:
    async def guards() -> dict[str, str]:
        found = {}
        client: Client = user.client()
        for box in await client.boxes():
            async with client.spawn(FUNCTION, box=box.fingerprint) as function:
                found[box.fingerprint] = function.path[0].fingerprint
        return found

    found = asyncio.run(guards())
    assert len({guard for box, guard in found.items() if guard != box}) <= 2
    assert all(guard != box for box, guard in found.items())


def test_errors_are_all_of_one_family(user: User) -> None:
    with pytest.raises(BentoError):
        run(user, lambda function: function.call("nope"))
