# /// bento
# memory_bytes = 68_719_476_736
# cpu_s = 2_592_000
# egress = ["*:25"]
# ///
"""A manifest that no careful operator grants: it is refused before any of it runs, and every broken rule is named."""


def greedy():
    """64 GiB, a month of processor time, and mail: `bento check` says the same without asking for it."""
    return "somebody let me"
