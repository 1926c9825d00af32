"""Looking up names, in threads of their own: the C library knows no other way to wait.

A lookup that nobody waits for any more keeps its place until its thread has ended. The threads are daemons, since those
of a pool would hold up the server's exit for as long as a name server stays silent.
"""

import asyncio
import contextlib
import errno
import ipaddress
import os
import socket
import threading
from functools import partial
from typing import Final

MAX_LOOKUPS: Final = 4
"""Of one instance at once: a page's names come two or three at a time, and a function whose name server is silent
holds no more than these."""

_MAX_THREADS: Final = 256
"""Of the box: what 64 instances, the usual limit, may have at once. Each costs some 50 KiB while it lasts."""

_MAX_NAME_CHARS: Final = 254
"""As DNS has it, with a last dot. Other alphabets are written in this one: to do that here would take Python a third of
a second for what fits a request, and the server does nothing else meanwhile."""


class Resolver:
    """The lookups of a whole box."""

    def __init__(self, max_threads: int = _MAX_THREADS) -> None:
        self._room = asyncio.Semaphore(max_threads)
        # No name is tried within the machine's own domain, as tor has it: what is there is nobody's business.
        os.environ["LOCALDOMAIN"] = "."

    async def resolve(self, host: str, own: asyncio.Semaphore) -> list[str]:
        """The addresses of a host, each once; a literal address is its own. Waits for a place: set a limit.

        Args:
            own: the places of the instance that asks, MAX_LOOKUPS of them.
        Raises: gaierror, also for what can't be a name; OSError.
        """
        try:
            return [str(ipaddress.ip_address(host))]
        except ValueError:
            pass
        if len(host) > _MAX_NAME_CHARS or not host.isascii():
            raise socket.gaierror(socket.EAI_NONAME, "not a name")
        await own.acquire()
        try:
            await self._room.acquire()
        except BaseException:
            own.release()
            raise
        return await self._look_up(host, own)

    def _look_up(self, host: str, own: asyncio.Semaphore) -> "asyncio.Future[list[str]]":
        loop = asyncio.get_running_loop()
        future: asyncio.Future[list[str]] = loop.create_future()

        def deliver(found: list[str] | OSError) -> None:
            self._room.release()
            own.release()
            if future.done():
                return
            if isinstance(found, OSError):
                future.set_exception(found)
            else:
                future.set_result(found)

        def run() -> None:
            found = _look_up(host)
            with contextlib.suppress(RuntimeError):  # the loop is closed: the server has ended
                loop.call_soon_threadsafe(partial(deliver, found))

        try:
            threading.Thread(target=run, daemon=True).start()
        except RuntimeError as error:
            deliver(OSError(errno.EAGAIN, f"no thread for a lookup: {error}"))
        return future


def _look_up(host: str) -> list[str] | OSError:
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except OSError as error:
        return error
    except Exception:  # noqa: BLE001 - UnicodeError for an empty label or one over 63 letters, ValueError for a zero byte
        return socket.gaierror(socket.EAI_NONAME, "not a name")
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))
