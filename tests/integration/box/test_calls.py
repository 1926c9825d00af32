"""Functions of every kind, over the real wire to a real sandbox."""

import pytest

from bento.config import MAX_CODE_BYTES, MAX_INNER_BYTES
from bento.errors import BadToken, NoSuchInstance, SourceError
from bento.errors import Refused as RefusedError
from bento.protocol.inner import INPUT_WINDOW_BYTES
from bento.protocol.messages import Describe, Description, Ended, Raise, Renew, Renewed, Return, Shutdown
from tests.lone_box import LoneBox
from tests.wire import RemoteFunction, ask, running

SOURCE = b"""
import asyncio
import api as imported

calls = 0

def hello(name):
    global calls
    calls += 1
    return f"hello {name}, call {calls}"

def count(n):
    yield b"bytes"
    yield "str\\n"
    yield {"n": n}
    return "done"

def shout():
    while data := api.recv():
        api.send(data.upper())
    return "bye"

def polls():
    before = api.poll()
    api.send("ready")
    return [before, api.poll(20), api.recv(), api.poll(20), api.recv()]

async def later(value):
    await asyncio.sleep(0.01)
    return value

async def stream(n):
    for i in range(n):
        yield str(i)

def fails():
    raise KeyError("what")

def leaves():
    raise SystemExit(3)

def unreturnable():
    return {1, 2}

def same():
    return imported is api

def not_unicode():
    return "\\ud800"

def not_unicode_either():
    raise ValueError("caf\\udce9")

def many():
    return ["x" * 5_000_000] * 3

def subclass():
    import enum
    class Name(str): pass
    class Colour(enum.IntEnum):
        RED = 1
    return {Name("a"): [Name("b"), Colour.RED]}

def taken_late():
    import time
    while not api.poll(1): pass
    api.send("r")
    time.sleep(0.3)
    count = 0
    while data := api.recv():
        count += len(data)
    return count

def large(n):
    return b"x" * n

def pour(chunks):
    for _ in range(chunks):
        api.send(b"y" * 65536)

def threads():
    import threading
    thread = threading.Thread(target=lambda: api.send("from a thread"))
    thread.start()
    thread.join()

_hidden = lambda: None
def _private():
    pass
"""


@pytest.fixture(scope="module")
def function(box: LoneBox) -> RemoteFunction:
    function = RemoteFunction(box.address, SOURCE)
    assert function.start("hello", "first").value() == "hello first, call 1"
    return function


def test_keeps_its_state_between_calls(function: RemoteFunction) -> None:
    assert function.again("hello", "again").value() == "hello again, call 2"


def test_streams_a_generators_items_as_they_are(function: RemoteFunction) -> None:
    call = function.again("count", 3)
    assert call.value() == "done"
    assert call.output == b'bytesstr\n{"n":3}\n'


def test_talks_back_while_it_runs(function: RemoteFunction) -> None:
    call = function.again("shout")
    call.send(b"abc")
    assert call.read(3) == b"ABC"
    call.send(b"def")
    call.send(b"")
    assert call.value() == "bye"
    assert call.output == b"ABCDEF"


def test_poll_tells_whether_recv_would_wait(function: RemoteFunction) -> None:
    call = function.again("polls")
    assert call.read(5) == b"ready"
    call.send(b"x")
    call.send(b"")
    assert call.value() == [False, True, b"x", True, b""]


def test_runs_async_functions_and_generators(function: RemoteFunction) -> None:
    assert function.again("later", {"a": [1, b"x"]}).value() == {"a": [1, b"x"]}
    call = function.again("stream", 3)
    assert call.value() is None
    assert call.output == b"012"


def test_runs_several_calls_at_once(function: RemoteFunction) -> None:
    calls = [function.again("shout") for _ in range(8)]
    for number, call in enumerate(calls):
        call.send(b"%d" % number)
        call.send(b"")
    assert [call.value() for call in calls] == ["bye"] * 8
    assert [call.output for call in calls] == [b"%d" % number for number in range(8)]


