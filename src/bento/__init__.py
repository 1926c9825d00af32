"""Bento makes Tor programmable: functions that run at relays.

async with bento.Client() as client:
    async with client.spawn("hello.py") as function:
        print(await function.call("hello", "world"))
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from bento.errors import BentoError

if TYPE_CHECKING:
    from bento.client import Client as Client
    from bento.testnet import Network as Network

__version__ = "0.1.0"
__all__ = ["BentoError", "Client", "Network", "__version__"]

_HOMES = {"Client": "bento.client", "Network": "bento.testnet"}


def __getattr__(name: str) -> Any:
    """Public names load when first used: a function's image holds this module, but not what these need."""
    if name not in _HOMES:
        raise AttributeError(f"module 'bento' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
