"""Between the terminal and an invocation, for `run` and `invoke`: stdin goes in, output comes out as it arrives."""

import asyncio
import json
import os
import select
import signal
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any, Final

from bento.cli import progress
from bento.client import Client, Function, Instance, Invocation
from bento.client.sessions import Attachment
from bento.client.source import Source, read_source
from bento.client.tasks import alongside
from bento.errors import UsageError

TERMINATED: Final = 143
"""As shells count a command that SIGTERM ended."""

_STDIN: Final = 0
_STDOUT: Final = 1
_READ_BYTES: Final = 64 * 1024

_WRITE_BYTES: Final = select.PIPE_BUF
"""A pipe that is ready takes as much without blocking."""


def run_function(
    client: Client, file: Path, entry: str | None, args: list[Any], *, box: str | None, timeout_s: int | None
) -> int:
    """Spawn, invoke, stream, end. SIGINT, SIGTERM and a reader of stdout that goes away end the instance, too."""
    source = read_source(file)
    entry = entry or source.default_entry
    source.verify_call(entry, tuple(args))
    return until_done(_run(client, source, entry, args, box, timeout_s))


def until_done(work: Coroutine[Any, Any, None]) -> int:
    """Do a command's work; SIGINT and SIGTERM cancel it, so that it cleans up. Returns: the exit status."""
    # A shell's background jobs ignore it: whoever sends it all the same means this command.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        asyncio.run(_cancel_at_sigterm(work))
    except asyncio.CancelledError:
        return TERMINATED
    return 0


async def _cancel_at_sigterm(work: Coroutine[Any, Any, None]) -> None:
    task = asyncio.current_task()
    assert task
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    await work


async def _run(
    client: Client, source: Source, entry: str, args: list[Any], box: str | None, timeout_s: int | None
) -> None:
    function = client.spawn(source, box=box, timeout_s=timeout_s)
    try:
        async with client, function:
            await talk(function, entry, args)
    finally:
        _warn_if_left(function)


async def talk(instance: Instance, entry: str, args: list[Any]) -> None:
    """Call an entry, between stdin and stdout."""
    has_input = not os.isatty(_STDIN)
    async with instance.invoke(entry, *args, has_input=has_input) as invocation:
        try:
            async with alongside(_feed(invocation) if has_input else asyncio.sleep(0)):
                await show(invocation)
        except BaseException:
            await invocation.give_up()  # nobody else knows of it: at the box it would fill memory for ever
            raise


async def show(invocation: Invocation | Attachment) -> None:
    """Print the output as it comes, then the returned value. Raises: what the function did; BrokenPipeError."""
    progress.clear()
    async for chunk in invocation:
        await _write(chunk)
    value = await invocation.result()
    if value is not None:
        await _write(encode_value(value))


def encode_value(value: Any) -> bytes:
    """A returned value as printed: bytes raw, anything else one line of JSON.

    >>> encode_value([1, "a"])
    b'[1, "a"]\\n'
    """
    if isinstance(value, bytes):
        return value
    return json.dumps(value, ensure_ascii=False, default=_encode_inner_bytes).encode(errors="surrogatepass") + b"\n"


def _encode_inner_bytes(value: Any) -> str:
    """Bytes inside a list or dict, for which JSON has no form: as text."""
    return bytes(value).decode(errors="backslashreplace")


async def _feed(invocation: Invocation) -> None:
    """Forward stdin to the function as it comes, then its end."""
    async for data in _read_stdin():
        await invocation.send(data)
    await invocation.end_input()


async def read_input(most_bytes: int) -> bytes:
    """All of stdin, unless that is a terminal; of more than `most_bytes`, some more than that."""
    data = bytearray()
    if not os.isatty(_STDIN):
        async for piece in _read_stdin():
            data += piece
            if len(data) > most_bytes:
                break
    return bytes(data)


async def _read_stdin() -> AsyncIterator[bytes]:
    while True:
        await _wait(_STDIN, select.POLLIN)
        try:
            data = os.read(_STDIN, _READ_BYTES)
        except OSError:  # not to be read: there is no input
            return
        if not data:
            return
        yield data


async def _write(data: bytes) -> None:
    """All of it, past Python's buffers; BrokenPipeError if nobody reads any more."""
    view = memoryview(data)
    while view:
        await _wait(_STDOUT, select.POLLOUT)
        try:
            view = view[os.write(_STDOUT, view[:_WRITE_BYTES]) :]
        except BrokenPipeError:
            raise
        except OSError as error:
            raise UsageError(f"can't write the output: {error.strerror}", hint="is the disk full?") from None


async def _wait(descriptor: int, event: int) -> None:
    """Wait until a read or write would not block, without O_NONBLOCK: that flag would be the terminal's, too."""
    poll = select.poll()
    poll.register(descriptor, event)
    if poll.poll(0):
        return
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    is_read = event == select.POLLIN
    add: Callable[..., None] = loop.add_reader if is_read else loop.add_writer
    add(descriptor, ready.set)
    try:
        await ready.wait()
    finally:
        (loop.remove_reader if is_read else loop.remove_writer)(descriptor)


def _warn_if_left(function: Function) -> None:
    if not function.is_ended:
        print("bento: the box did not confirm the function's end; its lease will end it", file=sys.stderr)
