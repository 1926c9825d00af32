"""What must stand in a network's directory before its processes start; most of it stays from start to start."""

import json
import os
import shutil
import time
from pathlib import Path
from typing import Final

from bento.testnet import consensus, keys, namespace, web
from bento.testnet.keys import AuthorityKeys
from bento.testnet.layout import BOX_PORT, DIR_PORT, DNS_ADDRESS, Box, Layout, Relay, client_address
from bento.testnet.torrc import authority_torrc, defaults_lines, outbound_line, relay_torrc
from bento.tor.box_item import BoxItem
from bento.tor.torrc import DEAD_RESOLVER

CONSENSUS_FILES: Final = (
    "cached-microdesc-consensus",
    "cached-certs",
    "cached-microdescs",
    "cached-microdescs.new",
)
"""What a tor that starts with them needs not to fetch: it is ready in a second."""


def resolv_conf(layout: Layout) -> Path:
    return layout.directory / "resolv.conf"


def dead_resolver(layout: Layout) -> Path:
    return layout.directory / "dead-resolv.conf"


def write_resolvers(layout: Layout) -> None:
    """Write the resolver files, the live and the dead one."""
    resolv_conf(layout).write_text(f"nameserver {DNS_ADDRESS}\n")
    dead_resolver(layout).write_text(DEAD_RESOLVER)


def write_files(layout: Layout) -> AuthorityKeys:
    """Make keys and directories, and write what depends on this start."""
    layout.sites.mkdir(exist_ok=True)
    if not (layout.sites / web.DEMO_NAME).is_symlink():
        web.add_site(layout.sites, web.DEMO_NAME, web.DEMO_FOLDER)
    authority = layout.authority
    identity = keys.authority_keys(
        layout.data(authority.nickname), f"{authority.address}:{DIR_PORT}", now_s=time.time()
    )
    layout.defaults.write_text("\n".join([*defaults_lines(authority, identity), ""]))
    for box in layout.boxes:
        _write_box(layout, box)
    _renew_consensus(layout, identity)
    return identity


def relay_lines(layout: Layout, relay: Relay) -> list[str]:
    """The torrc of a relay of this layout; `write_files` comes first."""
    if relay is layout.authority:
        return authority_torrc(layout, now_s=time.time())
    item = box_item(layout, relay.box).encode() if relay.box else ""
    return relay_torrc(layout, relay, contact=item, dead_resolver=dead_resolver(layout))


def box_item(layout: Layout, box: Box) -> BoxItem:
    """What the relay of a box says in its ContactInfo."""
    onion = keys.onion_service(_onion_keys(layout, box))
    return BoxItem(box.address, BOX_PORT, onion, ("python",), None, "exit" if box.plan.is_exit else "storage")


def box_config(layout: Layout, box: Box) -> Path:
    return layout.directory / box.name / "box.toml"


def has_consensus(layout: Layout) -> bool:
    """Whether the tors know a consensus from the start."""
    return (layout.data("client") / CONSENSUS_FILES[0]).exists()


def write_consensus(data: Path, listing: str, certificates: str, microdescriptors: str) -> None:
    """Give a client that was never started what it would fetch."""
    data.mkdir(mode=0o700, exist_ok=True)
    (data / "cached-certs").write_text(certificates)
    (data / "cached-microdescs.new").write_text(microdescriptors)
    (data / "cached-microdesc-consensus").write_text(listing)


def copy_consensus(source: Path, data: Path) -> None:
    """Give a tor that starts the consensus that another one has."""
    data.mkdir(mode=0o700, parents=True, exist_ok=True)
    for name in CONSENSUS_FILES:
        if (source / name).exists():
            shutil.copyfile(source / name, data / name)


def make_box_state(layout: Layout, box: Box) -> None:
    """Make the state of a box that starts anew: its onion service's keys, the consensus, nothing of what it left.

    The box's user may have put links there, so it owns nothing while root writes, and is given the outermost last.
    """
    state = layout.state(box)
    _own(state)
    for left in state.iterdir():
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left)
        else:
            left.unlink()
    onion = state / "onion"
    copy_consensus(layout.data("client"), onion)
    shutil.copytree(_onion_keys(layout, box), onion / "service")
    if namespace.is_root():
        for path in (*onion.rglob("*"), onion, state):
            os.chown(path, box.uid, box.uid, follow_symlinks=False)


def relay_fingerprint(layout: Layout, nickname: str) -> str:
    """The fingerprint of a relay that has started once; "" before."""
    try:
        return (layout.data(nickname) / "fingerprint").read_text().split()[1]
    except (OSError, IndexError):
        return ""


