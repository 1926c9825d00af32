"""`python -m bento.testnet` is a network's janitor; see `bento.testnet.janitor`."""

import sys

from bento.testnet.janitor import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
