"""`bento browse`: a web page, loaded at a box, as one file."""

import argparse
import asyncio
import json
import os
import signal
import sys
import tempfile
import webbrowser
from pathlib import Path
from typing import Any, Final

import msgspec

from bento.cli import progress
from bento.cli.running import TERMINATED
from bento.client import Client
from bento.errors import UsageError
from bento.functions.browser.client import Page, browse
from bento.functions.browser.padding import DEFAULT_PAD, parse_pad

WARNING: Final = "HTTPS ends at the box: outside a conclave its operator can read and alter the page"

_SUFFIXES: Final = {"text/html": ".html", "application/pdf": ".pdf"}


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "browse",
        help="load a web page at a box, as one file that makes no request",
        description=f"Load a web page at a box, with what it names, as one file that makes no request. {WARNING}.",
    )
    parser.add_argument("url", metavar="URL", help="http:// or https://")
    parser.add_argument("--box", metavar="FP", help="the fingerprint of the box to ask")
    parser.add_argument("--mode", choices=("light", "full"), default="light", help="light: no browser runs at the box")
    parser.add_argument(
        "--pad",
        default=DEFAULT_PAD,
        metavar="SCHEME",
        help="what hides the page's size: none, a size such as 7MB (multiples of it), or buckets:SIZE,SIZE,... "
        f"(default {DEFAULT_PAD})",
    )
    parser.add_argument("--scripts", action="store_true", help="keep the page's scripts; they may make requests")
    parser.add_argument("--partial", action="store_true", help="take a page that was cut short as far as it came")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="write it there (default, and for -: stdout)")
    parser.add_argument("--open", action="store_true", help="show it in your browser")
    parser.add_argument("--json", action="store_true", help="say what came, as one object")
    parser.add_argument("--net", type=Path, metavar="DIR", help="a private network's directory (else BENTO_NET)")
    parser.set_defaults(run=_run)


def _run(args: argparse.Namespace) -> int:
    if args.mode == "full":
        raise UsageError("mode full is not in this version", hint="--mode light loads pages without running scripts")
    parse_pad(args.pad)
    output = None if args.output == Path("-") else args.output
    if output is not None:
        _verify_place(output)
    if sys.stderr is not None and sys.stderr.isatty():
        print(f"bento: {WARNING}", file=sys.stderr)
    # A shell's background jobs ignore it: whoever sends it all the same means this visit.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        page = asyncio.run(_browse(args))
    except asyncio.CancelledError:
        return TERMINATED
    finally:
        progress.clear()
    file = _save(page, output, is_shown=args.open)
    if args.json:
        print(json.dumps(_page_object(page, file)))
    else:
        if file is None:
            sys.stdout.buffer.write(page.content)
        if page.failures:
            print(f"bento: left out, or not whole: {len(page.failures)} (--json tells what and why)", file=sys.stderr)
    if args.open and file is not None and not webbrowser.open(file.as_uri()):
        raise UsageError("no browser could be started", hint=f"the page is in {file}")
    return 0


def _verify_place(output: Path) -> None:
    """Before anything is fetched. Raises: UsageError where no file can be."""
    if output.is_dir():
        raise UsageError(f"{output} is a folder", hint="name a FILE in it")
    if not output.absolute().parent.is_dir():
        raise UsageError(f"there is no folder {output.absolute().parent}", hint="make it, or name another FILE")


async def _browse(args: argparse.Namespace) -> Page:
    task = asyncio.current_task()
    assert task
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    client = Client(net=args.net, report=progress.report)
    return await browse(
        client, args.url, box=args.box, pad=args.pad, scripts=args.scripts, partial=args.partial, report=_report
    )


def _report(received: int, expected: int) -> None:
    if expected:
        progress.report(f"{received // 1024} of {expected // 1024} KiB")


def _save(page: Page, output: Path | None, *, is_shown: bool) -> Path | None:
    """Write the page whole: a file is there only once all of it is. Where it is; None if it is wanted nowhere."""
    if output is None and not is_shown:
        return None
    if output is None:
        folder = Path(tempfile.mkdtemp(prefix="bento-"))  # which nobody else may enter
        output = folder / f"page{_SUFFIXES.get(page.media_type, '')}"
    output = output.absolute()
    try:
        if output.exists() and not output.is_file():  # a terminal, a pipe: not to be replaced by a file
            output.write_bytes(page.content)
        else:
            _replace(output.resolve(), page.content)
    except OSError as error:
        raise UsageError(f"can't write {output}: {error.strerror}", hint="is the disk full?") from None
    return output


def _replace(output: Path, content: bytes) -> None:
    fresh = output.with_name(f".{output.name}.{os.getpid()}.new")
    try:
        fresh.write_bytes(content)
        fresh.replace(output)
    finally:
        fresh.unlink(missing_ok=True)


def _page_object(page: Page, file: Path | None) -> dict[str, Any]:
    return {
        "url": page.url,
        "status": page.status,
        "page_bytes": len(page.content),
        "sent_bytes": page.sent_bytes,
        "resources": page.resources,
        "seconds": round(page.seconds, 3),
        "circuit": [hop.fingerprint for hop in page.path],
        "type": page.media_type,
        "file": None if file is None else str(file),
        "failures": msgspec.to_builtins(page.failures),
    }
