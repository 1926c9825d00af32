"""A box's start as far as it can be told without one."""

import os
import resource
import socket
from pathlib import Path

import msgspec
import pytest

from bento.box import relay, watcher
from bento.box.accounts import Account, account_of, find_user, make_folders
from bento.box.settings import Relay, Settings
from bento.box.start import allow_descriptors, descriptors_needed, find_reason
from bento.errors import BentoError, ConfigError, SandboxUnavailable
from bento.exit_policy import RelayFacts
from bento.policy import Policy
from bento.tor.control import Control

needs_root = pytest.mark.needs("root")
USER = Account(64199, 64198)


def settings_in(folder: Path, user: str | None = None, instances: int = 64) -> Settings:
    nowhere = Relay(str(folder / "control"), str(folder / "cookie"))
    state, run = str(folder / "state"), str(folder / "run")
    return Settings("127.84.1.2", 7000, state, run, nowhere, user=user, policy=Policy(instances=instances))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder that other users may pass to."""
    for path in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        path.chmod(path.stat().st_mode | 0o011)
    return tmp_path


def test_a_user_comes_with_its_own_primary_group(tmp_path: Path) -> None:
    assert find_user(settings_in(tmp_path, "nobody")) == account_of(65534) == Account(65534, 65534)
    assert find_user(settings_in(tmp_path, "games")).gid == find_user(settings_in(tmp_path, "5")).gid == 60
    assert find_user(settings_in(tmp_path, "64199")) == Account(64199, 64199)


@pytest.mark.parametrize("user", [None, "root", "0", "no-such-user", "4294967295", "²", "9" * 5000])
def test_refuses_a_user_that_is_none_or_root(tmp_path: Path, user: str | None) -> None:
    with pytest.raises(ConfigError) as raised:
        find_user(settings_in(tmp_path, user))
    assert "adduser" in raised.value.hint


@needs_root
def test_root_gives_away_only_what_it_just_made(folder: Path) -> None:
    make_folders(settings_in(folder), USER)
    for name in ("state", "run"):
        made = (folder / name).stat()
        assert (made.st_uid, made.st_gid, made.st_mode & 0o777) == (64199, 64198, 0o700)
    make_folders(settings_in(folder), USER)


@needs_root
@pytest.mark.parametrize("planted", ["onion", "onion/service", "onion/service/x"])
def test_links_that_the_user_planted_lead_root_nowhere(folder: Path, planted: str) -> None:
    make_folders(settings_in(folder), USER)
    secret = folder / "secret"
    secret.mkdir()
    link = folder / "state" / planted
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(secret)
    make_folders(settings_in(folder), USER)
    assert (secret.stat().st_uid, secret.stat().st_gid) == (0, 0)


@needs_root
@pytest.mark.parametrize("name", ["state", "run"])
def test_refuses_a_folder_that_is_a_link(folder: Path, name: str) -> None:
    secret = folder / "secret"
    secret.mkdir()
    (folder / name).symlink_to(secret)
    with pytest.raises(ConfigError):
        make_folders(settings_in(folder), USER)
    assert secret.stat().st_uid == 0


@needs_root
def test_refuses_folders_of_strangers_and_those_closed_to_the_user(folder: Path) -> None:
    (folder / "state").mkdir()
    with pytest.raises(ConfigError, match="can't enter"):
        make_folders(settings_in(folder), USER)
    assert (folder / "state").stat().st_uid == 0
    os.chown(folder / "state", 64197, 64197)
    with pytest.raises(ConfigError, match="belongs to the user 64197") as raised:
        make_folders(settings_in(folder), USER)
    assert "chown" in raised.value.hint


@needs_root
def test_root_makes_nothing_where_the_user_may_have_put_links(folder: Path) -> None:
    home = folder / "home"
    home.mkdir()
    os.chown(home, USER.uid, USER.gid)
    with pytest.raises(ConfigError, match="root makes nothing there"):
        make_folders(settings_in(home), USER)
    assert list(home.iterdir()) == []


def test_a_limit_of_open_files_below_the_need_is_refused(tmp_path: Path) -> None:
    assert descriptors_needed(settings_in(tmp_path, instances=1)) < descriptors_needed(settings_in(tmp_path))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with pytest.raises(ConfigError, match=f"the limit is {hard}") as raised:
        allow_descriptors(hard + 1)
    assert f"LimitNOFILE={hard + 1}" in raised.value.hint
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (soft, hard)
    try:
        allow_descriptors(hard)
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (hard, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_the_reason_is_found_among_what_tasks_raised() -> None:
    reason = SandboxUnavailable("the reaper has ended")
    nested = BaseExceptionGroup("outer", [ValueError(), BaseExceptionGroup("inner", [OSError(), reason])])
    assert find_reason(nested) is reason
    unknown = BaseExceptionGroup("outer", [ValueError()])
    assert find_reason(unknown) is unknown
    assert isinstance(reason, BentoError)


class OddRelay:
    """A relay's control port that says what it is told to."""

    def __init__(self, answers: dict[str, str]) -> None:
        self.answers = answers

    def get_info(self, key: str) -> str:
        return self.answers[key]

    def get_conf(self, name: str) -> tuple[str, ...]:
        return (self.answers[name],) if name in self.answers else ()


def test_odd_lines_of_a_relay_are_passed_over() -> None:
    odd = OddRelay(
        {
            "exit-policy/full": "reject *:*",
            "address/v4": "nonsense",
            "address/v6": "",
            "ORPort": "9001",
            "ns/all": "r a b c 2026-01-01 00:00:00 5.6.7.8 443 80\n"
            "r a b c 2026-01-01 00:00:00 5.6.7.999 443 80\n"
            "r a b c 2026-01-01 00:00:00 5.6.7.9 99999 0\n"
            f"r a b c 2026-01-01 00:00:00 5.6.7.9 {'9' * 5000} 0\n"
            "a [::g]:443\na [:::::]:443\na [2001:db8::1]:443\n",
            "DirAuthority": "x orport=1 999.1.1.1:80 v3ident=x 1.2.3.4:9030 FP",
        }
    )
    facts = watcher.read_facts(odd, None)  # type: ignore[arg-type] # what it asks of one
    assert facts.listeners == {("5.6.7.8", 443), ("5.6.7.8", 80), ("2001:db8::1", 443), ("1.2.3.4", 9030)}


def test_a_relay_that_is_not_understood_is_asked_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    ours, theirs = socket.socketpair()
    good, rounds = RelayFacts("accept *:80"), 0

    def connect(control: Path, cookie: Path) -> None:
        nonlocal rounds
        rounds += 1
        if rounds == 3:
            ours.close()
        raise ValueError("an odd line")

    monkeypatch.setattr(watcher, "_POLL_S", 0.01)
    monkeypatch.setattr(Control, "connect", connect)
    with pytest.raises(watcher.ServerGone):
        watcher.watch(settings_in(tmp_path).relay, theirs)
    assert rounds == 3
    assert msgspec.msgpack.decode(relay.encode_facts(good)[4:], type=RelayFacts) == good
