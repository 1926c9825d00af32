"""Python's own sockets, for functions: `socket`, and so `ssl`, `http.client`, `requests`, asyncio, work unmodified.

An instance has no system call that makes or connects a socket. A new socket is therefore a placeholder, one end of a
pair whose other end is closed; `connect` asks the box, and puts the connected descriptor that comes back in the
placeholder's place, under the same number. Nothing here guards anything: seccomp and the box do.

The methods of the class itself are replaced, not the class: `ssl.SSLSocket` and `isinstance` stay right. What is known
of a socket is kept by its inode, since an object may hand its descriptor to another (as `ssl` does).
"""

import errno
import os
import socket
import ssl
import sys
import threading
from _socket import socket as _Kernel  # noqa: N812 (a class; what the interpreter itself has of a socket)
from asyncio.selector_events import BaseSelectorEventLoop
from contextlib import suppress
from typing import Any, Final, NoReturn

from bento.guest import names
from bento.guest.broker import current, wait, wait_in_loop
from bento.guest.names import Lookup, look_up, look_up_in_loop

_TYPE_MASK: Final = 0xF
_DROP_BYTES: Final = 64 * 1024
_FAMILIES: Final = (socket.AF_INET, socket.AF_INET6)
_UNBOUND: Final = {socket.AF_INET: ("0.0.0.0", 0), socket.AF_INET6: ("::", 0, 0, 0)}  # noqa: S104

Options = dict[tuple[int, int], tuple[Any, ...]]
"""The rest of the arguments of `setsockopt`, by level and option."""

_options: dict[int, Options] = {}
"""Of each socket that is not connected, by its placeholder's inode. What is left of a descriptor that was closed behind
an object's back harms nobody: the kernel uses an inode's number once in 4 billion times."""

_holders: dict[int, int] = {}
"""How many socket objects there are of a TCP socket, by inode."""

_lock = threading.RLock()  # the collector may close a socket wherever an object is made


def _init(
    self: socket.socket,
    family: int = -1,
    type: int = -1,  # noqa: A002 (callers name it)
    proto: int = -1,
    fileno: int | None = None,
) -> None:
    if fileno is not None:
        _Kernel.__init__(self, family, type, proto, fileno)
    else:
        family = socket.AF_INET if family == -1 else family
        type = socket.SOCK_STREAM if type == -1 else type  # noqa: A001
        _init_placeholder(self, family, type, max(proto, 0))
    self._io_refs = 0  # type: ignore[attr-defined]
    self._closed = False  # type: ignore[attr-defined]
    if _is_tcp(self):
        with _lock:
            inode = _inode(self)
            _holders[inode] = _holders.get(inode, 0) + 1


def _init_placeholder(sock: socket.socket, family: int, kind: int, proto: int) -> None:
    is_tcp = kind & _TYPE_MASK == socket.SOCK_STREAM and proto in (0, socket.IPPROTO_TCP)
    if family not in _FAMILIES or not is_tcp:
        asked = f"family {int(family)}, type {int(kind & _TYPE_MASK)}, protocol {int(proto)}"
        raise PermissionError(errno.EPERM, f"functions have TCP connections only, no socket of {asked}")
    ours, theirs = socket.socketpair()
    theirs.close()
    os.set_blocking(ours.fileno(), not kind & socket.SOCK_NONBLOCK)
    _Kernel.__init__(sock, family, kind, proto, ours.detach())
    _options[_inode(sock)] = {}


def _inode(sock: socket.socket) -> int:
    return os.fstat(sock.fileno()).st_ino


def _is_tcp(sock: socket.socket) -> bool:
    # Not `sock.family`, which makes an enum of it each time.
    return _Kernel.family.__get__(sock) in _FAMILIES


def _options_of(sock: socket.socket) -> Options | None:
    """What is set on a socket that is not connected; None if it is. OSError if it is closed."""
    return _options.get(_inode(sock)) if _is_tcp(sock) else None


# --- connecting -----------------------------------------------------------------------------------------------------


def _connect(self: socket.socket, address: Any) -> None:
    options = _options_of(self)
    if options is None:
        _refuse_again(self)
    target = look_up(_lookup(self, address))[0][4]
    with wait(current().dial(*target[:2]), self.gettimeout() or None) as dialled:
        _adopt(self, dialled, options)


def _connect_ex(self: socket.socket, address: Any) -> int:
    try:
        _connect(self, address)
    except socket.gaierror:
        raise
    except OSError as error:
        return error.errno or (errno.EAGAIN if isinstance(error, TimeoutError) else errno.ENETDOWN)
    return 0


_sock_connect_of_others = BaseSelectorEventLoop.sock_connect


async def _sock_connect(self: BaseSelectorEventLoop, sock: socket.socket, address: Any) -> None:
    options = _options_of(sock)
    is_wrong = isinstance(sock, ssl.SSLSocket) or (self.get_debug() and sock.gettimeout() != 0)
    if options is None or is_wrong:
        return await _sock_connect_of_others(self, sock, address)
    target = (await look_up_in_loop(_lookup(sock, address)))[0][4]
    with await wait_in_loop(current().dial(*target[:2])) as dialled:
        return _adopt(sock, dialled, options)


def _refuse_again(sock: socket.socket) -> NoReturn:
    number = errno.EISCONN if _is_tcp(sock) else errno.EPERM
    raise OSError(number, os.strerror(number))


