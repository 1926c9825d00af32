"""What a network says of itself, as `bento net status --json` prints it."""

from pathlib import Path

import msgspec


class BoxStatus(msgspec.Struct, frozen=True):
    """A box; `onion` without `.onion`; `pid` is its server's on the host, None if it does not run."""

    name: str
    address: str
    port: int
    onion: str
    config: str
    pid: int | None


class RelayStatus(msgspec.Struct, frozen=True):
    """A relay; `control` is its control socket, `cookie` opens that."""

    nickname: str
    fingerprint: str
    address: str
    control: str
    cookie: str
    pid: int | None
    box: BoxStatus | None


class ClientStatus(msgspec.Struct, frozen=True):
    """A tor for other programs: `socks` and `control` are unix sockets, `cookie` opens the latter."""

    socks: str
    control: str
    cookie: str
    pid: int | None


class Status(msgspec.Struct, frozen=True):
    """`ready`: it started whole and has lost nothing since; `lost` names processes that ended unasked."""

    ready: bool
    dir: str
    relays: tuple[RelayStatus, ...] = ()
    client: ClientStatus | None = None
    supervisor_pid: int | None = None
    latency_ms: int = 0
    ca: str = ""
    box_list: str = ""
    sites: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()


class AgentTor(msgspec.Struct, frozen=True):
    """A user's own tor inside the network; it runs as long as the connection that asked for it stays open."""

    control: str
    socks: str
    data: str
    cookie: str


def with_host_pids(status: Status, supervisor_pid: int) -> Status:
    """The same with the host's pids in place of the network's own."""
    pids = _host_pids(supervisor_pid)
    change = msgspec.structs.replace

    def shown(pid: int | None) -> int | None:
        return pids.get(pid) if pid else None

    relays = tuple(
        change(relay, pid=shown(relay.pid), box=change(relay.box, pid=shown(relay.box.pid)) if relay.box else None)
        for relay in status.relays
    )
    client = change(status.client, pid=shown(status.client.pid)) if status.client else None
    return change(status, relays=relays, client=client, supervisor_pid=supervisor_pid)


def _host_pids(supervisor_pid: int) -> dict[int, int]:
    """Pid inside the supervisor's pid namespace -> pid here, of the processes that can be seen from here."""
    namespace = Path(f"/proc/{supervisor_pid}/ns/pid")
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if (process / "ns/pid").readlink() == namespace.readlink():
                text = (process / "status").read_text()
                inner = next(line for line in text.splitlines() if line.startswith("NSpid:")).split()[-1]
                found[int(inner)] = int(process.name)
        except OSError:
            continue
    return found
