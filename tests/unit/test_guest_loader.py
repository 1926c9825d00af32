"""The loader in this process, over socket pairs: what only a broken client or a tight grant brings about."""

import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from bento.config import MAX_INNER_BYTES
from bento.errors import SourceError
from bento.guest import loader as loader_module
from bento.guest.loader import MAX_SESSIONS, Loader
from bento.protocol.broker import Begin, encode_packet
from bento.protocol.framing import FrameReader, decode_inner_reply, encode_frame
from bento.protocol.messages import Acknowledge, InnerReply, Invoke, Load, Message, Raise, Refused
from bento.tokens import identify

_KEY = bytes(32)
_WAIT_S = 10


@pytest.fixture
def loader(monkeypatch: pytest.MonkeyPatch) -> Iterator[Loader]:
    for name in ("api", "function"):
        monkeypatch.setitem(sys.modules, name, sys)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        yield Loader(theirs)


@contextmanager
def _session(loader: Loader) -> Iterator[socket.socket]:
    ours, theirs = socket.socketpair()
    with ours:
        ours.settimeout(_WAIT_S)
        loader.receive(encode_packet(Begin(b"", 1 << 20)), [theirs.detach()])
        yield ours


def _send(stream: socket.socket, *messages: Message) -> None:
    stream.sendall(b"".join(encode_frame(message) for message in messages))


def _read_all(stream: socket.socket) -> list[InnerReply]:
    """All that comes, to the end of the stream: which must come."""
    data = b"".join(iter(lambda: stream.recv(65536), b""))
    return [decode_inner_reply(payload) for payload in FrameReader(MAX_INNER_BYTES).feed(data)]


def _answers(loader: Loader, source: bytes) -> list[InnerReply]:
    with _session(loader) as stream:
        _send(stream, Load(source, identify(_KEY)), Invoke(_KEY, bytes(16), "f"))
        stream.shutdown(socket.SHUT_WR)
        return _read_all(stream)


def test_a_thread_that_can_not_start_takes_no_sessions_place(loader: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(loader_module, "start_thread", refuse)
        for _ in range(MAX_SESSIONS + 1):
            with _session(loader) as stream:
                assert stream.recv(1) == b""
    with _session(loader) as stream:
        _send(stream, Load(b"def f(): pass", identify(_KEY)))
        assert b"loaded" in stream.recv(100)


def test_a_client_that_is_gone_ends_no_loader(loader: Loader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader_module, "MAX_SESSIONS", 0)
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname())
        theirs, _ = server.accept()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()
        time.sleep(0.01)
        loader.receive(encode_packet(Begin(b"", 1 << 20)), [theirs.detach()])


def test_a_client_that_acknowledges_the_future_is_told(loader: Loader) -> None:
    source = b"def f():\n    while not api.poll(0.01): pass\n    api.send(b'x' * 9)\n    api.recv()\n"
    with _session(loader) as stream:
        _send(stream, Load(source, identify(_KEY)), Invoke(_KEY, bytes(16), "f"), Acknowledge(5))
        (*_, last) = _read_all(stream)
    assert isinstance(last, Refused)
    assert last.code == "protocol"


@pytest.mark.parametrize(
    ("source", "kind", "text"),
    [
        (b"def f(x=type('R', (), {'__repr__': lambda s: 1 // 0})(), *, y): pass", "ZeroDivisionError", "division"),
        (
            b"def f(): pass\nf.__signature__ = 5\nf.__defaults__ = (1,)\nf.__code__ = (lambda x, y: 0).__code__",
            "TypeError",
            "",
        ),
        (b"raise ValueError('\\udce9')", "ValueError", "?"),
    ],
)
def test_what_a_source_does_to_its_own_functions_is_answered(
    loader: Loader, source: bytes, kind: str, text: str
) -> None:
    (*_, last) = _answers(loader, source)
    assert isinstance(last, Raise)
    assert last.type == kind
    assert text in last.message


def test_the_names_of_a_thousand_entries_still_fit_an_answer(loader: Loader) -> None:
    source = b"".join(b"def some_name_%d(): pass\n" % number for number in range(1000))
    (*_, last) = _answers(loader, source + b"globals()['\\ud800'] = some_name_0")
    assert isinstance(last, Refused)
    assert last.code == SourceError.code
    assert "no entry 'f'" in last.message
