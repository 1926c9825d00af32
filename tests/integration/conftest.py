"""Integration tests share one private network; see `tests/network.py`."""

from tests.network import network

__all__ = ["network"]
