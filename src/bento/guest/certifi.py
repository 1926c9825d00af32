"""What `import certifi` finds inside: the box's own authorities, as `ssl` uses them.

A library that brings authorities of its own would not trust what the box's operator added, and would trust what they
took away.
"""

from pathlib import Path

_BUNDLE = "/etc/ssl/certs/ca-certificates.crt"

__all__ = ["contents", "where"]


def where() -> str:
    """The path of a file of PEM certificates."""
    return _BUNDLE


def contents() -> str:
    """The certificates themselves, as PEM."""
    return Path(_BUNDLE).read_text("utf-8")
