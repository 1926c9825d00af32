"""The system calls that are left to a function: an allow-list, made once, loaded by each child as raw BPF.

What is not on it fails with EPERM, so that ordinary libraries meet an ordinary error; what no honest program tries,
and every foreign system-call table (i386, x32), kills. See tests/integration/sandbox for attempts on each.
"""

import errno
import os
import socket
import tempfile
from collections.abc import Iterator
from typing import Final, NamedTuple

from bento.errors import SandboxUnavailable
from bento.sandbox import syscalls

_FILES = """read write readv writev pread64 pwrite64 preadv pwritev lseek close close_range dup dup2 dup3 pipe pipe2
    open openat openat2 creat stat fstat lstat newfstatat statx access faccessat faccessat2 readlink readlinkat
    getdents64 getcwd chdir fchdir mkdir mkdirat rmdir unlink unlinkat rename renameat renameat2 link linkat symlink
    symlinkat truncate ftruncate fallocate fsync fdatasync chmod fchmod fchmodat utimensat umask statfs fstatfs
    copy_file_range sendfile"""
_MEMORY = "mmap munmap mremap mprotect madvise brk msync mincore"
_THREADS = """futex futex_waitv set_robust_list get_robust_list rseq set_tid_address sched_yield sched_getaffinity
    arch_prctl membarrier exit exit_group wait4"""
_SIGNALS = "rt_sigaction rt_sigprocmask rt_sigreturn rt_sigpending rt_sigtimedwait sigaltstack restart_syscall"
_CLOCKS = """clock_gettime clock_getres clock_nanosleep nanosleep gettimeofday time times getrusage timer_create
    timer_settime timer_delete timerfd_create timerfd_settime timerfd_gettime alarm setitimer getitimer"""
_WAITING = """poll ppoll select pselect6 epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait eventfd
    eventfd2"""
_IDENTITY = """getpid getppid gettid getuid geteuid getgid getegid getgroups getresuid getresgid getpgrp getsid uname
    sysinfo getrandom"""
_SOCKETS = "shutdown getsockname getpeername"
ALLOWED: Final = tuple(" ".join((_FILES, _MEMORY, _THREADS, _SIGNALS, _CLOCKS, _WAITING, _IDENTITY, _SOCKETS)).split())

KILLING: Final = tuple(
    """ptrace mount umount2 pivot_root move_mount open_tree fsopen fsmount bpf keyctl add_key request_key
    perf_event_open io_uring_setup userfaultfd process_vm_readv process_vm_writev kexec_load init_module finit_module
    setns unshare open_by_handle_at""".split()
)

_THREAD_FLAGS = 0x00010000 | 0x00000100 | 0x00000800  # CLONE_THREAD, CLONE_VM, CLONE_SIGHAND
_NAMESPACE_FLAGS = 0x7E020000 | 0x00000080  # every CLONE_NEW*
_IOCTLS = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)  # TCGETS TIOCGWINSZ FIONREAD FIONBIO FIONCLEX FIOCLEX
_FCNTLS = (0, 1, 2, 3, 4, 5, 1030, 1032)  # DUPFD *FD *FL GETLK DUPFD_CLOEXEC GETPIPE_SZ
_FCNTL_LOCKS = (6, 7)  # SETLK SETLKW
_PRCTLS = (15, 16, 0x53564D41)  # SET_NAME, GET_NAME, SET_VMA (glibc names its arenas)
_MSG_OOB, _MSG_ZEROCOPY, _MSG_FASTOPEN = 0x1, 0x4000000, 0x20000000
_SEND_FLAGS = _MSG_OOB | _MSG_ZEROCOPY | _MSG_FASTOPEN
_SOCK_TYPE_MASK = 0xF

_IS, _HAS = 4, 7  # libseccomp's SCMP_CMP_EQ and SCMP_CMP_MASKED_EQ

# No buffer sizes (the box counts them in the grant), no device, mark or peer's pidfd; no lingering, which the box's own
# close of its duplicate would have to wait for.
_SET_OPTIONS = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE),
    (socket.SOL_SOCKET, socket.SO_REUSEADDR),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT),
)
_GET_OPTIONS = (
    *_SET_OPTIONS,
    (socket.SOL_SOCKET, socket.SO_ERROR),
    (socket.SOL_SOCKET, socket.SO_TYPE),
    (socket.SOL_SOCKET, socket.SO_DOMAIN),
    (socket.SOL_SOCKET, socket.SO_PROTOCOL),
    (socket.SOL_SOCKET, socket.SO_ACCEPTCONN),
    (socket.SOL_SOCKET, socket.SO_SNDBUF),
    (socket.SOL_SOCKET, socket.SO_RCVBUF),
)


class Where(NamedTuple):
    """A condition on one argument: `_IS` value, or `_HAS` the bits `wanted` under the mask `value`."""

    argument: int
    operator: int
    value: int
    wanted: int = 0


