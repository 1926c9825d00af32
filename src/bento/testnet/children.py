"""The processes of a network as pid 1 of their namespace sees them: it starts them, reaps them, ends them."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any, Final, NoReturn

from bento.errors import BentoError, NetworkDown
from bento.tor.process import log_tail

_POLL_S: Final = 0.02


class Children:
    """Named processes. Whatever else lands at pid 1, orphans of programs that ran inside, is reaped as well."""

    def __init__(self) -> None:
        self._pids: dict[str, int] = {}
        self._logs: dict[str, Path] = {}
        self._ended: dict[str, int] = {}

    def add(self, name: str, pid: int, log: Path) -> None:
        """Watch a process that was just started."""
        self._pids[name] = pid
        self._logs[name] = log
        self._ended.pop(name, None)

    def pid(self, name: str) -> int | None:
        """The pid, in this namespace, of a process that runs."""
        return self._pids.get(name)

    @property
    def lost(self) -> tuple[str, ...]:
        """Those that ended unasked."""
        return tuple(self._ended)

    def reap(self) -> None:
        """Collect every child that ended: to be called at SIGCHLD."""
        with contextlib.suppress(ChildProcessError):
            while (found := os.waitpid(-1, os.WNOHANG))[0]:
                for name in [name for name, pid in self._pids.items() if pid == found[0]]:
                    del self._pids[name]
                    self._ended[name] = os.waitstatus_to_exitcode(found[1])

    def verify_alive(self) -> None:
        """Raises: NetworkDown if one ended unasked, with the end of its log as the hint."""
        for name, status in self._ended.items():
            raise NetworkDown(f"the process {name} ended with status {status}", hint=log_tail(self._logs[name]))

    async def stop(self, names: Iterable[str], limit_s: float) -> None:
        """End processes with SIGTERM, after `limit_s` with SIGKILL."""
        waiting = {name: pid for name in names if (pid := self._pids.get(name))}
        for number, wait_s in ((signal.SIGTERM, limit_s), (signal.SIGKILL, 1.0)):
            for pid in waiting.values():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    while waiting:
                        waiting = {name: pid for name, pid in waiting.items() if self._pids.get(name) == pid}
                        await asyncio.sleep(_POLL_S)
                break
            print(f"still running {wait_s:g} s after {number.name}: {' '.join(waiting)}", flush=True)
        for name in names:
            self._ended.pop(name, None)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._pids)


def fork_service(listen: Callable[[], Coroutine[Any, Any, contextlib.AsyncExitStack]]) -> int:
    """Run a service for ever in a child; call it before there is an event loop or a thread. Returns its pid."""
    if pid := os.fork():
        return pid
    return _run_service(listen)


def _run_service(listen: Callable[[], Coroutine[Any, Any, contextlib.AsyncExitStack]]) -> NoReturn:
    async def run() -> None:
        async with await listen():
            await asyncio.get_running_loop().create_future()

    status = 1
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        asyncio.run(run())
    except (BentoError, OSError) as error:
        print(f"bento: error: {error}", flush=True)
    finally:
        os._exit(status)
