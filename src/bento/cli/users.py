"""`bento boxes`, `bento check`, `bento run`: for users of boxes."""

import argparse
import asyncio
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from bento.cli import printable, progress
from bento.cli.running import run_function
from bento.client import Client
from bento.client.choose import find_box, item_refusals
from bento.client.client import DEFAULT_WALL_S
from bento.client.source import Source, read_source
from bento.errors import SourceError
from bento.policy import Grant, Refusal, decide
from bento.protocol.messages import Description
from bento.tor.box_list import ListedBox

REFUSED = 3
"""No box would admit it."""


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the users' commands."""
    boxes = subparsers.add_parser("boxes", help="list the boxes")
    boxes.add_argument("--json", action="store_true", help="one list of objects")
    boxes.set_defaults(run=_boxes)

    check = subparsers.add_parser("check", help="tell which boxes would admit a function; spawns nothing")
    check.add_argument("file", type=Path, metavar="FILE")
    check.add_argument("--json", action="store_true", help="one list of objects")
    check.set_defaults(run=_check)

    run = subparsers.add_parser("run", help="run a function at a box")
    run.add_argument("file", type=Path, metavar="FILE")
    run.add_argument(
        "words",
        nargs="*",
        metavar="ENTRY ARG",
        help="the function to call (default: the only public one, else main) and its arguments: "
        "JSON if it parses as JSON, else a string; @FILE stands for its bytes",
    )
    run.add_argument("--timeout", type=parse_seconds, metavar="S", help="seconds it may take, at most its manifest's")
    run.set_defaults(run=_run)

    for command in (boxes, check, run):
        command.add_argument("--net", type=Path, metavar="DIR", help="a private network's directory (else BENTO_NET)")
    for command in (check, run):
        command.add_argument("--box", metavar="FP", help="the fingerprint of the box to ask")


def parse_argument(text: str) -> Any:
    """An argument of a function as typed: JSON, else a string; "@FILE" is the file's bytes.

    >>> parse_argument("[1, true]"), parse_argument("hello")
    ([1, True], 'hello')
    """
    if text.startswith("@"):
        try:
            return Path(text[1:]).read_bytes()
        except OSError as error:
            reason = f"can't read {text[1:]}: {error.strerror}"
            raise SourceError(reason, hint="an argument @FILE stands for the file's bytes") from None
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return text


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def parse_seconds(text: str) -> int:
    """A number of seconds as typed, 1 or more."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds, 1 or more")
    return int(text)


def _boxes(args: argparse.Namespace) -> int:
    listed = asyncio.run(Client(net=args.net).box_list())
    if args.json:
        print(json.dumps([_box_object(box) for box in listed.boxes], indent=2))
    else:
        _print_boxes(listed.boxes)
    for reason, count in listed.left_out.items():
        print(f"bento: left out {count} of the list: {reason}", file=sys.stderr)
    return 0


def _box_object(box: ListedBox) -> dict[str, Any]:
    item = box.item
    return {
        "fingerprint": box.fingerprint,
        "nickname": box.nickname,
        "images": list(item.images),
        "conclave": item.conclave,
        "policy": item.policy,
        "address": f"{item.address}:{item.port}",
        "onion": item.onion and f"{item.onion}.onion",
        "open": box.is_open,
    }


def _print_boxes(boxes: tuple[ListedBox, ...]) -> None:
    rows = [("FINGERPRINT", "NICKNAME", "IMAGES", "CONCLAVE", "POLICY")]
    for box in boxes:
        item = box.item
        rows.append((box.fingerprint, box.nickname, "+".join(item.images), item.conclave or "-", item.policy))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _check(args: argparse.Namespace) -> int:
    source = read_source(args.file)
    client = Client(net=args.net, report=progress.report)
    verdicts = asyncio.run(_check_box(client, source, args.box) if args.box else _check_list(client, source))
    progress.clear()
    if args.json:
        print(json.dumps([_verdict_object(verdict) for verdict in verdicts], indent=2))
    else:
        for verdict in verdicts:
            _print_verdict(verdict, source.manifest.image)
    return 0 if any(not verdict.refusals for verdict in verdicts) else REFUSED


@dataclass(frozen=True)
class Verdict:
    """What a box would say to a function; `described` if it was asked."""

    box: ListedBox
    refusals: tuple[Refusal, ...]
    described: Description | None = None


async def _check_list(client: Client, source: Source) -> list[Verdict]:
    """By the list alone: nobody learns what someone wants to run."""
    return [Verdict(box, item_refusals(source.manifest, box.item)) for box in await client.boxes()]


async def _check_box(client: Client, source: Source, fingerprint: str) -> list[Verdict]:
    """By the box's whole policy, which it tells to anyone; the decision is made here."""
    box = find_box(await client.boxes(), fingerprint)
    described = await client.describe(box.fingerprint)
    # As `run` would ask for it.
    lease_s = source.manifest.wall_s or DEFAULT_WALL_S
    decision = decide(source.manifest, described.policy, instances=0, lease_s=lease_s)
    return [Verdict(box, () if isinstance(decision, Grant) else decision, described)]


def _verdict_object(verdict: Verdict) -> dict[str, Any]:
    found = {
        "fingerprint": verdict.box.fingerprint,
        "nickname": verdict.box.nickname,
        "admitted": not verdict.refusals,
        "refusals": msgspec.to_builtins(verdict.refusals),
    }
    if verdict.described is not None:
        found["software"] = verdict.described.software
        found["python"] = verdict.described.python
        found["packages"] = {
            image: [{"name": each.name, "version": each.version, "digest": each.digest.hex()} for each in packages]
            for image, packages in verdict.described.packages.items()
        }
    return found


def _print_verdict(verdict: Verdict, image: str) -> None:
    print(f"{verdict.box.fingerprint}  {verdict.box.nickname}  {'refuses' if verdict.refusals else 'admits'}")
    for refusal in verdict.refusals:
        print(f"    {printable(refusal.text)} ({refusal.hint})")
    if verdict.described is not None and image in verdict.described.packages:
        packages = ", ".join(f"{each.name} {each.version}" for each in verdict.described.packages[image])
        print(f"    {image}: {printable(f'Python {verdict.described.python} with {packages}')}")


def _run(args: argparse.Namespace) -> int:
    entry, *words = args.words or [None]
    arguments = [parse_argument(text) for text in words]
    client = Client(net=args.net, report=progress.report)
    return run_function(client, args.file, entry, arguments, box=args.box, timeout_s=args.timeout)
