"""A box beside a real relay: what functions may dial, how users get there, and what `bento box check` finds."""

import asyncio
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bento.box.settings import load_settings
from bento.client import Client
from bento.errors import FunctionRaised, Refused
from bento.testnet import Network
from bento.testnet.status import RelayStatus
from bento.tor.control import Control

SOURCE = b"""# /// bento
# egress = ["*:*"]
# ///
import time

def fetch(url):
    answer = api.fetch(url)
    return [answer.status, answer.url, answer.text]

def watch(url):
    while True:
        try:
            api.fetch(url)
            yield "dialled\\n"
        except OSError as error:
            yield f"{type(error).__name__}: {error.strerror}\\n"
        time.sleep(0.3)
"""
_SMALL = b"""# /// bento
# egress = ["demo.test:*"]
# egress_bytes = 100
# ///
import socket
import time

kept = []

def twice(url):
    try:
        api.fetch(url)
    except ConnectionError:
        pass
    time.sleep(0.5)
    api.fetch(url)

def keep():
    kept.append(socket.create_connection(("demo.test", 443)))
    return kept[0].getsockname()
"""
_IN_FORCE_S = 5
"""How long a change of the relay's policy may take until functions meet it."""

_START_S = 30


@pytest.fixture(scope="module")
def run(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str, str], object]:
    """Call an entry of SOURCE with one argument, at a box by its relay's nickname."""
    state = tmp_path_factory.mktemp("state")

    async def call(nickname: str, entry: str, argument: str) -> object:
        async with Client(state=state, net=network.directory) as client:
            box = next(box.fingerprint for box in await client.boxes() if box.nickname == nickname)
            async with client.spawn(SOURCE, box=box) as function:
                return await function.call(entry, argument)

    def run_now(nickname: str, entry: str, argument: str) -> object:
        awaitable: Awaitable[object] = call(nickname, entry, argument)
        return asyncio.run(awaitable)  # type: ignore[arg-type]

    return run_now


def _relays(network: Network, *, is_exit: bool) -> list[RelayStatus]:
    boxed = [relay for relay in network.status().relays if relay.box]
    return [relay for number, relay in enumerate(boxed) if (number % 3 != 2) == is_exit]


@contextmanager
def _changed(relay: RelayStatus, policy: str) -> Iterator[None]:
    """Change a relay's exit policy for a while, as its operator would."""
    with Control.connect(Path(relay.control), Path(relay.cookie)) as control:
        before = ",".join(control.get_conf("ExitPolicy"))
        control.set_conf({"ExitPolicy": policy})
        try:
            yield
        finally:
            control.set_conf({"ExitPolicy": before})


def test_a_function_fetches_through_the_relays_policy(network: Network, run: Callable[..., list[object]]) -> None:
    status, url, text = run(_relays(network, is_exit=True)[0].nickname, "fetch", "http://demo.test/")
    assert (status, url) == (200, "http://demo.test/")
    assert "private Tor network" in str(text)


def test_https_is_checked_against_the_networks_own_authority(
    network: Network, run: Callable[..., list[object]]
) -> None:
    assert run(_relays(network, is_exit=True)[0].nickname, "fetch", "https://demo.test/")[0] == 200


@pytest.mark.parametrize(
    ("url", "kind", "says"),
    [
        ("http://demo.test:8080/", "PermissionError", "rejects"),
        ("http://127.0.0.1/", "PermissionError", "not a public address"),
        ("http://[::ffff:127.0.0.1]/", "PermissionError", "not a public address"),
        ("http://2130706433/", "PermissionError", "not a public address"),
        ("http://localhost/", "PermissionError", "not a public address"),
        ("http://nothing.invalid/", "gaierror", "no address"),
        ("ftp://demo.test/", "ValueError", "not an http"),
    ],
)
def test_a_dial_that_tor_would_not_make_is_refused(
    network: Network, run: Callable[..., object], url: str, kind: str, says: str
) -> None:
    with pytest.raises(FunctionRaised, match=says) as caught:
        run(_relays(network, is_exit=True)[0].nickname, "fetch", url)
    assert caught.value.type_name == kind


def test_no_relay_is_dialled_and_not_the_boxs_own(network: Network, run: Callable[..., object]) -> None:
    here = _relays(network, is_exit=True)[0]
    other = next(relay for relay in network.status().relays if relay.nickname == "r1")
    assert here.box is not None
    with _changed(here, f"accept {here.box.address}:{here.box.port},accept *:9001,reject *:*"):
        _until(
            lambda: _refusal(run, here, f"http://{other.address}:9001/"), lambda refusal: "is a Tor relay" in refusal
        )
        assert "own address" in _refusal(run, here, f"http://{here.address}:9001/")


def test_a_box_whose_relay_is_no_exit_refuses_a_function_that_wants_out(
    network: Network, run: Callable[..., object]
) -> None:
    with pytest.raises(Refused, match="egress"):
        run(_relays(network, is_exit=False)[0].nickname, "fetch", "http://demo.test/")