@pytest.mark.parametrize(
    ("entry", "kind", "text"),
    [
        ("fails", "KeyError", "'what'"),
        ("leaves", "SystemExit", "3"),
        ("unreturnable", "TypeError", "a set can't be returned; return None, bool, numbers, str, bytes, list, dict"),
        ("not_unicode_either", "ValueError", "caf?"),
        ("many", "ValueError", "15000040 bytes can't be returned, at most 8388608; yield them"),
    ],
)
def test_an_exception_travels_as_type_and_message(function: RemoteFunction, entry: str, kind: str, text: str) -> None:
    assert function.again(entry).outcome() == Raise(0, kind, text)


def test_what_is_not_unicode_is_the_functions_error(function: RemoteFunction) -> None:
    outcome = function.again("not_unicode").outcome()
    assert isinstance(outcome, Raise)
    assert "surrogates not allowed" in outcome.message


def test_values_of_subclasses_travel_as_their_bases(function: RemoteFunction) -> None:
    assert function.again("subclass").value() == {"a": ["b", 1]}


def test_api_is_bound_and_importable(function: RemoteFunction) -> None:
    assert function.again("same").value() is True


def test_api_works_in_a_thread_of_the_functions_own(function: RemoteFunction) -> None:
    call = function.again("threads")
    call.value()
    assert call.output == b"from a thread"


def test_returns_up_to_a_message_and_says_what_to_do_beyond(function: RemoteFunction) -> None:
    assert len(function.again("large", 8 * 2**20 - 1024).value()) == 8 * 2**20 - 1024
    outcome = function.again("large", 8 * 2**20).outcome()
    assert isinstance(outcome, Raise)
    assert "yield or api.send" in outcome.message


@pytest.mark.parametrize("entry", ["nothing", "_private", "_hidden", "asyncio", "imported"])
def test_only_public_functions_of_the_module_are_entries(function: RemoteFunction, entry: str) -> None:
    with pytest.raises(SourceError, match="no entry"):
        function.again(entry).outcome()


def test_arguments_that_do_not_fit_are_told(function: RemoteFunction) -> None:
    with pytest.raises(SourceError, match=r"hello\(name\): missing a required argument"):
        function.again("hello").outcome()


def test_output_outlives_a_lost_stream(function: RemoteFunction) -> None:
    call = function.again("pour", 100)
    call.read(1)
    for _ in range(3):
        call.resume()
        call.read(len(call.output) + 1)
    call.resume()
    assert isinstance(call.outcome(), Return)
    assert call.output == b"y" * 65536 * 100


def test_input_outlives_a_lost_stream(function: RemoteFunction) -> None:
    call = function.again("shout")
    call.send(b"one ")
    call.read(4)
    call.resume()
    for event in call.events():
        call.stream.sendall(call.side.resend(event))  # type: ignore[arg-type] # a resume is answered first
        break
    call.send(b"two")
    call.send(b"")
    call.value()
    assert call.output == b"ONE TWO"


def test_a_whole_window_of_input_outlives_a_lost_stream(function: RemoteFunction) -> None:
    call = function.again("taken_late")
    call.send(bytes(INPUT_WINDOW_BYTES))
    call.read(1)
    call.resume()
    for event in call.events():
        call.stream.sendall(call.side.resend(event))  # type: ignore[arg-type]
        break
    assert call.side.input_room_bytes == 0
    while call.side.input_room_bytes == 0:
        call.side.receive(call.stream.recv(65536))
    call.send(bytes(call.side.input_room_bytes))
    call.send(b"")
    assert call.value() == 2 * INPUT_WINDOW_BYTES


def test_the_largest_source_and_arguments_come_in_one_flight(box: LoneBox) -> None:
    source = b"# /// bento\n# memory_bytes = 400_000_000\n# ///\ndef size(data):\n    return len(data)\n#"
    source += b"x" * (MAX_CODE_BYTES - len(source))
    with running(RemoteFunction(box.address, source)) as function:
        assert function.start("size", bytes(MAX_INNER_BYTES - 1024)).value() == MAX_INNER_BYTES - 1024


