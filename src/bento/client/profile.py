"""Whose state, and which Tor: the live network, or a private one that the user names. Never guessed.

profile = Profile.choose(state=None, net=None)     # BENTO_STATE and BENTO_NET, else the defaults
print(profile.box_list)
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

from bento.errors import ConfigError


@dataclass(frozen=True)
class Profile:
    """Absolute paths: `state` belongs to one user (0700); `net` is a private network's directory, None for live Tor."""

    state: Path
    net: Path | None

    @staticmethod
    def choose(state: Path | str | None, net: Path | str | None) -> "Profile":
        """From what the caller names, else the environment; makes the state directory.

        Raises: ConfigError if it can't be made, or others may enter it.
        """
        chosen_net = net or os.environ.get("BENTO_NET")
        directory = Path(state or os.environ.get("BENTO_STATE") or default_state()).absolute()
        _make_private(directory)
        return Profile(directory.resolve(), Path(chosen_net).absolute().resolve() if chosen_net else None)

    @property
    def box_list(self) -> Path:
        return (self.net or self.state) / "boxes.list"

    @property
    def agent(self) -> Path:
        """The directory with the agent's locks and address: one agent for each state and network."""
        if self.net is None:
            return self.state / "agents" / "live"
        return self.state / "agents" / hashlib.sha256(os.fsencode(self.net)).hexdigest()[:16]

    @property
    def functions(self) -> Path:
        """The directory of what was deployed and accepted: one folder for each name."""
        return self.state / "functions"

    @property
    def tor_data(self) -> Path:
        """The DataDirectory of the live network's tor: persistent, for its guard is in it."""
        return self.state / "tor"


def default_state() -> Path:
    """`bento` in the XDG state directory."""
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "bento"


def _make_private(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = directory.stat()
    except OSError as error:
        raise ConfigError(
            f"the state directory {directory} can't be made: {error.strerror}", hint="name another in BENTO_STATE"
        ) from None
    if found.st_uid != os.geteuid():
        raise ConfigError(f"the state directory {directory} is another user's", hint="name your own in BENTO_STATE")
    if found.st_mode & 0o077:
        raise ConfigError(
            f"others may enter the state directory {directory}", hint=f"close it with: chmod 700 {directory}"
        )
