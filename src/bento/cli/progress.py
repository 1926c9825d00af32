"""What one waits for, on one line of stderr that the next step replaces; nothing where it is no terminal."""

import sys


class _Line:
    """The line, as far as it stands there now."""

    def __init__(self) -> None:
        self._is_shown = False

    def show(self, text: str) -> None:
        """Show a step."""
        if sys.stderr is not None and sys.stderr.isatty():
            print(f"\r\033[Kbento: {text}", end="", file=sys.stderr, flush=True)
            self._is_shown = True

    def clear(self) -> None:
        """Take it away, before anything else is written; what a function wrote stays."""
        if self._is_shown:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
            self._is_shown = False


_line = _Line()
report = _line.show
clear = _line.clear
