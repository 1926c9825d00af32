"""The circuits and streams of one tor that nobody else controls.

    circuits = Circuits(control, SystemRandom())
    await circuits.take_over()
    async with asyncio.TaskGroup() as group:
        group.create_task(circuits.run())
        circuit = await circuits.build(fingerprint_of_the_box)
        circuits.route("some-user-name", circuit)

A stream goes where its SOCKS user name is routed, as soon as tor reports it; what fails is closed, since tor would
leave it hanging for its controller.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any, Final, TypeVar

from bento.errors import BoxUnreachable, TorUnavailable
from bento.tor.consensus import Consensus, Families, Relay, is_kin, parse_consensus, parse_families
from bento.tor.control import CommandRejected, Control, Event
from bento.tor.paths import draw, order_guards, parse_first_hops, parse_guards, weigh_middles

T = TypeVar("T")

ANSWER_LIMIT_S: Final = 10
"""Tor answers its control port within milliseconds; the largest answer, a consensus, takes less than a second."""

BUILD_LIMIT_S: Final = 60
"""Where tor's own limit for a circuit starts, before it has learned how long they take here."""

BUILD_PAUSES_S: Final = (0.0, 0.3, 1.0)
"""Before each try, with another middle. On the live network about one circuit in twenty fails; and a guard or a box's
relay that just now takes none may do so a moment later."""

_DRAWS: Final = 50
"""Middles looked at before giving up: even a family of half the network is never drawn so often in a row."""

_MISC: Final = 1
_END_REASONS: Final = {"RESOLVEFAILED": 2, "CONNECTREFUSED": 3, "EXITPOLICY": 4, "DESTROY": 5, "TIMEOUT": 7}
_REMOTE_REASONS: Final = _END_REASONS | {"MISC": 3}
"""An exit says MISC where its connect fails at once, as on its own host it does when nothing listens."""
_TORS_CHOICE: Final = "0"


def allow_exit_to_self(control: Control) -> bool:
    """Have a client's tor accept that a circuit ends at a loopback address of its relay; False if tor refuses.

    By default tor drops an exit's answer that names such an address, and with the public network's own authorities it
    refuses another setting: onion services are left then.
    """
    try:
        control.set_conf({"ClientDNSRejectInternalAddresses": "0"})
    except CommandRejected:
        return False
    return True


@dataclass(frozen=True)
class Circuit:
    """A circuit that was built: tor's id and its relays, the box's last."""

    id: str
    path: tuple[Relay, ...]


