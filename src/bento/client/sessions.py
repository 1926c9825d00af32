"""Calls that outlive a command: what a user remembers of each, how one is begun, and how its output is taken up again.

    sessions = Sessions(directory)                          # of one function
    session = await sessions.create("entry", data)          # remembered before a byte of it leaves
    await begin(instance, session, args, data)
    ...                                                     # another command, another day
    async with attach(instance, sessions, session.id) as attachment:
        async for piece in attachment:                      # from byte `attachment.start` on
            ...
        value = await attachment.result()

A record is `functions/NAME/sessions/ID.json` in the state directory. It says how much of the output is safe, and which
attachment is the newest: that one alone may say so, under a lock.
"""

import base64
import contextlib
import os
import re
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Annotated, Any, Final, Self

import msgspec
from msgspec import Meta

from bento.client.files import write_whole
from bento.client.instance import Instance
from bento.client.invocation import Invocation
from bento.client.lock import locked
from bento.client.source import verify_words
from bento.config import INVOCATION_ID_BYTES
from bento.errors import BadToken, ConfigError, NoSuchInstance, Replaced, UsageError
from bento.protocol.inner import INPUT_WINDOW_BYTES, InvocationSide
from bento.protocol.messages import InvocationId, Offset

_ID: Final = re.compile(r"[a-z2-7]{8}")

_ID_BYTES: Final = 5
"""Eight letters of base 32, short enough to type: it names a record, and opens nothing."""

_LOCK_LIMIT_S: Final = 10.0
"""A lock is held for one small file's write: past this the disk hangs."""


class Session(msgspec.Struct, frozen=True):
    """One call. Output before `offset` has safely gone out; `attachment` is the newest's name for the loader."""

    id: str
    entry: str
    invocation: InvocationId
    attachment: InvocationId
    input_bytes: Annotated[int, Meta(ge=0, le=INPUT_WINDOW_BYTES)]
    offset: Offset = 0


class Sessions:
    """The records of one function's sessions, in a directory which is made when first needed."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    @property
    def ids(self) -> list[str]:
        """Those that have not been taken to their end."""
        return sorted(path.stem for path in self._directory.glob("*.json") if _ID.fullmatch(path.stem))

    def verify(self, name: str) -> None:
        """Check that there is a session of that id, before anyone is asked. Raises: as `take_over`."""
        with _told(self._directory):
            self._read(name)

    async def create(self, entry: str, data: bytes) -> Session:
        """Remember a call that is about to begin, with all of its input.

        Raises: UsageError for more input than can be sent ahead of the function.
        """
        if len(data) > INPUT_WINDOW_BYTES:
            raise UsageError(
                f"the input has more than {INPUT_WINDOW_BYTES} bytes, which is all that can be left with a function",
                hint="call it without --detach, or put the data into an argument: @FILE",
            )
        name = base64.b32encode(secrets.token_bytes(_ID_BYTES)).decode().lower()
        session = Session(name, entry, os.urandom(INVOCATION_ID_BYTES), os.urandom(INVOCATION_ID_BYTES), len(data))
        with _told(self._directory):
            self._directory.mkdir(mode=0o700, exist_ok=True)
        async with self._locked():
            self._write(session)
        return session

    async def take_over(self, name: str) -> Session:
        """The session of that id, for a new attachment; from now on the one before can't write to it.

        Raises: NoSuchInstance if there is none; ConfigError for a damaged record.
        """
        async with self._locked():
            session = msgspec.structs.replace(self._read(name), attachment=os.urandom(INVOCATION_ID_BYTES))
            self._write(session)
            return session

    async def save(self, session: Session, offset: int) -> None:
        """Note that output before `offset` is safe. Raises: Replaced if another attachment has taken over."""
        async with self._locked():
            self._verify_newest(session)
            self._write(msgspec.structs.replace(session, offset=offset))

    async def remove(self, session: Session) -> None:
        """Forget a session; nothing happens if it is gone, or another attachment's by now."""
        with contextlib.suppress(NoSuchInstance):
            async with self._locked():
                self._verify_newest(session)
                self._path(session.id).unlink()

    @contextlib.asynccontextmanager
    async def _locked(self) -> AsyncIterator[None]:
        with _told(self._directory):
            try:
                async with locked(self._directory / ".lock", _LOCK_LIMIT_S):
                    yield
            except FileNotFoundError:
                raise NoSuchInstance("there is no such session here: the function has none, or was stopped") from None

    def _verify_newest(self, session: Session) -> None:
        if self._read(session.id).attachment != session.attachment:
            raise Replaced("a newer attachment has taken this one's place")

    def _read(self, name: str) -> Session:
        path = self._path(name)
        try:
            return msgspec.json.decode(path.read_bytes(), type=Session)
        except FileNotFoundError:
            raise NoSuchInstance(
                f"there is no session {name!r} here", hint="its end was shown already, or it never was"
            ) from None
        except (msgspec.MsgspecError, UnicodeDecodeError):
            raise ConfigError(f"the record {path} is damaged", hint="remove it; the call goes on") from None

    def _write(self, session: Session) -> None:
        """Whole, or not at all, should this process be killed. Not synced to the disk with each piece: what a crash of
        the machine takes back here is an offset. The loader has then forgotten what lies before the newer one, and
        says which bytes it keeps."""
        write_whole(self._path(session.id), msgspec.json.encode(session), is_synced=False)

    def _path(self, name: str) -> Path:
        if not _ID.fullmatch(name):
            raise NoSuchInstance(f"{name!r} is no session's id", hint="`bento invoke --detach` prints it: 8 letters")
        return self._directory / f"{name}.json"


