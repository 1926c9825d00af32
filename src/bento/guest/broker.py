"""What a function can ask its box for, over the control socket: today, a connection."""

import errno
import itertools
import socket
import threading

from bento.protocol.broker import Dial, DialFailed, Dialled, Unavailable, encode_packet

_ANSWER_WAIT_S = 150
"""Longer than the box takes for a name and a connection at the worst, so that its own error is the one seen."""


class _Waiting:
    def __init__(self) -> None:
        self.answered = threading.Event()
        self.failure: DialFailed | Unavailable | None = None
        self.descriptor = -1


class Broker:
    """Asks; the loader's main thread delivers the answers."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._ids = itertools.count()
        self._lock = threading.Lock()
        self._waiting: dict[int, _Waiting] = {}

    def dial(self, host: str, port: int) -> socket.socket:
        """A connected TCP socket.

        Raises:
            PermissionError: the grant or the relay's policy forbids it; the message names the rule.
            ConnectionRefusedError, TimeoutError, socket.gaierror, OSError: as any dial does.
            ConnectionError: the box's server is gone, or takes no more requests from this instance.
        """
        waiting, number = _Waiting(), next(self._ids)
        with self._lock:
            self._waiting[number] = waiting
        try:
            self._ask(Dial(number, host[:300], port))
            waiting.answered.wait(_ANSWER_WAIT_S)
        finally:
            with self._lock:
                self._waiting.pop(number, None)
        if waiting.descriptor >= 0:
            return socket.socket(fileno=waiting.descriptor)
        raise _error(waiting.failure, f"{host}:{port}")

    def _ask(self, dial: Dial) -> None:
        packet = encode_packet(dial)
        try:
            self._control.send(packet)
        except BrokenPipeError:  # something here wrote to the socket what no loader does
            raise _error(Unavailable(), f"{dial.host}:{dial.port}") from None

    def deliver(self, answer: Dialled | DialFailed, descriptor: int | None) -> None:
        """Hand an answer to whoever waits for it; its descriptor is closed if nobody does any more."""
        with self._lock:
            waiting = self._waiting.pop(answer.id, None)
        if waiting is None:
            if descriptor is not None:
                socket.close(descriptor)
            return
        if isinstance(answer, DialFailed):
            waiting.failure = answer
        elif descriptor is not None:
            waiting.descriptor = descriptor
        waiting.answered.set()

    def fail_all(self, answer: Unavailable) -> None:
        """The box's server is gone: whatever was asked has failed."""
        with self._lock:
            waiting, self._waiting = list(self._waiting.values()), {}
        for one in waiting:
            one.failure = answer
            one.answered.set()


def _error(failure: DialFailed | Unavailable | None, target: str) -> OSError:
    if failure is None:
        return TimeoutError(errno.ETIMEDOUT, f"the box did not answer about {target}")
    if isinstance(failure, Unavailable):
        return ConnectionError(
            f"the box can't dial {target}: its server is not running, or serves this instance no more"
        )
    text = failure.message
    match failure.error:
        case "denied":
            return PermissionError(errno.EACCES, text)
        case "refused":
            return ConnectionRefusedError(errno.ECONNREFUSED, text)
        case "timeout":
            return TimeoutError(errno.ETIMEDOUT, text)
        case "name":
            return socket.gaierror(socket.EAI_NONAME, text)
        case "busy":
            return ConnectionError(errno.EAGAIN, text)
        case _:
            return OSError(errno.EHOSTUNREACH, text)
