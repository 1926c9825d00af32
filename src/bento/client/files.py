"""Files of a user's alone, written whole or not at all."""

import os
from pathlib import Path


def write_whole(path: Path, data: bytes, *, is_synced: bool = True) -> None:
    """Put a file (0600) in the place of the one that is there: who reads it meanwhile sees the one or the other.

    Whoever writes holds a lock: of two at once one would take the other's half.

    Args:
        is_synced: it must outlive a crash of the machine, too.
    Raises: OSError, and what was there stays.
    """
    fresh = path.with_name(f".{path.name}")
    fresh.unlink(missing_ok=True)  # one who was killed left it
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as file:
        file.write(data)
        if is_synced:
            file.flush()
            os.fsync(file.fileno())
    fresh.rename(path)
    if is_synced:
        sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Let what was renamed in it outlive a crash of the machine."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