def _lookup(sock: socket.socket, address: Any) -> Lookup:
    """The lookup of an address in the forms that `connect` takes; errors as its own."""
    most = 2 if sock.family == socket.AF_INET else 4
    if not isinstance(address, tuple) or not 2 <= len(address) <= most:
        form = "a pair (host, port)" if most == 2 else "a tuple (host, port[, flowinfo[, scopeid]])"
        raise TypeError(f"{sock.family.name} address must be {form}")
    host, port = address[:2]
    if not isinstance(host, str | bytes | bytearray):
        raise TypeError(f"str, bytes or bytearray expected, not {type(host).__name__}")
    if not isinstance(port, int):
        raise TypeError(f"'{type(port).__name__}' object cannot be interpreted as an integer")
    if not 0 <= port <= 65535:
        raise OverflowError("connect(): port must be 0-65535.")
    host = bytes(host) if isinstance(host, bytearray) else host
    anywhere = "0.0.0.0" if most == 2 else "::"  # noqa: S104 (to connect to: the box refuses it by name)
    return Lookup(host or anywhere, port, sock.family, socket.SOCK_STREAM)


def _adopt(sock: socket.socket, dialled: socket.socket, options: Options) -> None:
    """Make `sock` the connection that was dialled. OSError if it was closed or connected meanwhile."""
    with _lock:
        inode = _inode(sock)
        if inode not in _options:
            _refuse_again(sock)
        for (level, option), value in options.items():
            _Kernel.setsockopt(dialled, level, option, *value)
        os.dup2(dialled.fileno(), sock.fileno(), inheritable=False)
        _let_go(inode)
        _holders[_inode(sock)] += 1
    # Blocking or not belongs to the connection, which has come new.
    sock.settimeout(sock.gettimeout())


def _may_not_listen(self: socket.socket, *_: Any) -> None:
    raise PermissionError(errno.EPERM, "functions can't listen, nor bind an address: they open connections only")


# --- before it is connected -----------------------------------------------------------------------------------------


def _setsockopt(self: socket.socket, level: int, option: int, *value: Any) -> None:
    options = _options_of(self)
    try:
        _Kernel.setsockopt(self, level, option, *value)
    except OSError as error:
        # seccomp has refused what it refuses; only this comes from the placeholder, which is no TCP socket.
        if options is None or error.errno != errno.EOPNOTSUPP:
            raise
    if options is not None:
        options[level, option] = value


def _getsockopt(self: socket.socket, level: int, option: int, *size: int) -> int | bytes:
    options = _options_of(self)
    if options is None:
        return _Kernel.getsockopt(self, level, option, *size)
    try:
        found = _Kernel.getsockopt(self, level, option, *size)
    except OSError as error:
        if error.errno != errno.EOPNOTSUPP:
            raise
        value = options.get((level, option), (0,))[0] or 0
        found = value if isinstance(value, int) else int.from_bytes(bytes(value)[:4], sys.byteorder)
    if level == socket.SOL_SOCKET and option in (socket.SO_DOMAIN, socket.SO_PROTOCOL):
        found = int(self.family) if option == socket.SO_DOMAIN else socket.IPPROTO_TCP
    return found.to_bytes(4, sys.byteorder)[: size[0]] if size and isinstance(found, int) else found


def _getsockname(self: socket.socket) -> Any:
    return _Kernel.getsockname(self) if _options_of(self) is None else _UNBOUND[self.family]


def _getpeername(self: socket.socket) -> Any:
    if _options_of(self) is not None:
        raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
    return _Kernel.getpeername(self)


# --- the end --------------------------------------------------------------------------------------------------------


def _real_close(self: socket.socket) -> None:
    """End the connection with its last object: the box holds a duplicate, so to close alone would end nothing."""
    if self.fileno() < 0 or not _is_tcp(self):
        return _Kernel.close(self)
    with _lock:
        with suppress(OSError):  # its descriptor was closed behind its back
            if _let_go(_inode(self)):
                _end(self)
        return _Kernel.close(self)


def _end(sock: socket.socket) -> None:
    """Shut it, and drop what nobody has read: with that it would keep its place among the instance's connections."""
    with suppress(OSError):  # it has ended already
        _Kernel.shutdown(sock, socket.SHUT_RDWR)
    with suppress(OSError):
        while _Kernel.recv(sock, _DROP_BYTES):
            pass


def _let_go(inode: int) -> bool:
    """One object less; whether it was the last of a connection."""
    left = _holders.pop(inode, 1) - 1
    if left > 0:
        _holders[inode] = left
        return False
    return _options.pop(inode, None) is None


def _detach(self: socket.socket) -> int:
    with _lock:
        if self.fileno() >= 0 and _is_tcp(self):
            inode = _inode(self)
            _holders[inode] = _holders.get(inode, 1) - 1
        self._closed = True  # type: ignore[attr-defined]
        return _Kernel.detach(self)


def _del(self: socket.socket) -> None:
    if self.fileno() >= 0:
        _real_close(self)


_METHODS: Final = {
    "__init__": _init,
    "__del__": _del,
    "connect": _connect,
    "connect_ex": _connect_ex,
    "setsockopt": _setsockopt,
    "getsockopt": _getsockopt,
    "getsockname": _getsockname,
    "getpeername": _getpeername,
    "detach": _detach,
    "_real_close": _real_close,
    **dict.fromkeys(("bind", "listen", "accept"), _may_not_listen),
}


def install() -> None:
    """Give this process sockets whose connections the box makes. In a zygote, so that no child pays for it."""
    if socket.socket.connect is _connect:
        return
    for name, method in _METHODS.items():
        setattr(socket.socket, name, method)
    names.install()
    setattr(BaseSelectorEventLoop, _sock_connect.__name__[1:], _sock_connect)
