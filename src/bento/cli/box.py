"""`bento box ...`: for operators."""

import argparse
from pathlib import Path

from bento.box.settings import load_settings

_CONFIG = Path("/etc/bento/box.toml")


def add_parser(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the `box` command."""
    commands = subparsers.add_parser("box", help="run a box beside a relay").add_subparsers(
        required=True, metavar="COMMAND"
    )
    for name, run, text in (("run", _run, "run the box"), ("check", _check, "tell whether a box would work here")):
        command = commands.add_parser(name, help=text)
        command.add_argument("--config", type=Path, default=_CONFIG, metavar="FILE", help=f"default: {_CONFIG}")
        command.set_defaults(run=run)


def _run(args: argparse.Namespace) -> int:
    from bento.box.start import run_box

    run_box(load_settings(args.config))
    return 0


def _check(args: argparse.Namespace) -> int:
    from bento.box.check import check_box

    is_fit = True
    for finding in check_box(load_settings(args.config)):
        print(f"{'ok  ' if finding.is_fine else 'FAIL'}  {finding.text}")
        if finding.hint:
            print(f"      hint: {finding.hint}")
        is_fit &= finding.is_fine
    return 0 if is_fit else 2
