"""Starting a reaper: what a box does once, before it gives up root.

socket_path = start_reaper(config)
link = await ReaperLink.connect(socket_path)
"""

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import msgspec

from bento.errors import SandboxUnavailable
from bento.sandbox.reaper import LOCK_NAME, SOCKET_NAME, Report
from bento.sandbox.spec import SandboxConfig

_START_TIMEOUT_S = 30.0
"""A reaper starts in half a second; on a machine where this passes, functions would be no use either."""


def start_reaper(config: SandboxConfig, *, log: int = 2) -> Path:
    """Start a reaper for `config.run` unless one lives there; it is nobody's child and outlives the caller.

    Args:
        log: the descriptor that becomes its stderr.
    Returns: the path of its socket.
    Raises: SandboxUnavailable with the reason if functions can't be confined on this machine.
    """
    run = Path(config.run)
    if is_reaper_running(run):
        return run / SOCKET_NAME
    starter = subprocess.Popen(
        [sys.executable, "-m", "bento.sandbox.reaper"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log,
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "PYTHONPATH": os.pathsep.join(filter(os.path.isabs, sys.path))},
        cwd="/",
    )
    try:
        answer, _ = starter.communicate(msgspec.msgpack.encode(config), timeout=_START_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        raise SandboxUnavailable(f"the reaper did not start within {_START_TIMEOUT_S:g} s") from None
    finally:
        starter.kill()
        starter.wait()
    _verify_report(answer)
    return run / SOCKET_NAME


def is_reaper_running(run: Path) -> bool:
    """Whether a reaper lives for this run folder; what a killed one left does not count."""
    try:
        lock = os.open(run / LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def _verify_report(answer: bytes) -> None:
    try:
        report = msgspec.json.decode(answer, type=Report)
    except msgspec.MsgspecError:
        raise SandboxUnavailable("the reaper ended while it started", hint="its log says why") from None
    if report.error:
        raise SandboxUnavailable(report.error, hint=report.hint)
