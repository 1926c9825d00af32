"""A client of the wire protocol over plain sockets: what box tests and benches speak without Tor."""

import secrets
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from bento.manifest import parse_manifest
from bento.protocol.framing import encode_frame, pad_flight
from bento.protocol.inner import InvocationSide
from bento.protocol.messages import (
    Acknowledge,
    Connect,
    InnerReply,
    Load,
    Message,
    OuterReply,
    Output,
    Raise,
    Return,
    Shutdown,
    Spawn,
    State,
    Status,
)
from bento.protocol.outer import ClientSide
from bento.tokens import InvocationToken, ShutdownToken, identify

Address = tuple[str, int]
WAIT_S = 30


class StreamEnded(Exception):
    """The stream ended before the outcome."""


@dataclass
class RemoteFunction:
    """A function at a box, by its source."""

    address: Address
    source: bytes
    lease_s: int = 60
    token: InvocationToken = field(default_factory=lambda: InvocationToken(secrets.token_bytes(32)))
    shutdown_token: ShutdownToken = field(default_factory=lambda: ShutdownToken(secrets.token_bytes(32)))

    @property
    def spawn(self) -> Spawn:
        return Spawn(self.token.instance, self.shutdown_token.name, parse_manifest(self.source), self.lease_s)

    @property
    def load(self) -> bytes:
        return encode_frame(Load(self.source, identify(self.token.invoke)))

    def start(self, entry: str, *args: Any) -> "Call":
        """Spawn, load and invoke in one flight."""
        return Call(self, self.spawn, self.load, entry, args)

    def again(self, entry: str, *args: Any, load: bytes = b"", invoke: bytes | None = None) -> "Call":
        """Invoke the running instance; with `load` and `invoke` in the place of what is right."""
        return Call(self, Connect(self.token.route), load, entry, args, invoke)

    def state(self) -> State:
        answer = ask(self.address, Status(self.token.route))
        assert isinstance(answer, State)
        return answer

    def stop(self) -> Message:
        return ask(self.address, Shutdown(self.token.instance, self.shutdown_token.shutdown))


class Call:
    """One invocation, over one stream or several."""

    def __init__(
        self,
        function: RemoteFunction,
        opening: Message,
        load: bytes,
        entry: str,
        args: tuple[Any, ...],
        invoke: bytes | None = None,
    ) -> None:
        self.function = function
        self.side = InvocationSide(invoke or function.token.invoke, secrets.token_bytes(16))
        self.output = b""
        self._open(opening, load + self.side.invoke(entry, args))

    def _open(self, opening: Message, inner: bytes) -> None:
        self.outer = ClientSide()
        self.stream = socket.create_connection(self.function.address, WAIT_S)
        flight = pad_flight(self.outer.send(opening) + inner)
        self.sent_s = time.perf_counter()
        self.stream.sendall(flight)

    def resume(self) -> None:
        """Break off, and come back on a new stream."""
        self.stream.close()
        self.side.begin_session()
        self._open(Connect(self.function.token.route), self.side.resume())

    def send(self, data: bytes) -> None:
        self.stream.sendall(self.side.input(data))

    def events(self) -> Iterator[InnerReply]:
        """What comes, acknowledged as it is taken; StreamEnded if the stream ends before the outcome."""
        while self.side.outcome is None:
            data = self.stream.recv(65536)
            if not data:
                raise StreamEnded
            data = self._past_the_box(data)
            for event in self.side.receive(data):
                if isinstance(event, Output):
                    self.output += event.data
                if not isinstance(event, Acknowledge):
                    yield event
            self.stream.sendall(self._acknowledgement())

    def _acknowledgement(self) -> bytes:
        side = self.side
        return side.acknowledge(side.received) if side.outcome is None else side.acknowledge_end()

    def _past_the_box(self, data: bytes) -> bytes:
        """What of it is the loader's."""
        if self.outer.is_settled:
            return data
        self.outer.receive(data)
        return self.outer.rest

    def read(self, size: int) -> bytes:
        """Output, at least `size` bytes of it in all."""
        for _ in self.events():
            if len(self.output) >= size:
                break
        return self.output

    def outcome(self) -> Return | Raise:
        for _ in self.events():
            pass
        self.stream.close()
        assert self.side.outcome is not None
        return self.side.outcome

    def value(self) -> Any:
        found = self.outcome()
        assert isinstance(found, Return), found
        return found.value


def ask(address: Address, request: Message) -> OuterReply:
    """One question of the outer conversation."""
    side = ClientSide()
    with socket.create_connection(address, WAIT_S) as stream:
        stream.sendall(pad_flight(side.send(request)))
        while True:
            data = stream.recv(65536)
            if not data:
                raise StreamEnded
            for answer in side.receive(data):
                return answer


@contextmanager
def running(function: RemoteFunction) -> Iterator[RemoteFunction]:
    """Stop the function at the end, however it went."""
    try:
        yield function
    finally:
        function.stop()
