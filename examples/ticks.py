# /// bento
# wall_s = 600
# ///
"""A stream: each item that a generator yields is with the caller at once."""

import time


def ticks(seconds=60, pause_s=1):
    """For a minute, unless told otherwise. The caller may stop it before; no circuit needs to last so long."""
    for number in range(round(seconds / pause_s)):
        yield f"tick {number}\n"
        time.sleep(pause_s)
