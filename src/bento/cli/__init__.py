"""The command `bento`: thin over `bento.client`, `bento.box` and `bento.testnet`.

Each module here adds its commands with `add_parser`; each command is a function from its arguments to an exit status.
What goes wrong is one line `bento: error: ...` and one `bento: hint: ...` on stderr, never a traceback.
"""

import argparse
import errno
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from bento import __version__
from bento.cli import progress
from bento.errors import BentoError, Refused, UsageError

INTERRUPTED = 130
"""As shells count a command that Ctrl-C ended."""

READER_GONE = 141
"""As shells count one whose reader went away (SIGPIPE)."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What a write says of a file that can't grow any more."""

INTERNAL = 70
"""A fault of Bento's own: sysexits.h calls it EX_SOFTWARE."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line; returns its exit status."""

    def run() -> int:
        args = _parse(argv)
        status: int = args.run(args)
        return status

    return guarded(run)


def guarded(run: Callable[[], int]) -> int:
    """Run a command; whatever it raises is told in one line, and becomes an exit status."""
    try:
        _open_standard_descriptors()
        status = run()
        if sys.stdout is not None:
            sys.stdout.flush()
    except BentoError as error:
        return tell(error)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        _silence_stdout()
        return READER_GONE
    except Exception as error:  # noqa: BLE001 - the last place where one can be caught
        if isinstance(error, OSError) and error.errno in _FULL:
            _silence_stdout()
            where = error.filename or "the output, or in the state directory"
            return tell(UsageError(f"can't write {where}: {error.strerror}", hint="is the disk full?"))
        _print_error(f"internal: {type(error).__name__}: {error}", "this is a fault of Bento; please report it")
        return INTERNAL
    return status


def tell(error: BentoError) -> int:
    """Print what went wrong, and every broken rule; returns its exit status."""
    _print_error(error.message, error.hint)
    if isinstance(error, Refused) and len(error.refusals) > 1:
        _print_rules(error)
    return error.exit_status


class _Parser(argparse.ArgumentParser):
    """argparse, with our kind of error."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, hint=f"see: {self.prog} --help")


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Options may stand between the words of `run` and `invoke`, which argparse itself does not allow."""
    parser = _parser()
    args, rest = parser.parse_known_args(argv)
    if rest and (not hasattr(args, "words") or any(word.startswith("-") for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        args.words += rest
    return args


def _parser() -> argparse.ArgumentParser:
    from bento.cli import box, browse, deployed, net, sessions, users

    parser = _Parser(prog="bento", description="Run functions at Tor relays.")
    parser.add_argument("--version", action="version", version=f"bento {__version__}")
    subparsers = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=_Parser)
    for module in (users, deployed, sessions, browse, net, box):
        module.add_parser(subparsers)
    return parser


def printable(text: str) -> str:
    """A text that a box or a function may have made, for a line of a terminal: what would steer that is escaped.

    >>> printable("red \\x1b[31m")
    'red \\\\x1b[31m'
    """
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def _print_error(message: str, hint: str) -> None:
    _print_to_stderr(f"bento: error: {message}", *([f"bento: hint: {hint}"] if hint else []))


def _print_rules(error: Refused) -> None:
    """Every rule on a line of its own, with what to do about it."""
    hints = (getattr(refusal, "hint", "") for refusal in error.refusals)
    rules = (f"bento: refused: {refusal.text} ({hint})" for refusal, hint in zip(error.refusals, hints, strict=True))
    _print_to_stderr(*rules)


def _print_to_stderr(*lines: str) -> None:
    try:
        progress.clear()
        print(*map(printable, lines), sep="\n", file=sys.stderr, flush=True)
    except OSError:
        return  # nobody reads it; the status says it all


def _silence_stdout() -> None:
    """Let the interpreter's last flush go nowhere."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _open_standard_descriptors() -> None:
    """Where stdin, stdout or stderr is closed, let it be /dev/null: else the next file opened would take its number,
    and what is meant for stderr would go to stdout."""
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(descriptor, "w" if descriptor else "r", closefd=False))
