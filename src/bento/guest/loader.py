"""The loader: what runs in an instance's process beside the function. `serve` is its whole life.

The box hands over connections on the control socket; each becomes a session with threads of its own, so that an idle
instance is one thread that waits.
"""

import contextlib
import hashlib
import os
import socket
import threading
from collections.abc import Callable
from typing import Any

from bento.config import EXIT_OUT_OF_MEMORY, MAX_CODE_BYTES, MIN_BUFFER_BYTES
from bento.errors import BadToken, SourceError
from bento.guest import api, sockets
from bento.guest.broker import Broker, use_broker
from bento.guest.function import Function, run
from bento.guest.invocation import Invocation, raised, returned
from bento.guest.session import SESSION_STACK_BYTES, Session, start_thread
from bento.protocol.broker import (
    MAX_PACKET_BYTES,
    Attach,
    Begin,
    Dialled,
    Failed,
    Resolved,
    Unavailable,
    decode_from_box,
)
from bento.protocol.messages import Invoke, Load, Loaded, Raise, Resume, Return
from bento.tokens import is_match

MAX_INVOCATIONS = 64
"""Running, or over and not acknowledged: each may hold a whole output buffer."""

MAX_SESSIONS = 64
"""Attached at once: each costs two threads."""

_STACK_BYTES = 4 * 1024 * 1024
"""For threads that compile or run the function: half of what a main thread has. Only touched pages cost memory."""


def serve(control: socket.socket) -> None:
    """Serve the control socket until the box closes it, then end the process."""
    sockets.install()
    loader = Loader(control)
    try:
        while True:
            data, descriptors, _, _ = socket.recv_fds(control, MAX_PACKET_BYTES, 1)
            if not data:
                break
            loader.receive(data, descriptors)
    except MemoryError:
        os._exit(EXIT_OUT_OF_MEMORY)
    except OSError:
        pass
    os._exit(0)


class Loader:
    """The function and its invocations."""

    def __init__(self, control: socket.socket) -> None:
        self._broker = Broker(control)
        use_broker(self._broker)
        self._lock = threading.Lock()
        self._loading = threading.Lock()
        self._buffer_bytes = MIN_BUFFER_BYTES
        self._sessions = 0
        self._source_digest = b""
        self._invoke = b""
        self._function: Function | None = None
        self._load_failure: SourceError | Raise | None = None
        self._invocations: dict[bytes, Invocation] = {}

    def receive(self, data: bytes, descriptors: list[int]) -> None:
        """One packet from the box."""
        packet = decode_from_box(data)
        descriptor = descriptors[0] if descriptors else None
        match packet:
            case Begin() if descriptor is not None:
                self._buffer_bytes = packet.buffer_bytes
                self._start_session(descriptor, packet.answer, True)
            case Attach() if descriptor is not None:
                self._start_session(descriptor, packet.answer, packet.may_load)
            case Resolved() | Dialled() | Failed():
                self._broker.deliver(packet, descriptor)
            case Unavailable():
                self._broker.fail_all(packet)
            case _:
                pass

    def load(self, message: Load, may_load: bool) -> Loaded | Raise:
        """Run the source, once; the same source again changes nothing.

        Returns: Loaded, or a Raise for what the source itself raised.
        Raises: SourceError if it does not parse, or another was loaded; BadToken for who may not load.
        """
        digest = hashlib.sha256(message.invoke + message.code).digest()
        with self._loading:
            if not self._source_digest:
                if not may_load:
                    raise BadToken("only the one who spawned an instance may load it")
                if len(message.code) > MAX_CODE_BYTES:
                    raise SourceError(f"the source has {len(message.code)} bytes, at most {MAX_CODE_BYTES} are taken")
                self._source_digest, self._invoke = digest, message.invoke
                self._load(message.code)
        if digest != self._source_digest:
            raise SourceError("the instance has loaded another source already", hint="spawn another instance")
        if isinstance(self._load_failure, SourceError):
            raise self._load_failure
        return self._load_failure or Loaded(self._buffer_bytes)

    def invoke(self, message: Invoke) -> Invocation:
        """The invocation of that id: started now, or the one that runs.

        Raises: BadToken, SourceError; RuntimeError where too many run.
        """
        self._check(message.invoke)
        with self._lock:
            if message.invocation in self._invocations:
                return self._invocations[message.invocation]
            if self._function is None:
                raise SourceError(
                    "the instance has no function: its source has not run, or failed",
                    hint="if it was deployed just now, try again",
                )
            call = self._function.bind(message.entry, message.args)
            self._forget_done()
            if len(self._invocations) >= MAX_INVOCATIONS:
                raise RuntimeError(f"{MAX_INVOCATIONS} invocations run already")
            invocation = Invocation(self._buffer_bytes)
            start_thread(lambda: _invoke(invocation, call), _STACK_BYTES)
            self._invocations[message.invocation] = invocation
        return invocation

    def find(self, message: Resume) -> Invocation | None:
        """The invocation of that id; None if its end is acknowledged or it never was. BadToken as for `invoke`."""
        self._check(message.invoke)
        with self._lock:
            found = self._invocations.get(message.invocation)
        return None if found is None or found.is_done else found

    def _load(self, code: bytes) -> None:
        try:
            self._function = Function(code)
        except SourceError as error:
            self._load_failure = error
        except BaseException as error:  # noqa: BLE001 - the source may raise anything, SystemExit included
            self._load_failure = raised(error)(0)

    def _check(self, shown: bytes) -> None:
        if not self._invoke:
            raise SourceError("the instance has no function yet", hint="load its source first")
        if not is_match(shown, self._invoke):
            raise BadToken("the invocation token is not this instance's")

    def _forget_done(self) -> None:
        """Drop what nobody will come back for, and of what is finished the oldest while the table is full."""
        for name in [name for name, found in self._invocations.items() if found.is_done and found.is_finished]:
            del self._invocations[name]
        while len(self._invocations) >= MAX_INVOCATIONS:
            finished = next((name for name, found in self._invocations.items() if found.is_finished), None)
            if finished is None:
                return
            del self._invocations[finished]

    def _start_session(self, descriptor: int, answer: bytes, may_load: bool) -> None:
        stream = socket.socket(fileno=descriptor)
        with self._lock:
            self._sessions += 1
            is_full = self._sessions > MAX_SESSIONS
        try:
            if is_full:
                raise RuntimeError("too many sessions")
            stack_bytes = _STACK_BYTES if may_load else SESSION_STACK_BYTES
            start_thread(lambda: self._serve(Session(stream, self, may_load), answer), stack_bytes)
        except RuntimeError:  # also: the grant allows no further thread
            self._end_session()
            with contextlib.suppress(OSError):  # the client may be gone already
                stream.shutdown(socket.SHUT_RDWR)
            stream.close()

    def _serve(self, session: Session, answer: bytes) -> None:
        try:
            session.run(answer)
        except MemoryError:
            os._exit(EXIT_OUT_OF_MEMORY)
        finally:
            self._end_session()

    def _end_session(self) -> None:
        with self._lock:
            self._sessions -= 1


def _invoke(invocation: Invocation, call: Callable[[], Any]) -> None:
    try:
        invocation.finish(_outcome(invocation, call))
    except MemoryError:  # not even for the word that there is none
        os._exit(EXIT_OUT_OF_MEMORY)


def _outcome(invocation: Invocation, call: Callable[[], Any]) -> Callable[[int], Return | Raise]:
    with api.running(invocation):
        try:
            return returned(run(call, invocation.send))
        except BaseException as error:  # noqa: BLE001 - a function may raise anything, SystemExit included
            return raised(error)
