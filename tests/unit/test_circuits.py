"""Circuits and streams of a tor that is played by a script."""

import asyncio
import base64
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import Any, cast

import pytest

from bento.client.tasks import task_group
from bento.errors import BoxUnreachable, TorUnavailable
from bento.tor.circuits import BUILD_PAUSES_S, Circuits
from bento.tor.control import CommandRejected, Control, Event, parse_event

GUARD, MIDDLE, KIN, BOX, SECOND = (letter * 40 for letter in "ABCDE")
NETWORKS = {GUARD: 1, MIDDLE: 2, KIN: 3, BOX: 4, SECOND: 5}


class Script:
    """As much of a Control as `Circuits` uses; every circuit ends as `outcome` says."""

    def __init__(self, outcome: str = "BUILT") -> None:
        self.outcome = outcome
        self.first_hops = [GUARD]
        self.guards = f"${GUARD}~g up\n${SECOND}~s up"
        self.families = {KIN: f"family ${BOX}", BOX: f"family ${KIN}"}
        self.paths: list[list[str]] = []
        self.orders: list[tuple[Any, ...]] = []
        self.refuses_attach = False
        self.tell: Callable[[Event | None], None] = lambda event: None

    def listen(self, kinds: Sequence[str], callback: Callable[[Event | None], None]) -> None:
        self.tell = callback

    def set_conf(self, options: dict[str, str]) -> None:
        self.orders.append(("set", options))

    def get_info(self, key: str) -> str:
        if key == "consensus/valid-after":
            return "2026-11-22 10:00:00"
        if key == "dir/status-vote/current/consensus-microdesc":
            return "\n".join(["network-status-version 3 microdesc", *map(_entry, NETWORKS), "directory-footer", ""])
        if key == "entry-guards":
            return self.guards
        if key == "circuit-status":
            return "\n".join(f"9{at} BUILT ${hop}~g,${BOX}~b PURPOSE=GENERAL" for at, hop in enumerate(self.first_hops))
        return self.families.get(key.removeprefix("md/id/"), "")

    def extend_circuit(self, path: Sequence[str] = ()) -> str:
        self.paths.append(list(path))
        number = str(len(self.paths))
        self.tell(parse_event(f"CIRC {number} LAUNCHED"))
        self.tell(parse_event(f"CIRC {number} {self.outcome} REASON=TIMEOUT"))
        return number

    def attach_stream(self, stream: str, circuit: str) -> None:
        self.orders.append(("attach", stream, circuit))
        if self.refuses_attach:
            raise CommandRejected("ATTACHSTREAM", 552, "Unknown circuit")

    def close_stream(self, stream: str, reason: int) -> None:
        self.orders.append(("close stream", stream, reason))

    def close_circuit(self, circuit: str) -> None:
        self.orders.append(("close circuit", circuit))


def _entry(fingerprint: str) -> str:
    identity = base64.b64encode(bytes.fromhex(fingerprint)).decode().rstrip("=")
    address = f"10.{NETWORKS[fingerprint]}.0.1"
    return f"r n{fingerprint[0]} {identity} 2038-01-01 00:00:00 {address} 9001 0\ns Fast Running Valid\nw Bandwidth=1"


def play(script: Script, work: Callable[[Circuits], Awaitable[Any]]) -> Any:
    async def run() -> Any:
        circuits = Circuits(cast(Control, script), Random(1))
        await circuits.take_over()
        async with asyncio.timeout(10), task_group() as group:
            following = group.create_task(circuits.run())
            result = await work(circuits)
            await asyncio.sleep(0.1)
            following.cancel()
        return result

    return asyncio.run(run())


def test_a_path_is_tors_guard_a_middle_that_is_nobodys_kin_and_the_box() -> None:
    for _ in range(10):
        circuit = play(script := Script(), lambda circuits: circuits.build(BOX))
        assert script.paths == [[relay.fingerprint for relay in circuit.path]]
        assert script.paths[0][0] == GUARD
        assert script.paths[0][1] in (MIDDLE, SECOND)
        assert script.paths[0][2] == BOX


def test_where_the_box_is_the_guard_tors_next_guard_is_taken() -> None:
    play(script := Script(), lambda circuits: circuits.build(GUARD))
    assert script.paths[0][0] == SECOND


def test_where_the_box_is_kin_of_the_guard_tors_next_guard_is_taken() -> None:
    script = Script()
    script.families |= {GUARD: f"family ${BOX}", BOX: f"family ${GUARD}"}
    play(script, lambda circuits: circuits.build(BOX))
    assert script.paths[0][0] == SECOND


