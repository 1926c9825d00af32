"""The record of a network that is up, DIR/instance.json, and the lock that says whether it truly is.

The janitor and the supervisor hold the lock; the kernel frees it when the last of them ends, however it ends.
"""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec

from bento.errors import NetworkDown
from bento.testnet import cgroups


class Instance(msgspec.Struct, frozen=True):
    """What outlives processes, so that it can be removed; pids are the host's."""

    directory: str
    run: str
    cgroups: tuple[str, ...]
    janitor_pid: int
    supervisor_pid: int

    @property
    def socket(self) -> Path:
        return Path(self.run) / "supervisor"


def acquire(directory: Path) -> int | None:
    """Take the lock of a network's directory: a descriptor, or None if the network is up."""
    descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


@contextlib.contextmanager
def lock_if_down(directory: Path) -> Iterator[bool]:
    """Whether the network of `directory` is down; it stays so inside the block."""
    if not (directory / "lock").exists():
        yield True
        return
    descriptor = acquire(directory)
    try:
        yield descriptor is not None
    finally:
        if descriptor is not None:
            os.close(descriptor)


def record(instance: Instance) -> None:
    """Write the record, whole or not at all."""
    path = _path(Path(instance.directory))
    fresh = path.with_suffix(".new")
    fresh.touch(mode=0o600)
    fresh.write_bytes(msgspec.json.encode(instance))
    fresh.rename(path)


def recorded(directory: Path) -> Instance | None:
    """The record, if there is one; the network may be dead all the same."""
    try:
        return msgspec.json.decode(_path(directory).read_bytes(), type=Instance)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        raise NetworkDown(
            f"{_path(directory)} is damaged: {error}", hint="remove it once the network is down"
        ) from None


def clean(instance: Instance) -> None:
    """Remove what a network left: sockets, control groups, at last the record."""
    shutil.rmtree(instance.run, ignore_errors=True)
    cgroups.remove([Path(group) for group in instance.cgroups])
    _path(Path(instance.directory)).unlink(missing_ok=True)


def clean_if_dead(directory: Path) -> bool:
    """Whether the network is down; if it is, what a killed one left is removed."""
    with lock_if_down(directory) as is_down:
        if is_down and (left := recorded(directory)):
            clean(left)
        return is_down


def _path(directory: Path) -> Path:
    return directory / "instance.json"
