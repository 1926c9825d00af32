"""The box's own tor: its onion service, for relays that can't exit to themselves, and later what functions ask of Tor.
It is never the relay's tor."""

import os
from collections.abc import Mapping
from pathlib import Path

from bento.box.settings import Settings
from bento.config import ONION_PORT
from bento.tor.process import TorProcess, start_tor


def start_onion_proxy(settings: Settings, *, environment: Mapping[str, str] | None = None) -> TorProcess:
    """Start the onion proxy; it ends by itself within 15 s of the process that calls this.

    Raises: TorUnavailable.
    """
    assert settings.onion is not None
    defaults = settings.onion.defaults_torrc
    lines = [
        f"__OwningControllerProcess {os.getpid()}",
        "SocksPort 0",
        f"HiddenServiceDir {settings.onion_directory / 'service'}",
        f"HiddenServicePort {ONION_PORT} {settings.address}:{settings.port}",
    ]
    return start_tor(
        lines,
        data=settings.onion_directory,
        sockets=Path(settings.run) / "onion",
        defaults=Path(defaults) if defaults else None,
        environment=environment,
    )
