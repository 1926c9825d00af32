"""The Linux system calls that Python has no name for, thin and typed.

Each raises OSError with the call's name. Numbers from 424 on are the same on every architecture.
"""

import ctypes
import errno
import os
import struct
from typing import Final

NEW_NS: Final = 0x00020000
NEW_UTS: Final = 0x04000000
NEW_IPC: Final = 0x08000000
NEW_USER: Final = 0x10000000
NEW_PID: Final = 0x20000000
NEW_NET: Final = 0x40000000

MS_RDONLY: Final = 0x1
MS_NOSUID: Final = 0x2
MS_NODEV: Final = 0x4
MS_NOEXEC: Final = 0x8
MS_REMOUNT: Final = 0x20
MS_BIND: Final = 0x1000
MS_REC: Final = 0x4000
MS_PRIVATE: Final = 0x40000

MOUNT_ATTR_RDONLY: Final = 0x1
MOUNT_ATTR_NOSUID: Final = 0x2
MOUNT_ATTR_NODEV: Final = 0x4
MOUNT_ATTR_NOEXEC: Final = 0x8

PR_SET_DUMPABLE: Final = 4
PR_SET_SECCOMP: Final = 22
PR_CAPBSET_DROP: Final = 24
PR_SET_NO_NEW_PRIVS: Final = 38
PR_CAP_AMBIENT: Final = 47

_MNT_DETACH, _UMOUNT_NOFOLLOW = 2, 8
_AT_FDCWD = -100
_AT_EMPTY_PATH = 0x1000
_AT_RECURSIVE = 0x8000
_OPEN_TREE_CLONE = 1
_MOVE_MOUNT_F_EMPTY_PATH = 0x4
_MOVE_MOUNT_T_EMPTY_PATH = 0x40
_FSOPEN_CLOEXEC = _FSMOUNT_CLOEXEC = _FSPICK_CLOEXEC = 1
_FSPICK_EMPTY_PATH = 8
_FSCONFIG_SET_FLAG, _FSCONFIG_SET_STRING, _FSCONFIG_CMD_CREATE, _FSCONFIG_CMD_RECONFIGURE = 0, 1, 6, 7
_CAPABILITY_VERSION_3 = 0x20080522
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_SECCOMP_MODE_FILTER = 2
_LAST_CAPABILITY = 63

