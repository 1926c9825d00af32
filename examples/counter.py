"""State: an instance keeps its module's variables from call to call, until its lease ends or its owner stops it."""

import threading

_lock = threading.Lock()
_counts = {}


def add(name, number=1):
    """Calls of one instance may run at once, each in a thread of its own: hence the lock."""
    with _lock:
        _counts[name] = _counts.get(name, 0) + number
        return _counts[name]


def counts():
    return _counts
