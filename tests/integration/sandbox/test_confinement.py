"""What a function finds, and what it can't do: each attempt has a positive control, so that blocked is not broken."""

import fcntl
import json
import os
from collections.abc import Callable
from typing import Any

import pytest

FACTS = """
import ctypes, os, resource, socket, sys, threading
libc = ctypes.CDLL(None)
def capabilities():
    header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    return libc.capget(header, data), list(data)
def readable(path):
    try:
        return bool(os.stat(path))
    except OSError:
        return False
def limit(name):
    return resource.getrlimit(getattr(resource, "RLIMIT_" + name))
def is_open(number):
    try:
        os.fstat(number)
    except OSError:
        return False
    return True
answer = {
    "pid": os.getpid(),
    "uids": os.getresuid(), "gids": os.getresgid(), "groups": os.getgroups(),
    "capabilities": capabilities()[1],
    "cwd": os.getcwd(), "files": os.listdir("."), "root": sorted(os.listdir("/")), "dev": sorted(os.listdir("/dev")),
    "proc": readable("/proc"), "home": readable("/home"), "passwd": readable("/etc/passwd"),
    "environ": sorted(os.environ), "host": os.uname().nodename,
    "descriptors": [n for n in range(1024) if is_open(n)],
    "connection": connection.fileno(), "control": control.fileno(),
    "core": limit("CORE"), "memlock": limit("MEMLOCK"),
    "threads": threading.active_count(), "begin": begin.decode(),
    "path": sys.path, "prefix": sys.prefix, "executable": sys.executable, "argv": sys.argv,
    "stdin": os.path.samestat(os.fstat(0), os.stat("/dev/null")),
}
"""


@pytest.fixture
def facts(with_sandbox: Callable[..., Any]) -> dict[str, Any]:
    async def scenario(sandbox: Any) -> dict[str, Any]:
        return {**await sandbox.answer(FACTS), "is_root": sandbox.is_root}

    found: dict[str, Any] = with_sandbox(scenario)
    return found


def test_a_function_finds_nothing_of_the_machine(facts: dict[str, Any]) -> None:
    assert facts["root"] == ["bin", "data", "dev", "etc", "lib", "lib64", "tmp", "usr"]
    assert facts["dev"] == ["null", "urandom", "zero"]
    assert not any((facts["proc"], facts["home"], facts["passwd"]))
    assert facts["environ"] == ["HOME", "LANG", "MALLOC_ARENA_MAX", "PATH", "TMPDIR"]
    assert (facts["host"], facts["cwd"], facts["files"]) == ("bento", "/data", [])
    assert (facts["prefix"], facts["executable"]) == ("/usr", "/usr/bin/python3")
    assert all(path.startswith("/usr/lib/") for path in facts["path"])


def test_a_function_has_no_privilege(facts: dict[str, Any]) -> None:
    assert facts["pid"] == 1
    uid = facts["uids"][0]
    assert facts["uids"] == facts["gids"] == [uid] * 3
    assert uid >= 2_000_000_000 if facts["is_root"] else uid == 1000
    # In a user namespace the box's own groups can't be dropped; they show as nobody's, and none is mapped.
    assert set(facts["groups"]) <= (set() if facts["is_root"] else {1000, 65534})
    assert facts["capabilities"] == [0] * 6
    assert facts["core"] == facts["memlock"] == [0, 0]


