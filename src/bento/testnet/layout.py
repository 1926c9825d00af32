"""What stands where in a private network: pure, the same for the same options.

    authority   the one directory authority
    r0 .. r4    relays; the first three are exits to everywhere
    r5 ..       a relay for each box
    client      a tor for other programs

Each relay has a public-looking address in a /16 of its own, as tor wants of the hops of one circuit.

>>> layout = plan(Path("/d"), Path("/tmp/bento-x"), (BoxPlan(),), latency_ms=0)
>>> [relay.nickname for relay in layout.relays]
['authority', 'r0', 'r1', 'r2', 'r3', 'r4', 'r5']
>>> layout.boxes[0].address, layout.relays[-1].address
('127.84.1.2', '45.70.33.10')
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import msgspec

from bento.errors import UsageError

OR_PORT: Final = 9001
DIR_PORT: Final = 9030
BOX_PORT: Final = 7000
ORDINARY_RELAYS: Final = 5
"""A circuit needs three relays that are apart, an onion service's with vanguards five; more would slow each start."""
_EXITS: Final = 3
MAX_BOXES: Final = 16
"""Each box is two tor processes of up to 60 MB; beyond this a machine of two cores no longer starts them in time."""
MAX_LATENCY_MS: Final = 2000
"""One way, for each link: above this tor itself gives up building circuits (the default limit is 60 s)."""

DNS_ADDRESS: Final = "46.64.53.53"
WEB_ADDRESSES: Final = tuple(f"46.{80 + number}.80.80" for number in range(16))
"""Names are spread over these, as on the live web: an exit that sees one answer for all of `.test`, where it tries
random names, takes it for a hijacker's and refuses it (ServerDNSDetectHijacking)."""

_BOX_UID: Final = 64_100
_INSTANCE_UIDS: Final = 2_000_000_000
"""Far above any user of the host; the kernel's last uid is 4,294,967,294."""


class BoxPlan(msgspec.Struct, frozen=True):
    """One box and its relay.

    `is_exit`: the relay is a web exit as well. `is_open`: the relay accepts circuits to the box; otherwise the box
    can be reached by its onion service alone.
    """

    is_exit: bool = True
    is_open: bool = True


class Options(msgspec.Struct, frozen=True):
    """What a network is started with; `is_detached`: it outlives the one who starts it."""

    directory: str
    boxes: tuple[BoxPlan, ...] = ()
    latency_ms: int = 0
    is_detached: bool = False


@dataclass(frozen=True)
class Box:
    """A box beside the relay `relay`; `uid_base` and `uid` matter to root only."""

    number: int
    relay: str
    address: str
    plan: BoxPlan
    uid: int
    uid_base: int

    @property
    def name(self) -> str:
        return f"box{self.number}"


@dataclass(frozen=True)
class Relay:
    """`address` is where others find it; `listen` where its tor listens, another one behind a delaying forwarder."""

    nickname: str
    address: str
    listen: str
    exit_policy: tuple[str, ...]
    box: Box | None = None


@dataclass(frozen=True)
class Layout:
    directory: Path
    run: Path
    relays: tuple[Relay, ...]
    latency_ms: int

    @property
    def authority(self) -> Relay:
        return self.relays[0]

    @property
    def boxes(self) -> tuple[Box, ...]:
        return tuple(relay.box for relay in self.relays if relay.box)

    @property
    def defaults(self) -> Path:
        """A torrc for `--defaults-torrc`: what makes any tor a member of this network."""
        return self.directory / "defaults.torrc"

    @property
    def ca(self) -> Path:
        return self.directory / "ca.pem"

    @property
    def sites(self) -> Path:
        """A symbolic link for each name that is served."""
        return self.directory / "sites"

    @property
    def box_list(self) -> Path:
        return self.directory / "boxes.list"

    @property
    def socket(self) -> Path:
        """Where the supervisor takes requests."""
        return self.run / "supervisor"

    def data(self, nickname: str) -> Path:
        """The DataDirectory of a relay or of the client; its torrc and log are there too."""
        return self.directory / nickname

    def sockets(self, nickname: str) -> Path:
        """The private directory of a tor's `control` and `socks`."""
        return self.run / nickname

    def state(self, box: Box) -> Path:
        return self.directory / box.name / "state"


def plan(directory: Path, run: Path, boxes: Sequence[BoxPlan], latency_ms: int) -> Layout:
    """Lay out a network with its files in `directory` and its sockets in `run`."""
    policies: list[tuple[str, ...]] = [("reject *:*",)]
    policies += [("accept *:*",) if number < _EXITS else ("reject *:*",) for number in range(ORDINARY_RELAYS)]
    relays = [_relay(number, policy, latency_ms) for number, policy in enumerate(policies)]
    for number, box_plan in enumerate(boxes):
        policy = ("accept *:80", "accept *:443", "reject *:*") if box_plan.is_exit else ("reject *:*",)
        relays.append(_relay(len(relays), policy, latency_ms, _box(directory, number, box_plan)))
    return Layout(directory, run, tuple(relays), latency_ms)


def boxes_for(count: int) -> tuple[BoxPlan, ...]:
    """The usual boxes: every third relay is no exit, as on the live network most are not.

    Raises: UsageError outside 0 to MAX_BOXES.
    """
    if not 0 <= count <= MAX_BOXES:
        raise UsageError(f"a network of {count} boxes was asked for, the limit is 0 to {MAX_BOXES}")
    return tuple(BoxPlan(is_exit=number % 3 != 2) for number in range(count))


def client_address(number: int) -> str:
    """Where a client's tor dials from: 0 is the network's own, then the boxes' onion proxies, then agents' tors."""
    return f"47.{64 + number // 250}.0.{1 + number % 250}"


def web_address(name: str) -> str:
    """The address of the web server that `name` resolves to."""
    return WEB_ADDRESSES[zlib.crc32(name.lower().encode()) % len(WEB_ADDRESSES)]


def _relay(number: int, policy: tuple[str, ...], latency_ms: int, box: Box | None = None) -> Relay:
    address = f"45.{64 + number}.33.10"
    listen = f"127.64.{number}.1" if latency_ms else address
    return Relay(f"r{number - 1}" if number else "authority", address, listen, policy, box)


def _box(directory: Path, number: int, box_plan: BoxPlan) -> Box:
    # Networks side by side share the host's uids, and so its per-user limits, unless theirs differ.
    network = zlib.crc32(str(directory).encode()) % 1000
    uid_base = _INSTANCE_UIDS + network * 2**20 + number * 2**16
    address = f"127.84.{1 + number}.2"
    return Box(number, f"r{ORDINARY_RELAYS + number}", address, box_plan, _BOX_UID + number, uid_base)
