"""Whom the processes of a box become that was started by root, and the folders they get.

The server's user may be an attacker's one day, once a bug let him in. So root follows no path that this user may have
changed: it makes the two outermost folders, and all below is made by the user itself.
"""

import os
import pwd
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bento.box.settings import Settings
from bento.errors import ConfigError
from bento.sandbox import syscalls

_LAST_ID = 2**32 - 2
_USER_HINT = "create one with: adduser --system --group bento, and set user"


@dataclass(frozen=True)
class Account:
    """A user and its primary group."""

    uid: int
    gid: int


def find_user(settings: Settings) -> Account:
    """What a box started as root gives its server; ConfigError if no user is named, or it is root."""
    if settings.user is None:
        raise ConfigError("a box started as root needs a user to become", hint=_USER_HINT)
    account = _account(settings.user)
    if 0 in (account.uid, account.gid):
        raise ConfigError("the box's user must not be root, nor of root's group", hint=_USER_HINT)
    return account


def account_of(uid: int) -> Account:
    """A uid with its primary group; one that has no name has the group of the same number."""
    try:
        return Account(uid, pwd.getpwuid(uid).pw_gid)
    except KeyError:
        return Account(uid, uid)


def _account(name: str) -> Account:
    if name.isascii() and name.isdigit() and len(name) <= len(str(_LAST_ID)) and int(name) <= _LAST_ID:
        return account_of(int(name))
    try:
        found = pwd.getpwnam(name)
    except KeyError:
        raise ConfigError(f"there is no user {name}", hint=_USER_HINT) from None
    return Account(found.pw_uid, found.pw_gid)


def become(account: Account | None) -> None:
    """Be this user for good, None for the one it is. No program that is started from here has more rights."""
    if account:
        os.setgroups([])
        os.setresgid(account.gid, account.gid, account.gid)
        os.setresuid(account.uid, account.uid, account.uid)
    syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)


def become_owner(path: Path) -> None:
    """As root, be the owner of a file for good. Where that is root, it keeps the uid and no capability: it can read
    what is root's, and nothing that others keep to themselves. A link's owner is the one who made it."""
    uid = path.lstat().st_uid
    if uid:
        become(account_of(uid))
        return
    os.setgroups([])
    syscalls.empty_bounding_set()
    syscalls.drop_capabilities()
    become(None)


@contextmanager
def acting_as(account: Account | None) -> Iterator[None]:
    """As root, have this user's rights to files for the block; None changes nothing."""
    if account is None:
        yield
        return
    own = os.getegid()
    os.setgroups([])
    os.setegid(account.gid)
    os.seteuid(account.uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(own)


def make_folders(settings: Settings, account: Account | None) -> None:
    """Make `state` and `run`, and check that the box's user can use them; ConfigError if not."""
    folders = (Path(settings.state), Path(settings.run))
    for folder in folders:
        try:
            if account:
                _make_for(folder, account)
            else:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"can't make {folder}: {error.strerror}", hint="check state and run") from None
    with acting_as(account):
        for folder in folders:
            _verify_entry(folder)


def _make_for(folder: Path, account: Account) -> None:
    """Make a folder and give it to its user. One that is there already is not changed."""
    if not folder.exists():
        _verify_safe(folder, account)
        folder.parent.mkdir(parents=True, exist_ok=True)
    parent = os.open(folder.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _make_in(parent, folder, account)
    finally:
        os.close(parent)


def _make_in(parent: int, folder: Path, account: Account) -> None:
    try:
        os.mkdir(folder.name, 0o700, dir_fd=parent)
        is_new = True
    except FileExistsError:
        is_new = False
    made = os.open(folder.name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        owner = os.fstat(made).st_uid
        if is_new:
            os.fchown(made, account.uid, account.gid)
        elif owner not in (0, account.uid):
            hint = f"give it to that user: chown -R {account.uid}:{account.gid} {folder}"
            raise ConfigError(f"{folder} belongs to the user {owner}, the box's is {account.uid}", hint=hint)
    finally:
        os.close(made)


def _verify_safe(folder: Path, account: Account) -> None:
    """Where the user owns a folder above, it could lead root elsewhere."""
    for above in {*folder.parents, *folder.resolve().parents}:
        if above.exists() and above.lstat().st_uid == account.uid:
            hint = f"make it as that user: install -d -m 700 -o {account.uid} -g {account.gid} {folder}"
            fact = f"{folder} is missing, and {above} belongs to the box's user: root makes nothing there"
            raise ConfigError(fact, hint=hint)


def _verify_entry(folder: Path) -> None:
    if not os.access(folder, os.R_OK | os.W_OK | os.X_OK, effective_ids=True):
        hint = "it must belong to that user, and every folder above it must let that user pass"
        raise ConfigError(f"the user {os.geteuid()} of the box can't enter {folder}", hint=hint)
