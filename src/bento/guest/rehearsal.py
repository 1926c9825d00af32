"""One call from end to end, before there is an instance: what it touches, all instances of a zygote then share.

The interpreter rewrites code as it first runs. Done once here, it costs no instance its own copy of those pages: a
third of its memory, and half a millisecond of its first call.
"""

import _thread
import socket
import sys
import time

from bento.guest.loader import Loader
from bento.protocol.broker import Begin, encode_packet
from bento.protocol.framing import encode_frame
from bento.protocol.messages import Acknowledge, Invoke, Load
from bento.tokens import identify

_TIMES = 20
"""CPython 3.11 settles a piece of code after 8 runs; with 20 nothing more was gained."""

_SOURCE = b"def hello(name):\n    api.send('hello ' + name)\n"
_END_S = 10


def rehearse() -> None:
    """Load and call a function a few times, and leave no trace but warmth.

    Raises: RuntimeError if a thread is left, since no process should fork beside one.
    """
    for _ in range(_TIMES):
        _call_once()
    sys.modules.pop("function", None)
    end_s = time.monotonic() + _END_S
    while _thread._count() > 0:
        if time.monotonic() > end_s:
            raise RuntimeError("a thread of the rehearsal did not end")
        time.sleep(0.001)


def _call_once() -> None:
    key = bytes(32)
    control, box = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours, theirs = socket.socketpair()
    with control, box, ours:
        begin = encode_packet(Begin(b"", 1 << 20))
        Loader(control).receive(begin, [theirs.detach()])
        ours.sendall(encode_frame(Load(_SOURCE, identify(key))))
        ours.sendall(encode_frame(Invoke(key, bytes(16), "hello", ("world",))))
        ours.sendall(encode_frame(Acknowledge(0)))
        while (data := ours.recv(65536)) and b"return" not in data:
            pass
        ours.sendall(encode_frame(Acknowledge(11, end=True)))
        while ours.recv(65536):
            pass