async def begin(instance: Instance, session: Session, args: tuple[Any, ...], data: bytes) -> None:
    """Begin a session's call, with all its input; returns once the loader has both.

    Raises: why there is no such call; Unreachable if nobody knows, and the session may have begun.
    """
    verify_words(session.entry, args)
    side = InvocationSide(instance.invocation_token.invoke, session.invocation, session.attachment)
    invocation = Invocation(instance, side, session.entry, args, has_input=True)
    await invocation.send(data)
    await invocation.end_input()
    async with invocation:
        await invocation.arrive()


class Attachment:
    """A session's output from byte `start` on. A piece is noted as safe once the next is asked for."""

    def __init__(self, invocation: Invocation, sessions: Sessions, session: Session) -> None:
        self._invocation = invocation
        self._sessions = sessions
        self._session = session
        self._saved = self.start = session.offset

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        """The next piece, at most 64 KiB. Raises: as `Invocation` does; Replaced."""
        if self._invocation.position != self._saved:
            self._saved = self._invocation.position
            await self._sessions.save(self._session, self._saved)
        return await anext(self._invocation)

    async def result(self) -> Any:
        """The returned value, once all output has been given; or raises what the function did."""
        async for _ in self:
            pass
        return await self._invocation.result()

    @property
    def is_over(self) -> bool:
        """Whether how the call ended has been told: leaving the block with that forgets it, here and at the box."""
        return self._invocation.is_over


@contextlib.asynccontextmanager
async def attach(instance: Instance, sessions: Sessions, name: str) -> AsyncIterator[Attachment]:
    """Take up a session where its last attachment stopped, and replace that if it still goes on.

    Raises: NoSuchInstance if the session or its instance has ended; Replaced; Unreachable.
    """
    session = await sessions.take_over(name)
    side = InvocationSide(
        instance.invocation_token.invoke,
        session.invocation,
        session.attachment,
        received=session.offset,
        sent=session.input_bytes,
    )
    invocation = Invocation(instance, side, None, (), has_input=False)
    try:
        async with invocation:
            yield Attachment(invocation, sessions, session)
    except NoSuchInstance as error:
        if not (instance.is_ended or isinstance(error, BadToken | Replaced)):
            await sessions.remove(session)  # the loader knows no such call (any more)
        raise
    finally:
        # The loader is told first: whoever is killed in between finds the record, and is told that all is over.
        if invocation.is_done:
            await sessions.remove(session)


@contextlib.contextmanager
def _told(directory: Path) -> Iterator[None]:
    try:
        yield
    except TimeoutError:
        raise ConfigError(f"{directory} was locked for {_LOCK_LIMIT_S:g} s", hint="try again") from None
    except OSError as error:
        raise ConfigError(
            f"can't read and write in {directory}: {error.strerror}", hint="is the disk full, or not yours?"
        ) from None