def test_a_new_exit_policy_in_the_torrc_is_in_force_within_seconds(network: Network, tmp_path: Path) -> None:
    relay = _relays(network, is_exit=True)[0]
    assert relay.box is not None
    assert relay.pid is not None
    torrc = Path(load_settings(Path(relay.box.config)).relay.torrc)
    before = torrc.read_text()
    private = "ExitPolicy reject private:*\n"
    assert private in before

    def reload(text: str) -> None:
        torrc.write_text(text)
        os.kill(relay.pid or 0, signal.SIGHUP)

    async def scenario() -> None:
        async with (
            Client(state=tmp_path, net=network.directory) as client,
            client.spawn(SOURCE, box=relay.fingerprint) as function,
            function.invoke("watch", "http://demo.test/", has_input=False) as invocation,
        ):
            chunks = aiter(invocation)
            await _said(chunks, "dialled", _START_S)
            reload(before.replace(private, f"{private}ExitPolicy reject *:80\n"))
            rejected = "PermissionError: the relay's exit policy rejects demo.test:80"
            await _said(chunks, rejected, _IN_FORCE_S)
            reload(before)
            await _said(chunks, "dialled", _IN_FORCE_S)

    try:
        asyncio.run(scenario())
    finally:
        reload(before)


def test_used_up_bytes_are_a_rule_that_is_named(network: Network, tmp_path: Path) -> None:
    async def scenario() -> None:
        box = _relays(network, is_exit=True)[0].fingerprint
        async with Client(state=tmp_path, net=network.directory) as client, client.spawn(_SMALL, box=box) as function:
            await function.call("twice", "http://demo.test/")

    with pytest.raises(FunctionRaised, match="egress_bytes") as caught:
        asyncio.run(scenario())
    assert caught.value.type_name == "PermissionError"


def test_what_a_function_dialled_from_the_relays_address_ends_with_it(network: Network, tmp_path: Path) -> None:
    relay = _relays(network, is_exit=True)[0]

    async def scenario() -> int:
        async with (
            Client(state=tmp_path, net=network.directory) as client,
            client.spawn(_SMALL, box=relay.fingerprint) as function,
        ):
            address, port = await function.call("keep")
            assert address == relay.address
            assert _state(network, port) == _ESTABLISHED
            return int(port)

    port = asyncio.run(scenario())
    _until(lambda: _state(network, port), lambda state: state != _ESTABLISHED)


_ESTABLISHED = "01"


def _state(network: Network, port: int) -> str:
    """The state of the connection from this port, as the network's kernel has it; "" if there is none."""
    listing = network.exec(["cat", "/proc/net/tcp"], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in str(listing).splitlines()[1:]]
    return next((row[3] for row in rows if row[1].endswith(f":{port:04X}")), "")


async def _said(chunks: AsyncIterator[bytes], line: str, limit_s: float) -> None:
    """Wait until a function says this."""
    async with asyncio.timeout(limit_s):
        while line not in (await anext(chunks)).decode():
            pass


def _refusal(run: Callable[..., object], relay: RelayStatus, url: str) -> str:
    """What a dial is refused with now; "" if it is not."""
    try:
        run(relay.nickname, "fetch", url)
    except FunctionRaised as error:
        return error.message
    return ""


def _until(look: Callable[[], str], is_right: Callable[[str], bool]) -> None:
    """Look again for as long as a change may take: five seconds, and what the looking itself takes."""
    end_s = time.monotonic() + 8
    while not is_right(seen := look()):
        assert time.monotonic() < end_s, f"it is still: {seen!r}"
        time.sleep(0.2)


@pytest.mark.parametrize("is_exit", [True, False])
def test_check_finds_nothing_to_change_at_a_box_that_works(network: Network, is_exit: bool) -> None:
    relay = _relays(network, is_exit=is_exit)[0]
    answer = _check(network, relay)
    assert "FAIL" not in answer
    assert "over a circuit that ends at its relay" in answer


def test_check_refuses_another_order_of_the_exit_policy(network: Network) -> None:
    relay = _relays(network, is_exit=True)[0]
    box = relay.box
    assert box is not None
    with (
        _changed(relay, f"accept *:80,accept {box.address}:{box.port},reject *:*"),
        Control.connect(Path(relay.control), Path(relay.cookie)) as control,
    ):
        _until(lambda: control.get_info("exit-policy/ipv4"), lambda policy: policy.startswith("accept *:80"))
        answer = _check(network, relay)
    assert f"FAIL  the relay's exit policy must begin with accept {box.address}:{box.port}, it is accept *:80" in answer
    assert f"ExitPolicy accept {box.address}:{box.port}" in answer


def _check(network: Network, relay: RelayStatus) -> str:
    assert relay.box is not None
    command = [sys.executable, "-m", "bento", "box", "check", "--config", relay.box.config]
    done = network.exec(command, capture_output=True, text=True, timeout=60)
    return str(done.stdout)
