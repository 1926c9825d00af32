"""Forks children that confine themselves. Runs inside the image as `python3 -I -S -c`, never as pid 1.

OpenSSL notices a fork by the pid alone, and every child is pid 1 of its own namespace: were the zygote pid 1 too, all
children would draw the same "random" bytes.

Nothing secret is ever in this process: children share its memory, its hash seed and its address layout.
"""

import gc
import os
import socket
import threading
from collections.abc import Callable
from importlib import import_module
from typing import Final, NoReturn

from bento.config import EXIT_OUT_OF_MEMORY
from bento.sandbox import messages, syscalls
from bento.sandbox.confine import CONTROL_FD, Outfit, confine

CHANNEL_FD: Final = 3
PROC_FD: Final = 4

_STACK_BYTES = 256 * 1024
"""A thread's stack: a 32nd of the default, and still deeper than Python's own limit of recursion needs."""

_MAX_REASON_CHARS = 300

_REHEARSALS = 20
"""CPython 3.11 settles a piece of code after 8 runs; with 20 nothing more was gained."""

Serve = Callable[[socket.socket], None]
Rehearse = Callable[[int], None]


def main() -> NoReturn:
    """Serve the reaper's channel until it closes."""
    channel = _packet_socket(CHANNEL_FD)
    try:
        prepare, _ = messages.receive(channel, messages.TO_ZYGOTE, wait=True)
        assert isinstance(prepare, messages.Prepare)
        serve, rehearse = _warm_up(prepare)
        messages.send(channel, messages.Ready(), wait=True)
        while True:
            make, descriptors = messages.receive(channel, messages.TO_ZYGOTE, wait=True)
            assert isinstance(make, messages.Make)
            _fork_twice(channel, make, descriptors, prepare.filter, serve, rehearse)
            messages.close_all(descriptors)
    except ConnectionError:
        os._exit(0)  # retired


def _warm_up(prepare: messages.Prepare) -> tuple[Serve, Rehearse]:
    """Import, and call once, what children would else each pay for, in time and in memory of their own."""
    for name in prepare.preload:
        import_module(name)
    serve: Serve = _find(prepare.entry)
    rehearse: Rehearse = _find(prepare.rehearsal) if prepare.rehearsal else lambda times: None
    rehearse(_REHEARSALS)
    threading.stack_size(_STACK_BYTES)
    _draw_randomness()
    gc.collect()
    gc.freeze()  # else the first collection in each child would write to, and so copy, every shared page
    return serve, rehearse


def _find(name: str) -> Callable[..., None]:
    module, _, function = name.partition(":")
    found: Callable[..., None] = getattr(import_module(module), function)
    return found


def _draw_randomness() -> None:
    import random
    import ssl
    import uuid

    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    ssl.RAND_bytes(16)
    ssl.create_default_context()
    random.random()  # noqa: S311
    uuid.uuid4()
    X25519PrivateKey.generate()


def _fork_twice(
    channel: socket.socket,
    make: messages.Make,
    descriptors: list[int],
    filter_program: bytes,
    serve: Serve,
    rehearse: Rehearse,
) -> None:
    """Fork a child into a pid namespace of its own, and orphan it: the reaper, as pid 1, becomes its parent.

    The process between lives for one more fork. It alone sees the child's pid as the reaper does, and reports it
    before it ends, so that the reaper knows every child it may ever have to bury.
    """
    between = os.fork()
    if between:
        os.waitpid(between, 0)
        return
    try:
        syscalls.unshare(syscalls.NEW_PID)
        child = os.fork()
    except OSError as error:
        _report(channel, messages.Stillborn(make.slot, str(error)[:_MAX_REASON_CHARS]))
        os._exit(1)
    if child:
        _report(channel, messages.Born(make.slot, child))
        os._exit(0)
    _become(channel, make, descriptors, filter_program)
    _live(serve, rehearse)


def _report(channel: socket.socket, message: messages.FromZygote) -> None:
    try:
        messages.send(channel, message, wait=True)
    except OSError:
        os._exit(1)


def _become(channel: socket.socket, make: messages.Make, descriptors: list[int], filter_program: bytes) -> None:
    control, storage, *procs = descriptors
    try:
        confine(Outfit(control, storage, tuple(procs), make.uid), filter_program, PROC_FD)
    except BaseException as error:  # noqa: BLE001
        _report(channel, messages.Unconfined(make.slot, f"{type(error).__name__}: {error}"[:_MAX_REASON_CHARS]))
        os._exit(1)
    channel.detach()  # its descriptor is the control socket's now


def _live(serve: Serve, rehearse: Rehearse) -> NoReturn:
    """The rest of the child's life: say that it is confined, then serve. No code of the zygote runs after it."""
    status = 1
    try:
        control = _packet_socket(CONTROL_FD)
        rehearse(1)  # so that the pages that a first call writes are copied by then
        control.send(messages.READY_PACKET)
        serve(control)
        status = 0
    except MemoryError:
        status = EXIT_OUT_OF_MEMORY
    finally:
        os._exit(status)


def _packet_socket(descriptor: int) -> socket.socket:
    return socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, fileno=descriptor)
