"""A call from end to end, before there is one.

In the zygote, since the interpreter rewrites code as it first runs: done there, no instance has its own copy of those
pages. And once more in each child while it waits: the pages that a call does write are then copied already, which is
half of what a first call would take.
"""

import _thread
import socket
import sys
import time

from bento.guest import sockets
from bento.guest.loader import Loader
from bento.protocol.broker import Begin, encode_packet
from bento.protocol.framing import encode_frame
from bento.protocol.messages import Acknowledge, Invoke, Load
from bento.tokens import identify

_SOURCE = b"def hello(name):\n    api.send('hello ' + name)\n"
_END_S = 10


def rehearse(times: int) -> None:
    """Load and call a function, and leave no trace but warmth, and the sockets that functions have.

    Raises: RuntimeError if a thread is left, since no process should fork beside one.
    """
    sockets.install()
    for _ in range(times):
        _call_once()
    sys.modules.pop("function", None)
    end_s = time.monotonic() + _END_S
    while _thread._count() > 0:
        if time.monotonic() > end_s:
            raise RuntimeError("a thread of the rehearsal did not end")
        time.sleep(0.001)


def _call_once() -> None:
    key = bytes(32)
    control, box = socket.socketpair()  # not packets, as it really is: a confined child may make no such pair
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