def is_reachable_by_all(directory: Path) -> bool:
    """Whether every user may go to a directory: each of its ancestors is open to others."""
    return all(path.stat().st_mode & 0o001 for path in (directory, *directory.parents))


def _onion_keys(layout: Layout, box: Box) -> Path:
    """Where the keys stay from start to start; the box has a copy."""
    return layout.directory / box.name / "service"


def _own(directory: Path) -> None:
    """Make a private directory, or take one back from its user."""
    directory.mkdir(mode=0o700, exist_ok=True)
    if namespace.is_root():
        os.chown(directory, 0, 0, follow_symlinks=False)
    directory.chmod(0o700)


def _write_box(layout: Layout, box: Box) -> None:
    keys.onion_service(_onion_keys(layout, box))
    # Where the box's other users can read them, though DIR may be in a private home.
    defaults = layout.run / f"{box.name}-defaults.torrc"
    shutil.copyfile(layout.ca, layout.run / "ca.pem")
    defaults.write_text(layout.defaults.read_text() + outbound_line(client_address(1 + box.number)) + "\n")
    relay = next(relay for relay in layout.relays if relay.box is box)
    state, data = layout.state(box), layout.data(relay.nickname)
    for directory in (state, data):
        _own(directory)
    if namespace.is_root() and not is_reachable_by_all(layout.directory):
        state, data = _shown(layout, box, "state", state), _shown(layout, box, "relay", data)
    box_config(layout, box).write_text(_box_toml(layout, box, relay, state, data, defaults))


def _shown(layout: Layout, box: Box, name: str, directory: Path) -> Path:
    """A path of a directory that the box's processes can reach, though DIR may be in a private home: its server is
    another user, and its relay watcher a root without rights to what others keep private."""
    shown = layout.run / f"{box.name}-{name}"
    shown.mkdir()
    namespace.bind(directory, shown)
    return shown


def _box_toml(layout: Layout, box: Box, relay: Relay, state: Path, data: Path, defaults: Path) -> str:
    root: dict[str, object] = {"user": str(box.uid), "uid_base": box.uid_base} if namespace.is_root() else {}
    policy: dict[str, object] = {} if box.plan.is_exit else {"egress": []}
    tables: dict[str, dict[str, object]] = {
        "": {
            "address": box.address,
            "port": BOX_PORT,
            "state": str(state),
            "run": str(layout.run / f"b{box.number}"),
            **root,
            "extra_ca": str(layout.run / "ca.pem"),
        },
        "relay": {
            "control": f"unix:{layout.sockets(relay.nickname) / 'control'}",
            "cookie": str(data / "control_auth_cookie"),
            "torrc": str(data / "torrc"),
            "outbound": relay.address,
        },
        "onion": {"defaults_torrc": str(defaults)},
        "policy": policy,
    }
    lines = []
    for name, table in tables.items():
        lines += [f"[{name}]"] if name else []
        # JSON's strings, numbers and lists of them are TOML's as well.
        lines += [f"{key} = {json.dumps(value)}" for key, value in table.items()]
    return "\n".join([*lines, ""])


def _renew_consensus(layout: Layout, identity: AuthorityKeys) -> None:
    """Make the last consensus current again for every tor; forget it if it is of other relays or another authority."""
    memory = layout.directory / "relays.json"
    now = json.dumps([identity.v3ident, *(relay.nickname for relay in layout.relays)])
    data = layout.data(layout.authority.nickname)
    renewed = {}
    if memory.exists() and memory.read_text() == now:
        key = keys.signing_key(data)
        for name in (CONSENSUS_FILES[0], "cached-consensus"):
            last = (data / name).read_text() if (data / name).exists() else ""
            renewed[name] = consensus.renewed(last, key, now_s=time.time())
    memory.write_text(now)
    texts = {name: text for name, text in renewed.items() if text}
    if len(texts) < 2 or any(
        consensus.nicknames(text) < {r.nickname for r in layout.relays} for text in texts.values()
    ):
        for pattern in ("*/cached-*", f"{data.name}/my-consensus-*", f"{data.name}/v3-status-votes"):
            for path in layout.directory.glob(pattern):
                path.unlink()
        return
    for name, text in texts.items():
        (data / name).write_text(text)
    for nickname in ("client", *(relay.nickname for relay in layout.relays[1:])):
        copy_consensus(data, layout.data(nickname))
        (layout.data(nickname) / "cached-consensus").unlink(missing_ok=True)
