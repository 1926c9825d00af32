"""What a function can ask its box for, over the control socket: the addresses of a name, and connections.

wait(current().resolve("demo.test", 80))   # ("198.51.100.7",)
wait(current().dial("198.51.100.7", 80))   # a connected socket

Broker                 asks, and hands out answers as futures
wait, wait_in_loop     for an answer: in a thread, in an event loop
use_broker, current    the one broker of this instance
"""

import asyncio
import errno
import itertools
import os
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Literal, NamedTuple, TypeVar

from bento.protocol.broker import (
    MAX_REQUESTS,
    Dial,
    Dialled,
    Failed,
    Resolve,
    Resolved,
    Unavailable,
    encode_packet,
)

_ANSWER_WAIT_S = 150
"""A box gives a name or an address 20 s. So this is for a queue too: of 200 addresses that are all silent."""

_MAX_HOST_CHARS = 300
"""No name has more than 255; one that is cut here is none either, and the box says so."""

Answer = Resolved | Dialled | Failed
Family = Literal["any", "4", "6"]
_T = TypeVar("_T")


class _Request(NamedTuple):
    packet: Resolve | Dial
    target: str
    future: "Future[Any]"
    sent_s: float = 0


class Broker:
    """Asks, from any thread; the loader's main thread delivers the answers.

    No more than MAX_REQUESTS are under way, since the box reads no further: the others wait here, so that to ask never
    blocks. A future that is cancelled keeps its place until its answer has come; a connection that nobody waits for
    any more is closed.
    """

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._ids = itertools.count()
        self._lock = threading.Lock()
        self._queue: deque[_Request] = deque()
        self._underway: dict[int, _Request] = {}

    def resolve(self, host: str, port: int, family: Family = "any") -> "Future[tuple[str, ...]]":
        """The addresses of a host name, in the resolver's order, for a connection to `port`; 0 if that is not known.

        The future raises:
            PermissionError: the grant does not cover the name; the message says so.
            socket.gaierror: it has no address.
            OSError: as any dial does; ConnectionError if the box's server is gone, or serves this instance no more.
        """
        return self._ask(lambda number: Resolve(number, host[:_MAX_HOST_CHARS], port, family), f"{host}:{port}")

    def dial(self, address: str, port: int) -> "Future[socket.socket]":
        """A TCP connection to an IP address, blocking.

        The future raises:
            PermissionError: grant, policy or relay forbids it; the message names the rule.
            ConnectionRefusedError, TimeoutError, OSError: as any dial does; ConnectionError as above.
        """
        return self._ask(lambda number: Dial(number, address, port), f"{address}:{port}")

    def deliver(self, answer: Answer, descriptor: int | None) -> None:
        """Hand an answer to whoever waits for it."""
        # A socket object from here on, so that it is closed wherever it is lost.
        connected = None if descriptor is None else socket.socket(fileno=descriptor)
        with self._lock:
            request = self._underway.pop(answer.id, None)
        if request is not None:
            _settle(request, answer, connected)
        self._send_queued()

    def fail_all(self, answer: Unavailable) -> None:
        """The box's server is gone: whatever was asked has failed."""
        with self._lock:
            failed = [*self._underway.values(), *self._queue]
            self._underway.clear()
            self._queue.clear()
        for request in failed:
            _settle(request, answer, None)

    def _ask(self, make: Callable[[int], Resolve | Dial], target: str) -> "Future[Any]":
        future: Future[Any] = Future()
        request = _Request(make(next(self._ids)), target, future)
        with self._lock:
            self._queue.append(request)
        self._send_queued()
        return future

    def _send_queued(self) -> None:
        unsent = []
        with self._lock:
            self._forget_unanswered()
            while self._queue and len(self._underway) < MAX_REQUESTS:
                request = self._queue.popleft()._replace(sent_s=time.monotonic())
                if request.future.cancelled():
                    continue
                self._underway[request.packet.id] = request
                try:
                    self._control.send(encode_packet(request.packet))
                except OSError:  # something here wrote to the socket what no loader does
                    unsent.append(self._underway.pop(request.packet.id))
        for request in unsent:
            _settle(request, Unavailable(), None)

    def _forget_unanswered(self) -> None:
        """What a server took and died with is never answered, and must not keep its place."""
        if len(self._underway) >= MAX_REQUESTS:
            limit_s = time.monotonic() - _ANSWER_WAIT_S
            self._underway = {number: one for number, one in self._underway.items() if one.sent_s > limit_s}


def _settle(request: _Request, answer: Answer | Unavailable, connected: socket.socket | None) -> None:
    if not request.future.set_running_or_notify_cancel():
        return
    if connected is not None:
        request.future.set_result(connected)
    elif isinstance(answer, Resolved):
        request.future.set_result(answer.addresses)
    else:
        request.future.set_exception(_error(answer, request.target))


def _error(failure: Dialled | Failed | Unavailable, target: str) -> OSError:
    if isinstance(failure, Unavailable):
        return ConnectionError(
            f"the box can't dial {target}: its server is not running, or serves this instance no more"
        )
    if isinstance(failure, Dialled):  # the kernel had no number left for the descriptor
        return OSError(errno.EMFILE, os.strerror(errno.EMFILE))
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
            return OSError(errno.ENOBUFS, text)
        case _:
            return OSError(errno.EHOSTUNREACH, text)


def wait(answer: "Future[_T]", limit_s: float | None = None) -> _T:
    """What was asked for; OSError as the future raises, TimeoutError after `limit_s`."""
    try:
        return answer.result(_ANSWER_WAIT_S if limit_s is None else limit_s)
    except TimeoutError as error:
        if answer.done() and answer.exception() is error:
            raise
        answer.cancel()
        raise TimeoutError("timed out" if limit_s is not None else "the box did not answer") from None


async def wait_in_loop(answer: "Future[_T]") -> _T:
    """What was asked for; the loop goes on meanwhile. OSError as the future raises."""
    async with asyncio.timeout(_ANSWER_WAIT_S):
        return await asyncio.wrap_future(answer)


_brokers: list[Broker] = []


def use_broker(broker: Broker) -> None:
    """Called once by the loader."""
    _brokers[:] = [broker]


def current() -> Broker:
    """The broker of this instance."""
    return _brokers[0]
