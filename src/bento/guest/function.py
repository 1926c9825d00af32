"""The uploaded source as a module: run once, its public functions called."""

import asyncio
import inspect
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from types import FunctionType, ModuleType
from typing import Any

import msgspec

from bento.config import MAX_INNER_BYTES, MAX_VALUE_DEPTH
from bento.errors import SourceError
from bento.guest import api

MODULE_NAME = "function"
_SCALARS = (type(None), bool, int, float, str, bytes)


class Function:
    """A loaded function."""

    def __init__(self, source: bytes) -> None:
        """Run the source.

        Raises:
            SourceError: it does not parse.
            anything that the source itself raises.
        """
        try:
            code = compile(source, f"{MODULE_NAME}.py", "exec", dont_inherit=True)
        except (SyntaxError, ValueError, RecursionError) as error:
            line = f"line {error.lineno}: " if isinstance(error, SyntaxError) and error.lineno else ""
            reason = error.msg if isinstance(error, SyntaxError) else str(error)
            raise SourceError(f"the source does not parse: {line}{reason}") from None
        self._module = ModuleType(MODULE_NAME)
        self._module.__dict__["api"] = sys.modules["api"] = api
        sys.modules[MODULE_NAME] = self._module
        exec(code, self._module.__dict__)  # noqa: S102 - what the sandbox is for

    def bind(self, entry: str, args: tuple[Any, ...]) -> Callable[[], Any]:
        """The call of an entry, ready to be made; SourceError if there is no such entry or the arguments do not fit."""
        entries = self._entries()
        if entry not in entries:
            offered = ", ".join(sorted(entries)) or "none"
            raise SourceError(f"no entry {entry!r}; it has: {offered}", hint="call one of its public functions")
        found = entries[entry]
        if not _takes(found, len(args)):
            signature = inspect.signature(found)
            try:
                signature.bind(*args)
            except TypeError as error:
                raise SourceError(f"{entry}{signature}: {error}", hint="fix the arguments") from None
        return lambda: found(*args)

    def _entries(self) -> dict[str, FunctionType]:
        return {
            name: value
            for name, value in vars(self._module).items()
            if inspect.isfunction(value) and value.__module__ == MODULE_NAME and not name.startswith("_")
        }


def _takes(function: FunctionType, count: int) -> bool:
    """Whether so many arguments surely fit. For the plain case; `inspect.signature` judges the others, and costs an
    instance 200 KiB of pages that it else shares with its zygote."""
    code, defaults = function.__code__, function.__defaults__ or ()
    return not code.co_kwonlyargcount and code.co_argcount - len(defaults) <= count <= code.co_argcount


def run(call: Callable[[], Any], send: Callable[[bytes], None]) -> Any:
    """Make a call of any kind (plain, generator, async) to its end; items go to `send` as they come.

    Returns: the returned value, of a kind that can travel.
    Raises: what the function raises; TypeError or ValueError for a value that can't travel.
    """
    value = call()
    if inspect.iscoroutine(value) or isinstance(value, AsyncIterator):
        value = asyncio.run(_run_async(value, send))
    elif isinstance(value, Iterator):
        value = _drain(value, send)
    verify_value(value)
    return value


def _drain(items: Iterator[Any], send: Callable[[bytes], None]) -> Any:
    while True:
        try:
            item = next(items)
        except StopIteration as end:
            return end.value
        send(encode_item(item))


async def _run_async(value: Any, send: Callable[[bytes], None]) -> Any:
    if isinstance(value, AsyncIterator):
        async for item in value:
            await asyncio.to_thread(send, encode_item(item))
        return None
    return await value


def encode_item(item: Any) -> bytes:
    """A streamed item: bytes and str as they are, anything else as one line of JSON."""
    if isinstance(item, bytes | bytearray | memoryview):
        return bytes(item)
    if isinstance(item, str):
        return item.encode()
    return msgspec.json.encode(item) + b"\n"


def verify_value(value: Any, depth: int = 0) -> None:
    """Check that a value can travel.

    Raises:
        TypeError: a type that is not None, bool, int, float, str, bytes, list, tuple or dict with str keys.
        ValueError: too large or nested too deeply.
    """
    if depth > MAX_VALUE_DEPTH:
        raise ValueError(f"a value nested deeper than {MAX_VALUE_DEPTH} can't be returned")
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise TypeError("a dict that is returned has str keys only")
        value = list(value.values())
    if isinstance(value, list | tuple):
        for part in value:
            verify_value(part, depth + 1)
    elif not isinstance(value, _SCALARS):
        raise TypeError(
            f"a {type(value).__name__} can't be returned; return None, bool, numbers, str, bytes, list, dict"
        )
    elif isinstance(value, int) and not -(2**63) <= value < 2**64:
        raise ValueError("an int of more than 64 bits can't be returned; return its str")
    elif isinstance(value, str | bytes) and len(value) > MAX_INNER_BYTES - 1024:
        raise ValueError(
            f"{len(value)} bytes can't be returned, at most {MAX_INNER_BYTES - 1024}; yield or api.send them"
        )
