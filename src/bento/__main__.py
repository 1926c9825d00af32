"""`python -m bento` is the command `bento`."""

import sys

from bento.cli import main

if __name__ == "__main__":
    sys.exit(main())
