"""What a user remembers of functions that outlive a command: where each is, and its tokens. Nobody is asked.

A record is `functions/NAME/function.json` in the state directory: the tokens' only place, so the folders are 0700 and
the files 0600. It is written whole and then renamed, under a lock of the user's: nobody sees half of one, and no two
functions share a name.
"""

import contextlib
import dataclasses
import re
import shutil
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Annotated, Final

import msgspec
from msgspec import Meta

from bento.client.files import sync_folder, write_whole
from bento.client.lock import locked
from bento.errors import BadToken, ConfigError, NoSuchInstance, UsageError
from bento.protocol.messages import Lease
from bento.tokens import InvocationToken, ShutdownToken

_VERSION: Final = 1
_FILE: Final = "function.json"
_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")

_MAX_FILE_BYTES: Final = 64 * 1024
"""A record has some 500 bytes; more is none of ours."""

_LOCK_LIMIT_S: Final = 10.0
"""A lock is held for a file's write: past this the disk hangs."""


Fingerprint = Annotated[str, Meta(pattern=r"\A[0-9A-F]{40}\Z")]
UnixTime = Annotated[float, Meta(ge=0, le=2**33)]
"""Up to the year 2242: further than any lease, and no date that a calendar can't tell."""


@dataclasses.dataclass(frozen=True)
class Deployed:
    """A function at a box that was deployed or accepted here.

    `box` is a fingerprint; `expires_s` is Unix time, as far as the box has said; `lease_s` is what it was deployed
    with; `is_starting` until the box has confirmed its Spawn.
    """

    name: str
    box: Fingerprint
    invocation_token: InvocationToken
    shutdown_token: ShutdownToken | None = None
    expires_s: UnixTime | None = None
    lease_s: Lease | None = None
    is_starting: bool = False

    @property
    def instance(self) -> str:
        """The instance's id in hex: no secret."""
        return self.invocation_token.instance.hex()

    @property
    def is_own(self) -> bool:
        """Whether it was deployed here, and so can be renewed and stopped."""
        return self.shutdown_token is not None

    @property
    def is_expired(self) -> bool:
        return self.expires_s is not None and time.time() >= self.expires_s


class _Header(msgspec.Struct):
    version: int


class _File(msgspec.Struct):
    version: int
    function: Deployed


class Records:
    """The records in one directory, which is made when first needed."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def folder(self, name: str) -> Path:
        """Where all is that is remembered of a name."""
        return self._directory / name

    def read(self, name: str) -> Deployed:
        """The record of a name.

        Raises: UsageError for what can be no name; NoSuchInstance if there is none; ConfigError for a damaged one.
        """
        verify_name(name)
        path = self._directory / name / _FILE
        try:
            with path.open("rb") as file:
                return dataclasses.replace(_decode(path, file.read(_MAX_FILE_BYTES)), name=name)
        except (FileNotFoundError, NotADirectoryError):
            raise NoSuchInstance(
                f"there is no function {name!r} here", hint="`bento ls` shows those there are"
            ) from None
        except OSError as error:
            raise ConfigError(f"can't read {path}: {error.strerror}") from None

    def read_all(self) -> tuple[list[Deployed], list[ConfigError]]:
        """All records by name, and what is wrong with those that can't be read."""
        found: list[Deployed] = []
        damaged: list[ConfigError] = []
        try:
            names = sorted(path.name for path in self._directory.iterdir() if _NAME.fullmatch(path.name))
        except FileNotFoundError:
            names = []
        except OSError as error:
            raise ConfigError(f"can't read {self._directory}: {error.strerror}") from None
        for name in names:
            try:
                found.append(self.read(name))
            except NoSuchInstance:
                continue  # removed meanwhile
            except ConfigError as error:
                damaged.append(error)
        return found, damaged

    def verify_free(self, name: str) -> None:
        """Check that a function may get this name: nobody has it, or one whose lease is over. UsageError says who."""
        try:
            other = self.read(name)
        except NoSuchInstance:
            return
        if not other.is_expired:
            what = "stop it first" if other.is_own else "use another"
            raise UsageError(f"the name {name!r} is in use", hint=f"{what}; `bento inspect {name}` shows what it is")

    async def add(self, record: Deployed) -> None:
        """Write a new record, in the place of one whose lease is over. UsageError if the name is in use."""
        async with self._locked():
            self.verify_free(record.name)
            fresh = self._directory / ".new"
            _remove(fresh)  # one who was killed here left it
            fresh.mkdir(mode=0o700)
            _write(fresh, record)
            self._move_away(record.name)
            fresh.rename(self._directory / record.name)
            sync_folder(self._directory)

    async def replace(self, record: Deployed) -> None:
        """Write a record anew. NoSuchInstance if it was removed meanwhile, and the name may be another's."""
        async with self._locked():
            if not self._is_there(record):
                raise NoSuchInstance(f"{record.name!r} was stopped meanwhile", hint="deploy it again")
            _write(self._directory / record.name, record)

    async def remove(self, record: Deployed) -> None:
        """Forget a function and all that is in its folder; nothing happens if the name is another's by now."""
        async with self._locked():
            if self._is_there(record):
                self._move_away(record.name)

    def _is_there(self, record: Deployed) -> bool:
        """Whether the name is still this instance's."""
        try:
            return self.read(record.name).invocation_token == record.invocation_token
        except NoSuchInstance:
            return False

    @contextlib.asynccontextmanager
    async def _locked(self) -> AsyncIterator[None]:
        try:
            self._directory.mkdir(mode=0o700, exist_ok=True)
            async with locked(self._directory / ".lock", _LOCK_LIMIT_S):
                yield
        except TimeoutError:
            raise ConfigError(f"{self._directory} was locked for {_LOCK_LIMIT_S:g} s", hint="try again") from None
        except OSError as error:
            raise ConfigError(
                f"can't write in {self._directory}: {error.strerror}", hint="is the disk full, or not yours?"
            ) from None

    def _move_away(self, name: str) -> None:
        """Remove a folder at once for everyone who looks, then what is in it."""
        gone = self._directory / ".gone"
        _remove(gone)
        with contextlib.suppress(FileNotFoundError):
            (self._directory / name).rename(gone)
        sync_folder(self._directory)
        _remove(gone)


def verify_name(name: str) -> None:
    """Check a name that a user gives; UsageError says what one is."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} can't be a function's name", hint="use letters, digits and . _ -, at most 64, no . or - first"
        )


def _decode(path: Path, data: bytes) -> Deployed:
    try:
        version = msgspec.json.decode(data, type=_Header).version
        if version == _VERSION:
            return msgspec.json.decode(data, type=_File).function
    except (msgspec.MsgspecError, BadToken, UnicodeDecodeError):
        raise ConfigError(
            f"the record {path} is damaged", hint="move it away; the function ends with its lease"
        ) from None
    raise ConfigError(
        f"the record {path} is of version {version}, this is {_VERSION}", hint="use the Bento that wrote it"
    )


def _write(folder: Path, record: Deployed) -> None:
    write_whole(folder / _FILE, msgspec.json.encode(_File(_VERSION, record)))


def _remove(folder: Path) -> None:
    """Remove a folder; also what a user may have put in its place, a link or a file."""
    with contextlib.suppress(FileNotFoundError):
        if folder.is_symlink() or not folder.is_dir():
            folder.unlink()
        else:
            shutil.rmtree(folder)
