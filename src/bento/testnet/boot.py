"""From nothing to a network that is ready: the order of the starts, and what each step waits for."""

import asyncio
import re
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from bento.errors import NetworkDown
from bento.testnet import cgroups, files
from bento.testnet.children import Children
from bento.testnet.consensus import nicknames
from bento.testnet.layout import BOX_PORT, DIR_PORT, Box, Layout, Relay, client_address
from bento.testnet.torrc import PREDICTS_NO_CIRCUITS, outbound_line, vote_offset
from bento.tor.process import TorProcess, client_lines, start_tor

BOOT_LIMIT_S: Final = 90
"""A first start takes 11 s on two idle cores; on busy ones a vote may be missed, twice."""
_POLL_S: Final = 0.05
_FETCH_LIMIT_S: Final = 5
_STOP_LIMIT_S: Final = 2.0
_PUBLISH_LIMIT_S: Final = 3.0
"""A relay makes its descriptor within a second or two of a change."""
_VOTE_AFTER_S: Final = 2.0
"""The authority has to reach a relay that published before it calls it running."""

Say = Callable[[str], None]


class Boot:
    """Starts a network's tors and boxes; `say` is told of each step."""

    def __init__(self, layout: Layout, children: Children, groups: tuple[Path, ...], say: Say) -> None:
        self._layout = layout
        self._children = children
        self._groups = groups
        self._say = say
        self._waiting = set(layout.relays)
        self._publish_after_s = 0.0

    async def run(self) -> None:
        """Returns when the network is ready. Raises: NetworkDown if a process ends or BOOT_LIMIT_S passes."""
        self._step = "the relays' start"
        try:
            async with asyncio.timeout(BOOT_LIMIT_S):
                await self._run()
        except TimeoutError:
            raise NetworkDown(
                f"the network was not ready after {BOOT_LIMIT_S} s, it was waiting for {self._step}",
                hint=f"is this machine busy? the logs are {self._layout.directory}/*/notice.log",
            ) from None

    async def _run(self) -> None:
        layout = self._layout
        self._say(f"starting {len(layout.relays)} relays")
        # Those with boxes first: a box starts as soon as its relay can be asked.
        for relay in sorted(layout.relays, key=lambda relay: relay.box is None):
            self._start_relay(relay)
        if files.has_consensus(layout):
            self.start_client("client", layout.data("client"), client_address(0))
            await self._wait_for_relays()
            await self._wait("a consensus that lists every relay", self._is_consensus_whole)
        else:
            await self._make_consensus()
            await self._wait_for_relays()
            self.start_client("client", layout.data("client"), client_address(0))
        await self._wait("the client's first circuit", self._has_circuit)
        self._publish_after_s = time.monotonic() + _PUBLISH_LIMIT_S
        await self._wait("the boxes' descriptors", self._is_box_list_written)
        if layout.boxes:
            await self._wait("the boxes to take connections", self._are_boxes_open)
        await asyncio.gather(*(self._let_predict(relay.nickname) for relay in layout.relays))

    async def _let_predict(self, nickname: str) -> None:
        torrc = self._layout.data(nickname) / "torrc"  # which a reload reads again
        torrc.write_text(torrc.read_text().replace(f"{PREDICTS_NO_CIRCUITS}\n", ""))
        await self._ask(nickname, f"RESETCONF {PREDICTS_NO_CIRCUITS.split()[0]}")

    async def _make_consensus(self) -> None:
        """Have the relays that were just started voted on, and give the first consensus to all."""
        client = self._layout.data("client")
        await self._wait("the relays to publish themselves", self._are_relays_published)
        await self._vote_now()
        await self._wait("a consensus that lists every relay", self._is_consensus_whole)
        await self._preseed(client)
        await self._restart_relays(client)

    async def _wait_for_relays(self) -> None:
        await self._wait("each relay to know its exit policy", self._are_relays_ready)

    def _start_relay(self, relay: Relay) -> None:
        layout = self._layout
        tor = start_tor(
            files.relay_lines(layout, relay),
            data=layout.data(relay.nickname),
            sockets=layout.sockets(relay.nickname),
            defaults=layout.defaults,
        )
        self._children.add(relay.nickname, tor.pid, tor.log)

    async def _vote_now(self) -> None:
        """Move the authority's first vote to the next moment: whatever comes after it has to wait for another 20 s."""
        offset = vote_offset(time.time() + _VOTE_AFTER_S)
        reply = await self._ask(self._layout.authority.nickname, f"SETCONF TestingV3AuthVotingStartOffset={offset}")
        if reply.count("250 OK") != 2:
            raise NetworkDown("the authority takes no other hour for its vote", hint=reply)

    async def _restart_relays(self, client: Path) -> None:
        """Give the relays the first consensus: they asked for it before there was one, and would wait 20 s."""
        relays = [relay for relay in self._layout.relays if relay is not self._layout.authority]
        await self._children.stop([relay.nickname for relay in relays], _STOP_LIMIT_S)
        for relay in relays:
            files.copy_consensus(client, self._layout.data(relay.nickname))
            self._start_relay(relay)

    def start_client(self, name: str, data: Path, address: str) -> TorProcess:
        """Start a tor for clients that dials from `address`."""
        sockets = self._layout.sockets(name)
        lines = [*client_lines(sockets / "socks"), outbound_line(address)]
        tor = start_tor(lines, data=data, sockets=sockets, defaults=self._layout.defaults)
        self._children.add(name, tor.pid, tor.log)
        return tor

    def start_box(self, box: Box) -> None:
        """Start a box's processes; its output goes to DIR/boxN/box.log."""
        files.make_box_state(self._layout, box)
        log = self._layout.directory / box.name / "box.log"
        command = [sys.executable, "-m", "bento", "box", "run", "--config", str(files.box_config(self._layout, box))]
        with log.open("wb") as output:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        # Python takes far longer to start than this, so the box finds itself in its own groups.
        cgroups.join(self._groups, box.name, process.pid)
        self._children.add(box.name, process.pid, log)

    async def _wait(self, what: str, is_done: Callable[[], Awaitable[bool]]) -> None:
        self._step = what
        self._say(f"waiting for {what}")
        while True:
            self._children.verify_alive()
            try:
                if await is_done():
                    return
            except (OSError, TimeoutError, asyncio.IncompleteReadError):
                pass
            await asyncio.sleep(_POLL_S)

    async def _are_relays_published(self) -> bool:
        published = set(re.findall(r"^router (\S+) ", await self._fetch("/tor/server/all"), re.MULTILINE))
        return published >= {relay.nickname for relay in self._layout.relays}

    async def _is_consensus_whole(self) -> bool:
        listed = nicknames(await self._fetch("/tor/status-vote/current/consensus-microdesc"))
        return listed >= {relay.nickname for relay in self._layout.relays}

    async def _are_relays_ready(self) -> bool:
        """Start the box of each relay that is ready. One that has not yet made its descriptor exits nowhere."""
        for relay in self._waiting.copy():
            reply = await self._ask(relay.nickname, "GETINFO exit-policy/full")
            if re.search(r"^250[+-]exit-policy/full=", reply, re.MULTILINE):
                self._waiting.remove(relay)
                if relay.box:
                    self.start_box(relay.box)
        return not self._waiting

    async def _are_boxes_open(self) -> bool:
        return all([await _is_open(box.address, BOX_PORT) for box in self._layout.boxes])

    async def _has_circuit(self) -> bool:
        return "circuit-established=1" in await self._ask("client", "GETINFO status/circuit-established")

    async def _ask(self, nickname: str, question: str) -> str:
        """One exchange with a tor's control socket."""
        cookie = (self._layout.data(nickname) / "control_auth_cookie").read_bytes()
        async with asyncio.timeout(_FETCH_LIMIT_S):
            reader, writer = await asyncio.open_unix_connection(self._layout.sockets(nickname) / "control")
            writer.write(f"AUTHENTICATE {cookie.hex()}\r\n{question}\r\nQUIT\r\n".encode())
            reply = await reader.read()
            writer.close()
        return reply.decode("latin-1")

    async def _is_box_list_written(self) -> bool:
        """Write the box list once the authority has each box's descriptor as of this start."""
        found = []
        for box in self._layout.boxes:
            fingerprint = files.relay_fingerprint(self._layout, box.relay)
            try:
                descriptor = await self._fetch(f"/tor/server/fp/{fingerprint}")
            except FileNotFoundError:
                descriptor = ""
            if f"\ncontact {files.box_item(self._layout, box).encode()}\n" not in descriptor:
                await self._publish_again(box)
                return False
            found.append(descriptor)
        fresh = self._layout.box_list.with_suffix(".new")
        fresh.write_text("".join(found))
        fresh.rename(self._layout.box_list)
        return True

    async def _publish_again(self, box: Box) -> None:
        """Have a relay publish what got lost on an authority that was still starting: tor itself would wait for hours.
        A setting that the descriptor depends on is what makes it try."""
        if time.monotonic() < self._publish_after_s:
            return
        self._publish_after_s = time.monotonic() + _PUBLISH_LIMIT_S
        item = files.box_item(self._layout, box).encode()
        for value in ("", item):
            await self._ask(box.relay, f'SETCONF ContactInfo="{value}"')

    async def _preseed(self, data: Path) -> None:
        """Give a client the consensus beforehand: it would meet relays that have none yet, and wait to try again."""
        consensus = await self._fetch("/tor/status-vote/current/consensus-microdesc")
        digests = "-".join(re.findall(r"^m (\S+)", consensus, re.MULTILINE))
        microdescriptors = re.split(r"^(?=onion-key)", await self._fetch(f"/tor/micro/d/{digests}"), flags=re.MULTILINE)
        listed = f"@last-listed {time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime())}\n"
        certificates = await self._fetch("/tor/keys/all")
        files.write_consensus(
            data, consensus, certificates, "".join(listed + text for text in microdescriptors if text)
        )

    async def _fetch(self, path: str) -> str:
        """A document from the authority; OSError unless it is there."""
        async with asyncio.timeout(_FETCH_LIMIT_S):
            reader, writer = await asyncio.open_connection(self._layout.authority.address, DIR_PORT)
            writer.write(f"GET {path} HTTP/1.0\r\n\r\n".encode())
            reply = await reader.read()
            writer.close()
        head, _, body = reply.partition(b"\r\n\r\n")
        if b" 200 " not in head.split(b"\r\n")[0]:
            raise FileNotFoundError(path)
        return body.decode("latin-1")


async def _is_open(address: str, port: int) -> bool:
    _, writer = await asyncio.open_connection(address, port)
    writer.close()
    return True
