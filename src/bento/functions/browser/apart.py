"""Rebuild a page in a process of its own, with limits on memory and time: page and box are strangers, and what they
send may have been made to fill the one or take up the other.

The process is started before the page comes, so that nobody waits for it.
"""

import asyncio
import contextlib
import resource
import subprocess
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from typing import Final

import msgspec

from bento.errors import LimitReached, ProtocolError
from bento.functions.browser.packet import MIB, Failure, Problem, unpack
from bento.functions.browser.rebuild import MAX_FILE_BYTES, rebuild

MEMORY_BYTES: Final = 3072 * MIB
"""Address space: the largest page, its parts, its tree, and its text a few times over; a common one takes 100 MB."""

CPU_S: Final = 60
"""A page of 25 MB of pictures takes less than one."""

MAX_CONTENT_BYTES: Final = 2 * MAX_FILE_BYTES
"""Room for an honest page: what is put into it, and its own text where each letter of 8 MiB has to be escaped."""


class Rebuilt(msgspec.Struct, frozen=True):
    """A page as one file; or `problem`, why the box had none; or `fault`, why what it sent is none."""

    url: str = ""
    status: int = 0
    media_type: str = ""
    content: bytes = b""
    resources: int = 0
    failures: tuple[Failure, ...] = ()
    problem: Problem | None = None
    fault: str = ""


@contextlib.asynccontextmanager
async def rebuilder() -> AsyncIterator[Process]:
    """The process, ended with the block."""
    command = [sys.executable, "-m", __name__, str(MEMORY_BYTES), str(CPU_S)]
    process = await asyncio.create_subprocess_exec(
        *command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def rebuild_apart(process: Process, data: bytes, *, scripts: bool) -> Rebuilt:
    """Have `process` rebuild the page of an object. Raises: ProtocolError if it is none; LimitReached."""
    answer, _ = await process.communicate(bytes([scripts]) + data)
    try:
        rebuilt = msgspec.msgpack.decode(answer, type=Rebuilt)
    except msgspec.MsgspecError:
        raise LimitReached(
            "page",
            f"the page took more than {CPU_S} s or {MEMORY_BYTES // MIB} MiB to rebuild",
            hint="it may have been made to; try another box, if you trust the site",
        ) from None
    if rebuilt.fault:
        raise ProtocolError(f"what the box sent is no page: {rebuilt.fault}", hint="try another box with --box")
    return rebuilt


def answer(request: bytes) -> Rebuilt:
    """What the process says to one byte, whether scripts are kept, and the object behind it."""
    try:
        fetched = unpack(request[1:])
    except ValueError as error:
        return Rebuilt(fault=str(error))
    if fetched.problem:
        return Rebuilt(problem=fetched.problem)
    if not fetched.parts:
        return Rebuilt(fault="there is nothing in it")
    media_type, content, dropped = rebuild(fetched, scripts=bool(request[0]))
    if len(content) > MAX_CONTENT_BYTES:
        return Rebuilt(fault=f"the file would have {len(content)} bytes, at most {MAX_CONTENT_BYTES} are taken")
    failures = (*fetched.failures, *dropped)
    return Rebuilt(fetched.parts[0].base, fetched.status, media_type, content, len(fetched.parts) - 1, failures)


def main() -> None:
    """The process's whole life; its arguments are its limits."""
    for kind, limit in zip((resource.RLIMIT_AS, resource.RLIMIT_CPU), map(int, sys.argv[1:]), strict=True):
        resource.setrlimit(kind, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.stdout.buffer.write(msgspec.msgpack.encode(answer(sys.stdin.buffer.read())))


if __name__ == "__main__":
    main()