def test_the_kernel_agrees(with_sandbox: Callable[..., Any]) -> None:
    async def scenario(sandbox: Any) -> Any:
        guest = await sandbox.start("connection.send(b'.')\nconnection.recv(1)")
        await guest.read_some()
        found = await sandbox.settled(instances=1)
        guest.close()
        return found

    statuses = with_sandbox(scenario)
    confined = [status for status in statuses if status["Seccomp"] == "2"]
    assert len(statuses) - len(confined) == 1  # the zygote
    for status in confined:
        assert status["NoNewPrivs"] == "1"
        assert {int(status[f"Cap{name}"], 16) for name in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {0}
        assert status["NSpid"].split()[-1] == "1"


def test_a_function_inherits_nothing_but_its_sockets(facts: dict[str, Any]) -> None:
    assert set(facts["descriptors"]) == {0, 1, 2, 3, facts["connection"]}
    assert (facts["control"], facts["stdin"], facts["threads"], facts["begin"]) == (3, True, 1, "begin")


REFUSED = {
    "a socket": "import socket; socket.socket()",
    "a netlink socket": "import socket; socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
    "a datagram pair": "import socket; socket.socketpair(type=socket.SOCK_DGRAM)",
    "a packet pair": "import socket; socket.socketpair(type=socket.SOCK_SEQPACKET)",
    "a fork": "import os; os.fork()",
    "a program": "import os; os.execv('/usr/bin/python3', ['python3'])",
    "a bound device": "connection.setsockopt(1, 25, b'lo')",
    "a buffer size": "connection.setsockopt(1, 7, 1 << 20)",
    "the peer's pidfd": "connection.getsockopt(1, 77, 4)",
    "the peer's identity": "connection.getsockopt(1, 17, 12)",
    "connecting again": "connection.connect('/data/x')",
    "a packet by address": "import socket; connection.sendto(b'x', '/data/x')",
    "fast open": "connection.send(b'x', 0x20000000)",
    "a name": "connection.bind('/data/x')",
    "listening": "connection.listen()",
    "another user": "import os; os.setuid(0)",
    "a session": "import os; os.setsid()",
    "a higher limit": "import resource; resource.prlimit(0, resource.RLIMIT_NOFILE, (9, 9))",
    "a signal for all": "import os; os.kill(-1, 9)",
    "a terminal's input": "import fcntl; fcntl.ioctl(0, 0x5412, b'x')",
    "a lock on the machine's files": "import fcntl; fcntl.flock(open('/usr/bin/python3'), fcntl.LOCK_EX)",
    "a lock of an open file": "import fcntl; fcntl.fcntl(open('/data/x', 'w'), 37, bytes(32))",
    "urgent data": "import socket; connection.send(b'x', socket.MSG_OOB)",
    "urgent data in a message": "import socket; connection.sendmsg([b'x'], [], socket.MSG_OOB)",
    "reading urgent data": "import socket; connection.recv(1, socket.MSG_OOB)",
    "reading an urgent message": "import socket; connection.recvmsg(1, 0, socket.MSG_OOB)",
    "sending without a copy": "connection.send(b'x', 0x4000000)",
    "a signal for data": "import fcntl; fcntl.fcntl(connection, 10, 9)",
    "a file lease": "import fcntl; fcntl.fcntl(open('/usr/bin/python3'), 1024, 0)",
    "news of a folder": "import fcntl, os; fcntl.fcntl(os.open('/data', 0), 1026, 2)",
    "an owner for signals": "import fcntl; fcntl.fcntl(connection, 8, 1)",
    "an anonymous file": "import os; os.memfd_create('x')",
    "a device file": "import os, stat; os.mknod('/data/x', stat.S_IFCHR | 0o600, os.makedev(1, 1))",
    "a file in the root": "open('/x', 'w')",
    "a changed library": "open('/usr/lib/bento/bento/__init__.py', 'a')",
    "a changed interpreter": "open('/usr/bin/python3', 'r+b')",
    "a folder in /usr": "import os; os.mkdir('/usr/x')",
    "another root": "import os; os.chroot('/data')",
    "a system call of nobody": "ctypes_call(999)",
}


def test_refuses_what_no_function_needs(with_sandbox: Callable[..., Any]) -> None:
    code = f"""
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def ctypes_call(*arguments):
    if libc.syscall(*arguments) < 0:
        raise OSError(ctypes.get_errno(), "")
answer = {{}}
for name, attempt in {REFUSED!r}.items():
    try:
        exec(attempt)
        answer[name] = "done"
    except OSError as error:
        answer[name] = error.errno
"""

    async def scenario(sandbox: Any) -> Any:
        return await sandbox.answer(code)

    refused = {1, 13, 26, 30}  # EPERM, EACCES, ETXTBSY, EROFS
    assert {name: number for name, number in with_sandbox(scenario).items() if number not in refused} == {}


ALLOWED = {
    "threads": "import threading; t = threading.Thread(target=print); t.start(); t.join()",
    "files": "open('/data/a', 'w').write('x'); assert open('/tmp/a').read() == 'x'",
    "temporary files": "import tempfile; tempfile.TemporaryFile().write(b'x')",
    "sqlite": "import sqlite3; sqlite3.connect('/data/db').execute('create table t (x)')",
    "sqlite with a log": (
        "import sqlite3; a, b = (sqlite3.connect('/data/log') for _ in 'ab'); a.execute('pragma journal_mode=wal');"
        "a.execute('create table t (x)'); a.execute('insert into t values (1)'); a.commit();"
        "assert b.execute('select x from t').fetchall() == [(1,)]"
    ),
    "locks": "import fcntl; fcntl.lockf(open('/data/lock', 'w'), fcntl.LOCK_EX)",
    "asyncio": "import asyncio; asyncio.run(asyncio.sleep(0.001))",
    "a stream pair": "import socket; a, b = socket.socketpair(); a.send(b'x'); b.recv(1)",
    "TLS": "import ssl; assert ssl.create_default_context().cert_store_stats()['x509_ca'] > 0",
    "no delay": "connection.setsockopt(1, 9, 1)",
    "time": "import datetime, time; time.sleep(0.001); datetime.datetime.now()",
    "randomness": "import os, secrets; os.urandom(8); secrets.token_bytes(8); open('/dev/urandom', 'rb').read(1)",
    "compression": "import bz2, gzip, lzma, zlib; lzma.compress(b'x', preset=0); bz2.compress(b'x')",
    "numbers": "import decimal, fractions, statistics; decimal.Decimal(1) / 3",
    "own signals": "import os, signal; signal.signal(10, lambda *_: None); os.kill(os.getpid(), 10)",
    "cryptography": "from cryptography.hazmat.primitives.asymmetric import x25519 as x; x.X25519PrivateKey.generate()",
    "msgspec": "import msgspec; msgspec.msgpack.decode(msgspec.msgpack.encode(1))",
    "processor time": "import os, time; os.times(); time.process_time()",
}


def test_lets_ordinary_python_run(with_sandbox: Callable[..., Any]) -> None:
    code = f"""
import traceback
answer = {{}}
for name, attempt in {ALLOWED!r}.items():
    try:
        exec(attempt, globals())
    except BaseException:
        answer[name] = traceback.format_exc()
"""

    async def scenario(sandbox: Any) -> Any:
        return await sandbox.answer(code)

    assert with_sandbox(scenario) == {}


KILLED = {
    "ptrace": "libc.ptrace(0, 0, 0, 0)",
    "mount": "libc.mount(b'none', b'/data', b'tmpfs', 0, None)",
    "unshare": "libc.unshare(0x10000000)",
    "setns": "libc.setns(3, 0)",
    "bpf": "syscall('bpf')",
    "keyctl": "syscall('keyctl')",
    "io_uring": "syscall('io_uring_setup')",
    "the x32 table": "libc.syscall(0x40000000 | 39)",
    "the i386 table": "i386()",
}
NUMBERS = {
    "x86_64": {"bpf": 321, "keyctl": 250, "io_uring_setup": 425},
    "aarch64": {"bpf": 280, "keyctl": 219, "io_uring_setup": 425},
}


def test_kills_what_only_an_attacker_tries(with_sandbox: Callable[..., Any]) -> None:
    code = f"""
import ctypes, mmap, os
libc = ctypes.CDLL(None, use_errno=True)
def syscall(name):
    libc.syscall({json.dumps(NUMBERS)}[os.uname().machine][name], 0, 0, 0)
def i386():
    page = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    page.write(b"\\xb8\\x14\\x00\\x00\\x00\\xcd\\x80\\xc3")  # mov eax, 20 (getpid); int 0x80; ret
    ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()
"""

    async def scenario(sandbox: Any) -> dict[str, Any]:
        ends = {}
        for name, attempt in KILLED.items():
            guest = await sandbox.start(f"{code}\nconnection.send(b'before ')\n{attempt}\nconnection.send(b'after')")
            ends[name] = (await guest.read(), (await sandbox.tombstone(guest)).cause)
            guest.close()
        return ends

    assert with_sandbox(scenario) == dict.fromkeys(KILLED, (b"before ", "crash"))


def test_a_lock_stays_within_the_instance(with_sandbox: Callable[..., Any]) -> None:
    """Its devices and libraries are the machine's own files."""

    async def scenario(sandbox: Any) -> None:
        guest = await sandbox.start(
            "import fcntl\nheld = open('/dev/null', 'w')\nfcntl.lockf(held, fcntl.LOCK_EX)\n"
            "connection.send(b'locked')\nconnection.recv(1)"
        )
        assert await guest.read_some() == b"locked"
        ours = os.open("/dev/null", os.O_RDWR)
        fcntl.lockf(ours, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(ours)
        guest.close()

    with_sandbox(scenario)


def test_two_instances_share_no_file(with_sandbox: Callable[..., Any]) -> None:
    async def scenario(sandbox: Any) -> None:
        first = await sandbox.start("open('/data/secret', 'w').write('x')\nconnection.send(b'.')\nconnection.recv(1)")
        await first.read_some()
        assert await sandbox.answer("import os; answer = os.listdir('/data')") == []
        first.close()

    with_sandbox(scenario)
