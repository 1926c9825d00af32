"""A box's configuration file.

address = "127.84.1.2"          # one of the relay's loopback addresses, for this box alone
port = 7000
state = "/var/lib/bento"        # persistent: the onion service's key
run = "/run/bento"              # sockets; short, since tor refuses paths of about 100 bytes
user = "bento"                  # only for a box started as root: what the server becomes

[relay]
control = "/run/tor/control"
cookie = "/run/tor/control.authcookie"

[policy]
memory_bytes = 268_435_456
"""

from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from bento.errors import ConfigError
from bento.policy import Policy
from bento.tor.box_item import BoxItem, is_loopback

Port = Annotated[int, Meta(ge=1, le=65535)]


class Relay(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How to ask the relay: its control socket and cookie. `outbound` is the address it dials from, if not any;
    `torrc` is only named in what `bento box check` says."""

    control: str
    cookie: str
    torrc: str = "/etc/tor/torrc"
    outbound: str | None = None

    @property
    def control_path(self) -> Path:
        return Path(self.control.removeprefix("unix:"))


class Onion(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The box's own tor. `defaults_torrc` is for private networks: their authorities and timing."""

    defaults_torrc: str | None = None


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file."""

    address: str
    port: Port
    state: str
    run: str
    relay: Relay
    user: str | None = None
    uid_base: Annotated[int, Meta(ge=100_000, le=2**32 - 2**20)] = 2_000_000_000
    """As root, instances run under the uids from here on: above all that Debian and containers hand out."""
    extra_ca: str | None = None
    """A PEM file added to the certificate authorities that functions trust."""
    pool: Annotated[int, Meta(ge=1, le=256)] = 8
    """Processes that wait for a function."""
    onion: Onion | None = None
    policy: Policy = Policy()

    @property
    def item(self) -> BoxItem:
        """What the relay's ContactInfo must say."""
        has_egress = any(rule.startswith("accept") for rule in self.policy.egress)
        word = "exit" if has_egress else "onion" if self.policy.tor else "storage"
        return BoxItem(self.address, self.port, self.onion_address, self.policy.images, None, word)

    @property
    def onion_directory(self) -> Path:
        return Path(self.state) / "onion"

    @property
    def onion_address(self) -> str | None:
        """The 56 letters of the box's onion service; None if it has none, or its tor has not run yet."""
        if self.onion is None:
            return None
        try:
            return (self.onion_directory / "service" / "hostname").read_text().strip().removesuffix(".onion") or None
        except OSError:
            return None


def load_settings(path: Path) -> Settings:
    """Read a configuration file; ConfigError says what does not fit and where."""
    try:
        settings = msgspec.toml.decode(path.read_bytes(), type=Settings)
    except OSError as error:
        raise ConfigError(f"can't read {path}: {error.strerror}", hint="name it with --config FILE") from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}", hint="README.md shows a whole file") from None
    if not is_loopback(settings.address):
        raise ConfigError(
            f"{path}: address {settings.address} is no loopback address",
            hint="take one of 127.0.0.0/8 that nothing else uses, such as 127.84.1.2",
        )
    for name in ("state", "run"):
        if not Path(getattr(settings, name)).is_absolute():
            raise ConfigError(f"{path}: {name} is not an absolute path", hint="write the whole path")
    return settings
