"""Waiting for many descriptors at once, each with the call it is for."""

import select
from collections.abc import Callable
from typing import Final

READABLE: Final = select.POLLIN


class Watch:
    """A poll whose entries are calls. A call may add and drop entries, its own included."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._calls: dict[int, Callable[[], None]] = {}

    def add(self, descriptor: int, call: Callable[[], None]) -> None:
        self._calls[descriptor] = call
        self._poll.register(descriptor, READABLE)

    def drop(self, descriptor: int) -> None:
        """Forget a descriptor; must come before it is closed."""
        if self._calls.pop(descriptor, None) is not None:
            self._poll.unregister(descriptor)

    def wait(self, timeout_s: float) -> None:
        """Wait until something is readable or has hung up, and make the calls that are due."""
        for descriptor, _ in self._poll.poll(max(0.0, timeout_s * 1000)):
            call = self._calls.get(descriptor)
            if call is not None:
                call()
