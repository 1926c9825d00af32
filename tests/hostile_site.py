"""A web server over plain sockets that says whatever a test wants, on loopback."""

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

Answer = bytes | Callable[[socket.socket], None]
"""Bytes as they go out, or what to do with the connection."""


@dataclass
class Site:
    """`answers` by path; `asked` holds each request's head, in order."""

    port: int
    answers: dict[str, Answer]
    asked: list[str] = field(default_factory=list)

    def url(self, path: str = "/", host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.port}{path}"

    @property
    def paths(self) -> list[str]:
        return [head.split()[1] for head in self.asked]


def ok(body: bytes | str, kind: str = "text/html", *more: str, length: int | None = None) -> bytes:
    """A whole answer. `length`: what it claims, if not the truth."""
    data = body.encode() if isinstance(body, str) else body
    size = len(data) if length is None else length
    lines = ["HTTP/1.1 200 OK", f"Content-Type: {kind}", f"Content-Length: {size}", "Connection: close", *more]
    return "\r\n".join([*lines, "", ""]).encode() + data


def moved(to: str, *more: str) -> bytes:
    lines = ["HTTP/1.1 302 Found", f"Location: {to}", "Content-Length: 0", "Connection: close", *more]
    return "\r\n".join([*lines, "", ""]).encode()


@contextmanager
def serving(answers: dict[str, Answer]) -> Iterator[Site]:
    """The server; what it does not know is 404. All of its connections are cut at the end."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)
    site = Site(listener.getsockname()[1], answers)
    connections: list[socket.socket] = []

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                connections.append(connection)
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

    def serve(connection: socket.socket) -> None:
        with contextlib.suppress(OSError, ValueError), connection:
            head = b""
            while b"\r\n\r\n" not in head:
                if not (data := connection.recv(65536)):
                    return
                head += data
            site.asked.append(head.decode("latin-1"))
            path = head.split()[1].decode("latin-1")
            found = answers.get(path, b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            if isinstance(found, bytes):
                connection.sendall(found)
            else:
                found(connection)

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield site
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
