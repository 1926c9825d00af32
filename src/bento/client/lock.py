"""A lock between processes, which the kernel frees when its holder ends, however it ends."""

import asyncio
import contextlib
import fcntl
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Final

_POLL_S: Final = 0.02


@contextlib.asynccontextmanager
async def locked(path: Path, limit_s: float) -> AsyncIterator[None]:
    """Hold the lock of a file, made if it is not there; TimeoutError if another held it for so long."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        async with asyncio.timeout(limit_s):
            while not _try_lock(descriptor):  # noqa: ASYNC110 - the event is another process's
                await asyncio.sleep(_POLL_S)
        yield
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
