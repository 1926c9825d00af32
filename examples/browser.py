# /// bento
# egress = ["*:80", "*:443"]
# ///
"""Fetch a page at the box; one compressed object comes back, whose size says nothing but a multiple of `padding`."""

import os
import zlib

import requests


def browser(url, padding):
    """zlib marks its own end: what follows it is the padding."""
    page = requests.get(url, timeout=30).content
    packed = zlib.compress(page)
    api.send(packed + os.urandom(-len(packed) % padding))
