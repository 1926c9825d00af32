"""`bento net ...`: private Tor networks from the command line."""

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from bento.errors import NetworkDown, UsageError
from bento.testnet import Network, Status, default_directory


def add_parser(subparsers: "argparse._SubParsersAction[Any]") -> None:
    """Add `net` and its subcommands."""
    net = subparsers.add_parser("net", help="a private Tor network on this machine", description=__doc__)
    commands = net.add_subparsers(metavar="COMMAND", required=True)
    up = _command(commands, "up", run_up, "start it: real tor processes in namespaces of their own")
    up.add_argument("--boxes", type=int, default=0, metavar="N", help="boxes beside relays of it (default 0)")
    up.add_argument("--detach", action="store_true", help="return when it is ready; `bento net down` ends it")
    up.add_argument("--latency-ms", type=int, default=0, metavar="MS", help="delay of each link, one way")
    status = _command(commands, "status", run_status, "what is up: relays, boxes, a tor for other programs")
    status.add_argument("--json", action="store_true", help="as one JSON object")
    _command(commands, "down", run_down, "end every process of it")
    site = _command(commands, "site", run_site, "serve FOLDER at http://NAME/ inside, from now on")
    site.add_argument("name", metavar="NAME", help="a host name that ends in .test")
    site.add_argument("folder", metavar="FOLDER", type=Path)
    inside = _command(commands, "exec", run_exec, "run a program inside")
    inside.add_argument("argv", metavar="-- CMD ...", nargs=argparse.REMAINDER)


def run_up(args: argparse.Namespace) -> int:
    network = Network(_directory(args), boxes=args.boxes, latency_ms=args.latency_ms, is_detached=args.detach)
    with _progress() as say:
        network.start(say)
    if args.detach:
        return 0
    try:
        _print_status(network.status())
        print("Ctrl-C ends it", flush=True)
        network.wait()
    finally:
        was_up = network.stop()
    if not was_up:
        raise NetworkDown("the network ended", hint=f"its logs are in {network.directory}")
    return 0


def run_status(args: argparse.Namespace) -> int:
    directory = _directory(args)
    try:
        status = Network(directory).status()
    except NetworkDown:
        if args.json:
            _print_json(Status(ready=False, dir=str(directory.absolute())))
        raise
    if args.json:
        _print_json(status)
    else:
        _print_status(status)
    return 0


def run_down(args: argparse.Namespace) -> int:
    directory = _directory(args)
    if not Network(directory).stop():
        print(f"bento: no network was up in {directory}", file=sys.stderr)
    return 0


def run_site(args: argparse.Namespace) -> int:
    Network(_directory(args)).site(args.name, args.folder)
    return 0


def run_exec(args: argparse.Namespace) -> int:
    """Become the program, so that its exit status and its signals are the caller's."""
    argv = args.argv[1:] if args.argv[:1] == ["--"] else args.argv
    if not argv:
        raise UsageError("there is no command to run", hint="bento net exec -- ip address")
    command = Network(_directory(args)).command(argv)
    sys.stdout.flush()
    os.execvp(command[0], command)  # noqa: S606


def _command(commands: "argparse._SubParsersAction[Any]", name: str, run: Any, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    parser.add_argument("--dir", type=Path, metavar="DIR", help="its directory (default: BENTO_NET, else bento/net)")
    parser.set_defaults(run=run)
    return parser


def _directory(args: argparse.Namespace) -> Path:
    directory: Path | None = args.dir
    return directory or default_directory()


@contextlib.contextmanager
def _progress() -> Iterator[Any]:
    """Steps on one line of a terminal that each replaces the last; nothing where stderr is no terminal."""
    if not sys.stderr.isatty():
        yield lambda step: None
        return
    try:
        yield lambda step: print(f"\r\033[Kbento: {step}", end="", file=sys.stderr, flush=True)
    finally:
        print("\r\033[K", end="", file=sys.stderr, flush=True)


def _print_json(status: Status) -> None:
    print(msgspec.json.encode(status).decode())


def _print_status(status: Status) -> None:
    print(f"{'ready' if status.ready else 'not ready'}: a private Tor network in {status.dir}")
    for relay in status.relays:
        box = f"  {relay.box.name} at {relay.box.address}:{relay.box.port}" if relay.box else ""
        print(f"  {relay.nickname:<10} {relay.address:<14} {relay.fingerprint}{box}")
    if status.client:
        print(f"  client     SOCKS {status.client.socks}, control {status.client.control}")
    if status.lost:
        print(f"  ended unasked: {', '.join(status.lost)}")
    print(f"  supervisor {status.supervisor_pid}, web sites: {' '.join(status.sites)}", flush=True)
