"""One client's stream: a thread that reads it, and while it is attached one that writes."""

import _thread
import contextlib
import os
import socket
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from bento.config import EXIT_OUT_OF_MEMORY
from bento.errors import BentoError, NoSuchInstance
from bento.guest.invocation import Invocation, clean, raised
from bento.protocol.framing import encode_frame
from bento.protocol.inner import LoaderSide
from bento.protocol.messages import (
    Acknowledge,
    InnerRequest,
    Input,
    Invoke,
    Load,
    Loaded,
    Message,
    Output,
    Raise,
    Refused,
    Resume,
    Resumed,
)

if TYPE_CHECKING:
    from bento.guest.loader import Loader

_READ_BYTES = 64 * 1024


class Session:
    """A stream until it closes. `may_load` is true for the stream of the client that spawned."""

    def __init__(self, stream: socket.socket, loader: "Loader", may_load: bool) -> None:
        self._stream = stream
        self._loader = loader
        self._may_load = may_load
        self._writing = threading.Lock()
        self._held = b""
        self._invocation: Invocation | None = None

    def run(self, answer: bytes) -> None:
        """Send the box's answer, then read to the end of the stream. Errors are answered; nothing is raised."""
        try:
            # The kernel holds it for what comes next, and for no longer than 200 ms.
            self._stream.sendall(answer, socket.MSG_MORE)
            side = LoaderSide()
            while data := self._stream.recv(_READ_BYTES):
                for message in side.receive(data):
                    self._handle(message)
                self._send_held()
        except BentoError as error:
            self._end_with(_refused(error))
        except RuntimeError as error:  # no thread, or no place for an invocation
            self._end_with(Raise(0, "RuntimeError", clean(str(error)), rule="threads"))
        except OSError:
            pass  # the circuit broke: the client comes again
        except MemoryError:
            os._exit(EXIT_OUT_OF_MEMORY)
        except Exception as error:  # noqa: BLE001 - to bind arguments runs what the source made of its functions
            self._end_with(raised(error)(0))
        finally:
            if self._invocation is not None:
                self._invocation.leave(self)
            self._close()

    def _handle(self, message: InnerRequest) -> None:
        match message:
            case Load():
                answer = self._loader.load(message, self._may_load)
                self._hold(answer) if isinstance(answer, Loaded) else self._end_with(answer)
            case Invoke():
                self._attach(self._loader.invoke(message), message.attachment, 0)
            case Resume():
                found = self._loader.find(message)
                if found is None:
                    raise NoSuchInstance("no such invocation: it is over, or never was", hint="invoke again")
                self._attach(found, message.attachment, message.received)
            case Input() | Acknowledge() if self._invocation is not None:
                self._invocation.accept(self, message)
                if self._invocation.is_done:
                    self._shutdown()
            case _:
                pass

    def _attach(self, invocation: Invocation, attachment: bytes, received: int) -> None:
        position = invocation.attach(self, attachment, received, self._shutdown)
        self._invocation = invocation
        self._hold(Resumed(position))
        start_thread(lambda: self._write(invocation, received))

    def _write(self, invocation: Invocation, sent: int) -> None:
        try:
            while message := invocation.next_message(self, sent):
                self._send(message)
                if isinstance(message, Output):
                    sent += len(message.data)
                elif isinstance(message, bytes):
                    invocation.wait_until_over(self)
        except BentoError as error:
            with contextlib.suppress(OSError):
                self._send(_refused(error))
        except OSError:
            pass
        except MemoryError:
            os._exit(EXIT_OUT_OF_MEMORY)
        finally:
            invocation.leave(self)
            self._shutdown()

    def _send(self, message: Message | bytes) -> None:
        frame = message if isinstance(message, bytes) else encode_frame(message)
        with self._writing:
            held, self._held = self._held, b""
            self._stream.sendall(held + frame)

    def _hold(self, message: Message) -> None:
        """Send it with what comes next, which is often the first output: each piece on its own wakes the relay."""
        with self._writing:
            self._held += encode_frame(message)

    def _send_held(self) -> None:
        if self._held:
            self._send(b"")

    def _end_with(self, message: Message) -> None:
        try:
            self._send(message)
            self._stream.shutdown(socket.SHUT_WR)
            # What is unread would turn the close into a reset, and that would overtake the answer.
            self._stream.settimeout(_LINGER_S)
            while self._stream.recv(_READ_BYTES):
                pass
        except OSError:
            pass

    def _shutdown(self) -> None:
        """End both directions: the box holds a duplicate, so closing alone would not."""
        with contextlib.suppress(OSError):
            self._stream.shutdown(socket.SHUT_RDWR)

    def _close(self) -> None:
        self._shutdown()
        self._stream.close()


def _refused(error: BentoError) -> Refused:
    return Refused(error.code, clean(error.message), clean(error.hint))


_LINGER_S = 10
"""Enough for a flight that is still in the circuit; a client that goes on talking is cut."""

SESSION_STACK_BYTES = 256 * 1024
"""These threads only move bytes."""


def start_thread(target: Callable[[], None], stack_bytes: int = SESSION_STACK_BYTES) -> None:
    """Start a thread with its own size of stack; RuntimeError where the grant allows no further one.

    Not a `threading.Thread`: that costs each instance 200 KiB of pages that it else shares with its zygote.
    """
    with _starting:
        threading.stack_size(stack_bytes)
        _thread.start_new_thread(target, ())


_starting = threading.Lock()