class Circuits:
    """Every method belongs to the event loop that runs `run`."""

    def __init__(self, control: Control, random: Random) -> None:
        self._control = control
        self._random = random
        self._events: asyncio.Queue[Event | None] = asyncio.Queue()
        self._changed = asyncio.Condition()
        self._states: dict[str, str] = {}
        """Of our own circuits: LAUNCHED, EXTENDED, BUILT, or why it is gone."""
        self._routes: dict[str, str] = {}
        self._consensus: tuple[str, Consensus] | None = None

    async def take_over(self) -> None:
        """Have tor report its circuits and streams, and leave each new stream to us."""
        loop = asyncio.get_running_loop()

        def take(event: Event | None) -> None:
            loop.call_soon_threadsafe(self._events.put_nowait, event)

        await self._ask(self._control.listen, ["CIRC", "STREAM"], take)
        await self._ask(self._control.set_conf, {"__LeaveStreamsUnattached": "1"})

    async def run(self) -> None:
        """Follow tor's events; raises TorUnavailable when its connection closes."""
        while event := await self._events.get():
            if event.kind == "CIRC":
                await self._follow_circuit(event)
            elif event.kind == "STREAM":
                await self._follow_stream(event)
        raise TorUnavailable("tor has ended", hint="try again")

    def is_open(self, circuit: Circuit) -> bool:
        return self._states.get(circuit.id) == "BUILT"

    def route(self, username: str, circuit: Circuit | None) -> None:
        """From now on streams of this SOCKS user name go to this circuit; None leaves it to tor, for onion services."""
        self._routes[username] = circuit.id if circuit else _TORS_CHOICE

    def unroute(self, username: str) -> None:
        self._routes.pop(username, None)

    async def build(self, box: str) -> Circuit:
        """Build a circuit that ends at the relay of this fingerprint.

        Raises: BoxUnreachable if it can't be built, TorUnavailable if tor is gone.
        """
        failure = ""
        for pause_s in BUILD_PAUSES_S:
            await asyncio.sleep(pause_s)
            path = await self._choose_path(box)
            circuit = Circuit(await self._launch(path), path)
            try:
                failure = await self._wait_until_built(circuit.id)
                if not failure:
                    return circuit
            except BaseException:
                await self.close(circuit.id)
                raise
            await self.close(circuit.id)
        raise BoxUnreachable(f"no circuit to the box's relay in {len(BUILD_PAUSES_S)} tries: {failure}")

    async def close(self, circuit: str) -> None:
        """Close a circuit; one that is gone already is no error."""
        if self._states.pop(circuit, None) is not None:
            await self._ask_loosely(self._control.close_circuit, circuit)

    async def _launch(self, path: tuple[Relay, ...] = ()) -> str:
        """Begin a circuit. What tor reports of it waits until its id is known here."""
        async with self._changed:
            try:
                circuit = await self._ask(self._control.extend_circuit, [relay.fingerprint for relay in path])
            except CommandRejected as error:
                raise BoxUnreachable(f"no circuit to the box's relay: {error.message}") from None
            self._states[circuit] = "LAUNCHED"
        return circuit

    async def _wait_until_built(self, circuit: str) -> str:
        """Wait for a circuit; "" once it is built, else why it is not."""
        try:
            async with asyncio.timeout(BUILD_LIMIT_S), self._changed:
                await self._changed.wait_for(lambda: self._states[circuit] not in ("LAUNCHED", "EXTENDED"))
        except TimeoutError:
            return f"not built within {BUILD_LIMIT_S} s"
        state = self._states[circuit]
        return "" if state == "BUILT" else state

    async def _choose_path(self, box: str) -> tuple[Relay, Relay, Relay]:
        consensus = await self._current_consensus()
        last = consensus.relays.get(box)
        if last is None:
            raise BoxUnreachable("the box's relay is not in the network's consensus: it is down, or very new")
        guard = await self._choose_guard(consensus, last)
        middles = weigh_middles(consensus, guard, last)
        for _ in range(min(_DRAWS, len(middles))):
            middle = consensus.relays[draw(middles, self._random)]
            if not (await self._are_kin(middle, guard) or await self._are_kin(middle, last)):
                return guard, middle, last
            del middles[middle.fingerprint]
        raise BoxUnreachable("no relay may stand between the guard and the box: all are kin of one of them")

    async def _choose_guard(self, consensus: Consensus, box: Relay) -> Relay:
        used = await self._first_hops() or await self._learn_first_hop()
        guards = parse_guards(await self._ask(self._control.get_info, "entry-guards"))
        for fingerprint in order_guards(guards, used):
            relay = consensus.relays.get(fingerprint)
            if relay is not None and not await self._are_kin(relay, box):
                return relay
        raise BoxUnreachable("tor has no guard that may stand on a circuit with the box", hint="pick another box")

    async def _first_hops(self, probe: str = "") -> frozenset[str]:
        """The first relays of circuits that tor chose itself, `probe` among them."""
        status = await self._ask(self._control.get_info, "circuit-status")
        return parse_first_hops(status, self._states.keys() - {probe})

    async def _learn_first_hop(self) -> frozenset[str]:
        """Have tor build a circuit of its own choice, for its first relay."""
        probe = await self._launch()
        try:
            failure = await self._wait_until_built(probe)
            if failure:
                raise TorUnavailable(f"tor builds no circuits: {failure}", hint="is there a network? try again")
            return await self._first_hops(probe)
        finally:
            await self.close(probe)

    async def _are_kin(self, one: Relay, other: Relay) -> bool:
        return is_kin(one, await self._families(one), other, await self._families(other))

    async def _families(self, relay: Relay) -> Families:
        try:
            return parse_families(await self._ask(self._control.get_info, f"md/id/{relay.fingerprint}"))
        except CommandRejected:
            return Families()  # tor has not fetched it yet, and would refuse the circuit

    async def _current_consensus(self) -> Consensus:
        valid_after = await self._ask(self._control.get_info, "consensus/valid-after")
        if self._consensus is None or self._consensus[0] != valid_after:
            text = await self._ask(self._control.get_info, "dir/status-vote/current/consensus-microdesc")
            self._consensus = valid_after, await asyncio.to_thread(parse_consensus, text)
        return self._consensus[1]

    async def _follow_circuit(self, event: Event) -> None:
        circuit, state = event.words[:2]
        async with self._changed:
            if circuit not in self._states:
                return
            if state in ("FAILED", "CLOSED"):
                reason = event.keywords.get("REMOTE_REASON") or event.keywords.get("REASON", "unknown")
                state = f"it was closed ({reason})"
            if state.startswith("it") or state in ("EXTENDED", "BUILT"):
                self._states[circuit] = state
            self._changed.notify_all()

    async def _follow_stream(self, event: Event) -> None:
        stream, state = event.words[:2]
        circuit = self._routes.get(event.keywords.get("SOCKS_USERNAME", ""))
        if state == "NEW" and circuit is not None:
            try:
                await self._ask(self._control.attach_stream, stream, circuit)
            except CommandRejected:
                await self._close_stream(stream, _END_REASONS["DESTROY"])
        elif state == "NEW" and event.keywords.get("PURPOSE") == "USER":
            await self._close_stream(stream, _MISC)  # a user name that is no longer routed
        elif state == "DETACHED":
            reason, remote = event.keywords.get("REASON", ""), event.keywords.get("REMOTE_REASON", "")
            number = _REMOTE_REASONS.get(remote) if reason == "END" else _END_REASONS.get(reason)
            await self._close_stream(stream, number or _MISC)

    async def _close_stream(self, stream: str, reason: int) -> None:
        await self._ask_loosely(self._control.close_stream, stream, reason)

    async def _ask(self, question: Callable[..., T], *args: Any) -> T:
        """Ask tor in a thread, for so long."""
        try:
            async with asyncio.timeout(ANSWER_LIMIT_S):
                return await asyncio.to_thread(question, *args)
        except TimeoutError:
            raise TorUnavailable(f"tor did not answer within {ANSWER_LIMIT_S} s", hint="try again") from None

    async def _ask_loosely(self, order: Callable[..., None], *args: Any) -> None:
        """Give an order about what may be gone by now."""
        try:
            await self._ask(order, *args)
        except CommandRejected:
            return
