"""What the server knows of its relay, and the start of the process that tells it.

The relay watcher (`watcher`) may read the relay's control cookie; the server never comes near the relay's control port.
`start_watcher` forks it, `FactsReader` is the server's end of its channel.
"""

import asyncio
import logging
import os
import signal
import socket
from typing import NoReturn

import msgspec

from bento.box.settings import Settings
from bento.exit_policy import RelayFacts
from bento.sandbox import syscalls

_LOG = logging.getLogger("bento.box")

_LENGTH_BYTES = 4
_STDERR = 2
_CHANNEL = 3


class FactsReader:
    """The server's end: `current` is what the relay would dial now."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self.current = RelayFacts()

    async def run(self) -> None:
        """Follow the watcher. If it ends, nothing may be dialled any more."""
        reader, writer = await asyncio.open_connection(sock=self._channel)
        try:
            while True:
                size = int.from_bytes(await reader.readexactly(_LENGTH_BYTES), "big")
                self.current = msgspec.msgpack.decode(await reader.readexactly(size), type=RelayFacts)
                if self.current == RelayFacts():
                    _LOG.warning("the relay's control port can't be read: functions may not dial")
        except (asyncio.IncompleteReadError, OSError, msgspec.DecodeError):
            _LOG.error("the relay watcher has ended: functions may not dial")
            self.current = RelayFacts()
        finally:
            writer.close()


def encode_facts(facts: RelayFacts) -> bytes:
    """As `FactsReader` reads them."""
    payload = msgspec.msgpack.encode(facts)
    return len(payload).to_bytes(_LENGTH_BYTES, "big") + payload


def start_watcher(settings: Settings, *, is_root: bool) -> socket.socket:
    """Fork the relay watcher; to be called before anything else is open, since it inherits that.

    Returns: the server's end of its channel, whose closing ends it.
    """
    ours, theirs = socket.socketpair()
    if os.fork() == 0:
        _be_watcher(settings, theirs, is_root=is_root)
    theirs.close()
    return ours


def _be_watcher(settings: Settings, channel: socket.socket, *, is_root: bool) -> NoReturn:
    try:
        kept = _keep_only(channel)
        # Here, so that the server goes without stem; before the rights are gone that reading the code may take.
        from bento.box import watcher

        watcher.run(settings.relay, kept, is_root=is_root)
    except Exception as error:  # noqa: BLE001 - said here, or nowhere
        _LOG.error("the relay watcher failed: %s", type(error).__name__)
    finally:
        os._exit(0)


def _keep_only(channel: socket.socket) -> socket.socket:
    """Let go of all that a fork inherits, but for the channel and stderr."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # A terminal's Ctrl-C reaches this process too: what ends it is the channel.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.set_wakeup_fd(-1)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    os.dup2(channel.detach(), _CHANNEL, inheritable=False)
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(_STDERR):
        os.dup2(null, descriptor)
    syscalls.close_from(_CHANNEL + 1)
    return socket.socket(fileno=_CHANNEL)
