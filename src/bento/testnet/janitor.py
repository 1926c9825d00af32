"""The parent of a network's supervisor, outside its pid namespace: removes what outlives processes.

    python -m bento.testnet OPTIONS DESCRIPTOR

OPTIONS is JSON (`Options`); DESCRIPTOR a socket to the one who starts the network: steps, then ready or an error, as
lines of JSON. Unless the network is detached, it ends when that socket's other end is closed. The janitor and the
supervisor feel each other's end: whichever is killed, the other cleans up.
"""

import contextlib
import os
import select
import signal
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import msgspec

from bento.errors import BentoError, NetworkDown
from bento.testnet import cgroups, instance, namespace
from bento.testnet.instance import Instance
from bento.testnet.layout import Layout, Options, plan
from bento.testnet.supervisor import Tell, wire_error
from bento.testnet.supervisor import run as supervise

_MAX_RUNTIME_DIRECTORY_BYTES: Final = 40
"""Leaves tor's 100 bytes room enough for the sockets' own names."""

_SHORT_DIRECTORY: Final = "/tmp"  # noqa: S108
"""mkdtemp makes a private one in it. Not TMPDIR, which may be long."""


def main(arguments: Sequence[str]) -> int:
    options = msgspec.json.decode(arguments[0], type=Options)
    channel = int(arguments[1])
    os.set_inheritable(channel, False)

    def tell(message: dict[str, str]) -> None:
        with contextlib.suppress(OSError):
            os.write(channel, msgspec.json.encode(message) + b"\n")

    try:
        _keep(options, channel, tell)
    except BentoError as error:
        tell(wire_error(error))
        return error.exit_status
    return 0


def _keep(options: Options, channel: int, tell: Tell) -> None:
    """Start the supervisor, wait for its end, clean up."""
    directory = Path(options.directory)
    if instance.acquire(directory) is None:
        raise NetworkDown(f"a network is up in {directory} already", hint="`bento net down` ends it")
    if left := instance.recorded(directory):
        instance.clean(left)
    run = _make_run_directory()
    groups = tuple(cgroups.make(run.name)) if namespace.is_root() else ()
    left = Instance(str(directory), str(run), tuple(map(str, groups)), os.getpid(), 0)
    try:
        instance.record(left)
        namespace.enter_pid_namespace()
        lifeline, other_end = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(other_end)
            _be_supervisor(
                options, left, plan(directory, run, options.boxes, options.latency_ms), channel, lifeline, tell
            )
        os.close(lifeline)
        cgroups.join(groups, "net", pid)
        left = msgspec.structs.replace(left, supervisor_pid=pid)
        instance.record(left)
        os.write(other_end, b"1")
        _wait(pid)
    finally:
        instance.clean(left)


def _be_supervisor(options: Options, left: Instance, layout: Layout, channel: int, lifeline: int, tell: Tell) -> None:
    """The child, pid 1 of its namespace: never returns."""
    status = 1
    try:
        os.read(lifeline, 1)
        groups = tuple(Path(group) for group in left.cgroups)
        lifelines = (lifeline,) if options.is_detached else (lifeline, channel)
        try:
            supervise(layout, groups, lifelines, tell)
            status = 0
        except* BentoError as errors:
            error = errors.exceptions[0]
            assert isinstance(error, BentoError)
            tell(wire_error(error))
        except* Exception:  # noqa: BLE001
            traceback.print_exc()
        if not select.select([lifeline], [], [], 0)[0]:
            return
        # The janitor is gone: its work is ours.
        cgroups.leave(groups)
        instance.clean(left)
    finally:
        os._exit(status)


def _make_run_directory() -> Path:
    """A short private directory for sockets; boxes of root's run as other users, and must pass through it."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    is_fit = not namespace.is_root() and 0 < len(runtime) <= _MAX_RUNTIME_DIRECTORY_BYTES and Path(runtime).is_dir()
    run = Path(tempfile.mkdtemp(prefix="bento-", dir=runtime if is_fit else _SHORT_DIRECTORY))
    run.chmod(0o711 if namespace.is_root() else 0o700)
    return run


def _wait(pid: int) -> None:
    """Wait for the supervisor's end; SIGTERM asks for it."""

    def end(*_: object) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    os.waitpid(pid, 0)