def test_the_newest_attachment_replaces_the_older(function: RemoteFunction) -> None:
    call = function.again("shout")
    call.send(b"x")
    call.read(1)
    older = call.stream.dup()
    call.resume()
    older.settimeout(20)
    while older.recv(4096):
        pass  # what was on its way; then its end, without which this waits in vain
    older.close()
    for event in call.events():
        call.stream.sendall(call.side.resend(event))  # type: ignore[arg-type]
        break
    call.send(b"")
    assert call.value() == "bye"


def test_describes_itself(box: LoneBox) -> None:
    answer = ask(box.address, Describe())
    assert isinstance(answer, Description)
    assert answer.images == ("python",)
    assert answer.policy.instances == 6
    assert answer.tier in ("v1", "v2", "rlimits")
    assert {"requests", "httpx", "bento-tor"} <= {package.name for package in answer.packages["python"]}


def test_the_same_spawn_again_is_the_same_instance(box: LoneBox) -> None:
    with running(RemoteFunction(box.address, SOURCE)) as function:
        assert function.start("hello", "a").value() == "hello a, call 1"
        assert function.start("hello", "b").value() == "hello b, call 2"


def test_another_spawn_of_the_same_id_is_refused(box: LoneBox) -> None:
    with running(RemoteFunction(box.address, SOURCE)) as function:
        function.start("hello", "a").value()
        thief = RemoteFunction(box.address, SOURCE, token=function.token)
        with pytest.raises(BadToken, match="another's"):
            thief.start("hello", "b").value()


def test_only_the_spawner_loads(box: LoneBox) -> None:
    with running(RemoteFunction(box.address, SOURCE)) as function:
        function.start("hello", "a").value()
        other = RemoteFunction(box.address, b"def hello(name): return 'evil'", token=function.token)
        with pytest.raises(SourceError, match="another source"):
            other.again("hello", "b", load=other.load).value()
        assert function.again("hello", "c").value().startswith("hello c")


def test_a_wrong_invocation_token_neither_finds_nor_invokes(box: LoneBox) -> None:
    with running(RemoteFunction(box.address, SOURCE)) as function:
        function.start("hello", "a").value()
        stranger = RemoteFunction(box.address, SOURCE)
        with pytest.raises(NoSuchInstance):
            stranger.again("hello", "x").value()
        # An operator knows the half for the box, which opens nothing.
        with pytest.raises(BadToken, match="invocation token"):
            function.again("hello", "x", invoke=function.token.route).value()


def test_only_the_shutdown_token_ends_and_renews(box: LoneBox) -> None:
    with running(RemoteFunction(box.address, SOURCE)) as function:
        function.start("hello", "a").value()
        wrong = bytes(32)
        with pytest.raises(BadToken):
            ask(box.address, Shutdown(function.token.instance, wrong))
        with pytest.raises(BadToken):
            ask(box.address, Renew(function.token.instance, wrong, 60))
        renewed = ask(box.address, Renew(function.token.instance, function.shutdown_token.shutdown, 600))
        assert isinstance(renewed, Renewed)
        assert 590 <= renewed.lease_s <= 600
        assert 590 <= function.state().lease_s <= 600
        with pytest.raises(RefusedError, match="lease_s"):
            ask(box.address, Renew(function.token.instance, function.shutdown_token.shutdown, 10**7))


def test_shutdown_ends_it_and_again_is_no_error(box: LoneBox) -> None:
    function = RemoteFunction(box.address, SOURCE)
    function.start("hello", "a").value()
    assert function.stop() == Ended()
    assert function.stop() == Ended()
    state = function.state()
    assert (state.running, state.cause) == (False, "shutdown")
    with pytest.raises(NoSuchInstance, match="shutdown"):
        function.again("hello", "b").value()
