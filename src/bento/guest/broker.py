"""What a function can ask its box for, over the control socket: today, a connection."""

import errno
import itertools
import socket
import threading
from collections.abc import Callable

from bento.protocol.broker import Dial, Dialled, Failed, Resolve, Resolved, Unavailable, encode_packet

_ANSWER_WAIT_S = 150
"""Longer than the box takes for a name and a connection at the worst, so that its own error is the one seen."""


Answer = Resolved | Dialled | Failed


class _Waiting:
    def __init__(self) -> None:
        self.answered = threading.Event()
        self.answer: Answer | Unavailable | None = None
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
        failure: OSError | None = None
        for address in self.resolve(host, port):
            try:
                return self._dial(address, port)
            except OSError as error:
                failure = error
        raise failure or socket.gaierror(socket.EAI_NONAME, f"no address for {host}")

    def resolve(self, host: str, port: int) -> tuple[str, ...]:
        """The addresses of a host name that the box may dial; errors as for `dial`."""
        waiting = self._ask(lambda number: Resolve(number, host[:300], port), f"{host}:{port}")
        if isinstance(waiting.answer, Resolved):
            return waiting.answer.addresses
        raise _error(waiting.answer, f"{host}:{port}")

    def _dial(self, address: str, port: int) -> socket.socket:
        waiting = self._ask(lambda number: Dial(number, address, port), f"{address}:{port}")
        if waiting.descriptor >= 0:
            return socket.socket(fileno=waiting.descriptor)
        raise _error(waiting.answer, f"{address}:{port}")

    def _ask(self, request: Callable[[int], Resolve | Dial], target: str) -> _Waiting:
        waiting, number = _Waiting(), next(self._ids)
        with self._lock:
            self._waiting[number] = waiting
        try:
            self._control.send(encode_packet(request(number)))
            waiting.answered.wait(_ANSWER_WAIT_S)
        except BrokenPipeError:  # something here wrote to the socket what no loader does
            raise _error(Unavailable(), target) from None
        finally:
            with self._lock:
                self._waiting.pop(number, None)
        return waiting

    def deliver(self, answer: Answer, descriptor: int | None) -> None:
        """Hand an answer to whoever waits for it; its descriptor is closed if nobody does any more."""
        with self._lock:
            waiting = self._waiting.pop(answer.id, None)
        if waiting is None:
            if descriptor is not None:
                socket.close(descriptor)
            return
        waiting.answer = answer
        if descriptor is not None:
            waiting.descriptor = descriptor
        waiting.answered.set()

    def fail_all(self, answer: Unavailable) -> None:
        """The box's server is gone: whatever was asked has failed."""
        with self._lock:
            waiting, self._waiting = list(self._waiting.values()), {}
        for one in waiting:
            one.answer = answer
            one.answered.set()


def _error(failure: Answer | Unavailable | None, target: str) -> OSError:
    if not isinstance(failure, Failed | Unavailable):
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
