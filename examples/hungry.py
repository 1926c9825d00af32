# /// bento
# memory_bytes = 33_554_432
# ///
"""A limit: a function that takes more than its manifest asked for ends, and its caller is told which limit it met."""


def hungry():
    """What it sent until then has arrived."""
    held = []
    while True:
        held.append(bytearray(2**20))
        yield f"{len(held)} MiB\n"
