"""What a page's size tells: schemes of padding, by name.

>>> parse_pad("7MB"), parse_pad("buckets:512KiB,2MiB"), parse_pad("none")
((7000000,), (524288, 2097152), ())
"""

import re
from typing import Final

from bento.errors import UsageError
from bento.functions.browser.packet import MAX_OBJECT_BYTES

DEFAULT_PAD: Final = "buckets:512KiB,2MiB,8MiB,32MiB"
"""By name what DEFAULT_BUCKETS are."""

_MAX_BUCKETS: Final = 64
"""More would tell as much as the size itself."""

_UNITS: Final = {"": 1, "KB": 10**3, "MB": 10**6, "KIB": 2**10, "MIB": 2**20}
_HINT: Final = "write none, a size such as 1MB or 7MB, or buckets:512KiB,2MiB,8MiB"


def parse_pad(scheme: str) -> tuple[int, ...]:
    """The bucket sizes, in bytes, of a scheme; () for no padding. Raises: UsageError if it is none."""
    if scheme == "none":
        return ()
    kind, _, sizes = scheme.rpartition(":")
    words = sizes.split(",")
    if kind not in ("", "buckets") or (not kind and len(words) > 1) or len(words) > _MAX_BUCKETS:
        raise UsageError(f"not a padding scheme: {scheme!r}", hint=_HINT)
    buckets = tuple(_parse_size(word) for word in words)
    if list(buckets) != sorted(set(buckets)):
        raise UsageError(f"the buckets of {scheme!r} do not ascend", hint=_HINT)
    return buckets


def _parse_size(word: str) -> int:
    found = re.fullmatch(r"([0-9]{1,12})(|KB|MB|KiB|MiB)", word, re.IGNORECASE)
    size = int(found[1]) * _UNITS[found[2].upper()] if found else 0
    if not 0 < size <= MAX_OBJECT_BYTES:
        raise UsageError(f"not a size: {word!r}, at least 1 and at most {MAX_OBJECT_BYTES} bytes", hint=_HINT)
    return size