def by_argument() -> Iterator[tuple[str, tuple[Where, ...]]]:
    """System calls that are allowed with some arguments only."""
    # Threads of this process, never another process or a namespace.
    yield "clone", (Where(0, _HAS, _THREAD_FLAGS | _NAMESPACE_FLAGS, _THREAD_FLAGS),)
    # asyncio needs a stream pair; of datagrams one could be sent to an address.
    yield "socketpair", (Where(0, _IS, socket.AF_UNIX), Where(1, _HAS, _SOCK_TYPE_MASK, socket.SOCK_STREAM))
    yield "sendto", (Where(3, _HAS, _SEND_FLAGS, 0), Where(4, _IS, 0))
    yield "sendmsg", (Where(2, _HAS, _SEND_FLAGS, 0),)
    yield "sendmmsg", (Where(3, _HAS, _SEND_FLAGS, 0),)
    for name, argument in (("recvfrom", 3), ("recvmsg", 2), ("recvmmsg", 3)):
        yield name, (Where(argument, _HAS, _MSG_OOB, 0),)
    yield "prlimit64", (Where(2, _IS, 0),)  # reading only
    for name in ("kill", "tgkill"):
        yield name, (Where(0, _IS, 1),)  # it is pid 1 of its namespace
    for name, argument, values in (("ioctl", 1, _IOCTLS), ("fcntl", 1, _FCNTLS), ("prctl", 0, _PRCTLS)):
        for value in values:
            yield name, (Where(argument, _IS, value),)
    for name, options in (("setsockopt", _SET_OPTIONS), ("getsockopt", _GET_OPTIONS)):
        for level, option in options:
            yield name, (Where(1, _IS, level), Where(2, _IS, option))


def pretended() -> Iterator[tuple[str, tuple[Where, ...]]]:
    """System calls that return 0 and do nothing: POSIX locks, which SQLite insists on.

    They exclude other processes only. No other one sees an instance's /data; but on the files and devices of the
    machine that it sees too, a lock would stop the machine's own programs, and each costs kernel memory that no
    cgroup is charged for. flock and OFD locks also hold within a process, where to pretend would be a lie: refused.
    """
    for value in _FCNTL_LOCKS:
        yield "fcntl", (Where(1, _IS, value),)


def build_filter() -> bytes:
    """The filter as BPF instructions for this machine's architecture.

    Raises: SandboxUnavailable if libseccomp can't be used.
    """
    try:
        import pyseccomp
    except (ImportError, OSError, RuntimeError) as error:
        raise SandboxUnavailable(f"libseccomp can't be used: {error}", hint="apt install libseccomp2") from None
    rules = pyseccomp.SyscallFilter(pyseccomp.ERRNO(errno.EPERM))
    rules.set_attr(pyseccomp.Attr.ACT_BADARCH, pyseccomp.KILL_PROCESS)
    rules.set_attr(pyseccomp.Attr.CTL_OPTIMIZE, 2)  # a binary tree: 35-80 ns a call
    named: list[tuple[str, int, tuple[Where, ...]]] = [(name, pyseccomp.ALLOW, ()) for name in ALLOWED]
    named += [(name, pyseccomp.KILL_PROCESS, ()) for name in KILLING]
    named += [(name, pyseccomp.ALLOW, conditions) for name, conditions in by_argument()]
    named += [(name, pyseccomp.ERRNO(0), conditions) for name, conditions in pretended()]
    named += [("clone3", pyseccomp.ERRNO(errno.ENOSYS), ())]  # its flags are in memory; glibc falls back to clone
    for name, action, conditions in named:
        try:
            number = pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name)
        except (OSError, ValueError):
            continue  # aarch64 has no `open`, `poll` and their like; a filter without a name is stricter
        rules.add_rule(action, number, *(pyseccomp.Arg(*condition) for condition in conditions))
    with tempfile.TemporaryFile() as file:
        rules.export_bpf(file)
        file.seek(0)
        return file.read()


def verify_seccomp(program: bytes) -> None:
    """Load the filter in a child process and try what it forbids.

    Raises: SandboxUnavailable if the kernel can't, or does not, enforce it.
    """
    child = os.fork()
    if child == 0:
        os._exit(_probe(program))
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status != _PROBE_ENFORCED:
        raise SandboxUnavailable(
            f"seccomp filters don't work on this machine (probe: {status})",
            hint="functions never run without it: use a kernel with CONFIG_SECCOMP_FILTER; allow it in a container",
        )


_PROBE_ENFORCED, _PROBE_REFUSED, _PROBE_IGNORED = 0, 1, 2


def _probe(program: bytes) -> int:
    try:
        syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
        syscalls.load_filter(program)
    except OSError:
        return _PROBE_REFUSED
    try:
        socket.socket().close()
    except PermissionError:
        return _PROBE_ENFORCED
    return _PROBE_IGNORED