def test_without_a_circuit_of_tors_own_one_is_made_to_learn_the_guard() -> None:
    script = Script()
    script.first_hops = []
    play(script, lambda circuits: circuits.build(BOX))
    assert script.paths[0] == []
    assert script.paths[1][0] == GUARD
    assert ("close circuit", "1") in script.orders


def test_a_circuit_that_fails_is_tried_again_and_then_a_clear_error() -> None:
    script = Script("FAILED")
    with pytest.raises(BoxUnreachable, match=f"{len(BUILD_PAUSES_S)} tries.*TIMEOUT"):
        play(script, lambda circuits: circuits.build(BOX))
    assert len(script.paths) == len(BUILD_PAUSES_S)


def test_where_no_middle_is_left_the_error_says_so() -> None:
    script = Script()
    script.families = {BOX: "family-ids x", MIDDLE: "family-ids x", SECOND: "family-ids x", KIN: "family-ids x"}
    with pytest.raises(BoxUnreachable, match="kin"):
        play(script, lambda circuits: circuits.build(BOX))


def test_a_relay_without_a_consensus_entry_can_t_be_reached() -> None:
    with pytest.raises(BoxUnreachable, match="consensus"):
        play(Script(), lambda circuits: circuits.build("F" * 40))


def test_streams_go_where_their_user_name_is_routed_and_nowhere_else() -> None:
    script = Script()

    async def work(circuits: Circuits) -> None:
        circuits.route("mine", await circuits.build(BOX))
        circuits.route("hidden", None)
        for number, name in enumerate(("mine", "hidden", "other"), 5):
            script.tell(parse_event(f'STREAM {number} NEW 0 x:1 PURPOSE=USER SOCKS_USERNAME="{name}"'))
        script.tell(parse_event("STREAM 8 NEW 0 x:1 PURPOSE=DIR_FETCH"))
        circuits.unroute("gone")

    play(script, work)
    streams = [order for order in script.orders if "stream" in order[0] or order[0] == "attach"]
    assert streams == [("attach", "5", "1"), ("attach", "6", "0"), ("close stream", "7", 1)]


@pytest.mark.parametrize(
    ("keywords", "reason"),
    [
        ("REASON=END REMOTE_REASON=EXITPOLICY", 4),
        ("REASON=END REMOTE_REASON=CONNECTREFUSED", 3),
        ("REASON=END REMOTE_REASON=MISC", 3),
        ("REASON=TIMEOUT", 7),
        ("REASON=MISC", 1),
        ("REASON=DESTROY", 5),
        ("", 1),
    ],
)
def test_a_stream_that_tor_detaches_is_closed_with_its_reason(keywords: str, reason: int) -> None:
    script = Script()

    async def work(circuits: Circuits) -> None:
        script.tell(parse_event(f"STREAM 5 DETACHED 1 x:1 {keywords}"))

    play(script, work)
    assert script.orders[-1] == ("close stream", "5", reason)


def test_a_stream_whose_circuit_is_gone_is_closed() -> None:
    script = Script()
    script.refuses_attach = True

    async def work(circuits: Circuits) -> None:
        circuits.route("mine", await circuits.build(BOX))
        script.tell(parse_event("STREAM 5 NEW 0 x:1 PURPOSE=USER SOCKS_USERNAME=mine"))

    play(script, work)
    assert script.orders[-1] == ("close stream", "5", 5)


def test_a_circuit_that_tor_closes_is_no_longer_open() -> None:
    script = Script()

    async def work(circuits: Circuits) -> tuple[bool, bool]:
        circuit = await circuits.build(BOX)
        before = circuits.is_open(circuit)
        script.tell(parse_event("CIRC 1 CLOSED REASON=FINISHED"))
        await asyncio.sleep(0.1)
        return before, circuits.is_open(circuit)

    assert play(script, work) == (True, False)


def test_when_tor_goes_everyone_is_told() -> None:
    script = Script()

    async def work(circuits: Circuits) -> None:
        script.tell(None)
        await asyncio.Event().wait()

    with pytest.raises(TorUnavailable):
        play(script, work)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", Event("", (), {})),
        ("CIRC 1 BUILT $A~a,$B~b PURPOSE=GENERAL", Event("CIRC", ("1", "BUILT", "$A~a,$B~b"), {"PURPOSE": "GENERAL"})),
        (r'X A="a \"b\" c" B="" c', Event("X", ("c",), {"A": 'a "b" c', "B": ""})),
        ("NEWCONSENSUS\nr x y\ns z", Event("NEWCONSENSUS", (), {})),
    ],
)
def test_events_are_split_into_words_and_keywords(text: str, expected: Event) -> None:
    assert parse_event(text) == expected
