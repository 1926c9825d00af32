"""The private network that the tests share, and what they ask of it."""

import os
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from bento.testnet import Network

BOXES = 3


@pytest.fixture(scope="session")
def network(need: Callable[..., None], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    """One network with boxes for the whole session. Tests leave it as they found it."""
    need("tor", "namespaces")
    directory = tmp_path_factory.mktemp("network")
    open_to_all(directory)
    with Network(directory, boxes=BOXES) as up:
        yield up


def open_to_all(directory: Path) -> None:
    """Let other users pass through pytest's private directories: boxes of root's drop to other users."""
    base = Path(os.path.commonpath([directory, Path("/tmp")]))
    for path in (directory, *directory.parents):
        if path == base:
            break
        path.chmod(path.stat().st_mode | 0o011)


def dial(socks: str, host: str, port: int, *, user: str = "", timeout_s: float = 30) -> socket.socket:
    """A stream through a tor's unix SOCKS socket; OSError carries SOCKS's reply. Another `user`, another circuit."""
    stream = socket.socket(socket.AF_UNIX)
    stream.settimeout(timeout_s)
    stream.connect(socks)
    if user:
        name = user.encode()
        _exchange(stream, b"\x05\x01\x02", b"\x05\x02")
        _exchange(stream, b"\x01" + bytes([len(name)]) + name + b"\x01x", b"\x01\x00")
    else:
        _exchange(stream, b"\x05\x01\x00", b"\x05\x00")
    name = host.encode()
    stream.sendall(b"\x05\x01\x00\x03" + bytes([len(name)]) + name + struct.pack(">H", port))
    reply = read_exactly(stream, 4)
    read_exactly(stream, 6 if reply[3] == 1 else 18)
    if reply[1]:
        stream.close()
        raise ConnectionRefusedError(reply[1], "SOCKS said no")
    return stream


def _exchange(stream: socket.socket, request: bytes, expected: bytes) -> None:
    stream.sendall(request)
    assert read_exactly(stream, len(expected)) == expected


def read_exactly(stream: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = stream.recv(size - len(data))
        if not piece:
            raise ConnectionResetError(f"{len(data)} of {size} bytes came")
        data += piece
    return data