_OPEN_TREE, _MOVE_MOUNT, _FSOPEN, _FSCONFIG, _FSMOUNT, _FSPICK = 428, 429, 430, 431, 432, 433
_CLOSE_RANGE, _MOUNT_SETATTR = 436, 442

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(name: str, result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{name}: {os.strerror(number)}")
    return result


def _call(name: str, number: int, *arguments: int | bytes | None) -> int:
    widened = [ctypes.c_long(each) if isinstance(each, int) else each for each in arguments]
    return _checked(name, _libc.syscall(ctypes.c_long(number), *widened))


def unshare(flags: int) -> None:
    _checked("unshare", _libc.unshare(flags))


def mount(source: str, target: str, kind: str, flags: int, data: str = "") -> None:
    where = (os.fsencode(source), os.fsencode(target))
    _checked("mount", _libc.mount(*where, kind.encode(), ctypes.c_ulong(flags), data.encode()))


def detach_mount(target: str) -> None:
    """Take away what is mounted there last; a symbolic link is not followed."""
    _checked("umount2", _libc.umount2(os.fsencode(target), _MNT_DETACH | _UMOUNT_NOFOLLOW))


def pivot_root(new_root: str, put_old: str) -> None:
    _checked("pivot_root", _libc.pivot_root(os.fsencode(new_root), os.fsencode(put_old)))


def set_host_name(name: str) -> None:
    encoded = name.encode()
    _checked("sethostname", _libc.sethostname(encoded, len(encoded)))
    _checked("setdomainname", _libc.setdomainname(encoded, len(encoded)))


def clone_tree(path: str, attributes: int) -> int:
    """A detached copy of what is mounted at `path`, with MOUNT_ATTR_* added; the descriptor that holds it."""
    tree = _call("open_tree", _OPEN_TREE, _AT_FDCWD, os.fsencode(path), _OPEN_TREE_CLONE | os.O_CLOEXEC | _AT_RECURSIVE)
    wanted = struct.pack("QQQQ", attributes, 0, 0, 0)
    try:
        _call("mount_setattr", _MOUNT_SETATTR, tree, b"", _AT_EMPTY_PATH | _AT_RECURSIVE, wanted, len(wanted))
    except OSError:
        os.close(tree)
        raise
    return tree


def add_attributes(mount_fd: int, attributes: int) -> None:
    """Add MOUNT_ATTR_* to this one mount."""
    wanted = struct.pack("QQQQ", attributes, 0, 0, 0)
    _call("mount_setattr", _MOUNT_SETATTR, mount_fd, b"", _AT_EMPTY_PATH, wanted, len(wanted))


def attach_mount(mount_fd: int, target: str | int) -> None:
    """Put a detached mount on a file or folder: its path, or a descriptor of it."""
    if isinstance(target, int):
        flags = _MOVE_MOUNT_F_EMPTY_PATH | _MOVE_MOUNT_T_EMPTY_PATH
        _call("move_mount", _MOVE_MOUNT, mount_fd, b"", target, b"", flags)
    else:
        _call("move_mount", _MOVE_MOUNT, mount_fd, b"", _AT_FDCWD, os.fsencode(target), _MOVE_MOUNT_F_EMPTY_PATH)


def make_tmpfs(options: dict[str, str], attributes: int) -> int:
    """A tmpfs mounted nowhere yet, with MOUNT_ATTR_*. Returns its mount's descriptor."""
    context = _call("fsopen", _FSOPEN, b"tmpfs", _FSOPEN_CLOEXEC)
    try:
        for key, value in options.items():
            _call("fsconfig", _FSCONFIG, context, _FSCONFIG_SET_STRING, key.encode(), value.encode(), 0)
        _call("fsconfig", _FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0)
        return _call("fsmount", _FSMOUNT, context, _FSMOUNT_CLOEXEC, attributes)
    finally:
        os.close(context)


def reconfigure(mount_fd: int, options: dict[str, str]) -> None:
    """Change the options of the file system that `mount_fd` holds, wherever it is mounted."""
    context = _call("fspick", _FSPICK, mount_fd, b"", _FSPICK_CLOEXEC | _FSPICK_EMPTY_PATH)
    try:
        for key, value in options.items():
            _call("fsconfig", _FSCONFIG, context, _FSCONFIG_SET_STRING, key.encode(), value.encode(), 0)
        _call("fsconfig", _FSCONFIG, context, _FSCONFIG_CMD_RECONFIGURE, None, None, 0)
    finally:
        os.close(context)


def close_from(lowest: int) -> None:
    """Close every descriptor from `lowest` on."""
    _call("close_range", _CLOSE_RANGE, lowest, 0xFFFFFFFF, 0)


def disconnect(descriptor: int) -> None:
    """Break a TCP connection for everyone who holds it: the peer gets a reset, whoever reads or writes it an error."""
    address = bytes(16)  # a sockaddr of AF_UNSPEC
    _checked("connect", _libc.connect(descriptor, address, len(address)))


def prctl(option: int, argument: int, second: int = 0) -> None:
    zero = ctypes.c_ulong(0)
    _checked("prctl", _libc.prctl(option, ctypes.c_ulong(argument), ctypes.c_ulong(second), zero, zero))


def empty_bounding_set() -> None:
    """No program started from here could gain a capability; needs CAP_SETPCAP."""
    for capability in range(_LAST_CAPABILITY + 1):
        try:
            prctl(PR_CAPBSET_DROP, capability)
        except OSError as error:
            if error.errno == errno.EINVAL:
                return  # the first number that this kernel does not know
            raise


def drop_capabilities() -> None:
    """Give up the ambient, permitted, effective and inheritable sets."""
    prctl(PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    header, nothing = struct.pack("Ii", _CAPABILITY_VERSION_3, 0), bytes(24)
    _checked("capset", _libc.capset(header, nothing))


def load_filter(program: bytes) -> None:
    """Put this thread under a seccomp filter: BPF instructions of eight bytes each. There is no way back."""
    instructions = ctypes.create_string_buffer(program, len(program))
    header = struct.pack("HxxxxxxP", len(program) // 8, ctypes.addressof(instructions))
    holder = ctypes.create_string_buffer(header, len(header))
    prctl(PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(holder))
