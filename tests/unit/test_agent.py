"""The agent without a network: it tells why there is no tor, ends when idle, and leaves nothing."""

import asyncio
import contextlib
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from bento.client import agent as agent_module
from bento.client import agent_tor
from bento.client.agent import Agent
from bento.client.agent_messages import new_socket
from bento.client.agent_tor import own_tor, wait_until_ready
from bento.client.link import Link
from bento.client.lock import locked
from bento.client.profile import Profile
from bento.errors import ConfigError, TorUnavailable
from bento.tor.box_list import ListedBox
from bento.tor.process import start_tor
from tests.descriptors import ITEM

BOX = ListedBox("A" * 40, "r5", 0, ITEM, True)


@pytest.fixture
def profile(tmp_path: Path) -> Profile:
    return Profile.choose(tmp_path / "state", None)


@pytest.fixture
def agent(profile: Profile) -> Iterator[Agent]:
    """An agent that has not begun, at the address where commands look for it."""
    profile.agent.mkdir(parents=True)
    directory = Path(tempfile.mkdtemp(prefix="bento-agent-"))
    with new_socket() as listener:
        listener.bind(str(directory / "agent"))
        listener.listen()
        (profile.agent / "address").write_text(str(directory / "agent"))
        yield Agent(listener, profile)
    assert not directory.exists()
    assert not (profile.agent / "address").exists()


def without_tor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr("bento.tor.process._SEARCH", "/nowhere")


def test_without_tor_commands_are_told_how_to_get_it(
    agent: Agent, profile: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_tor(monkeypatch)
    monkeypatch.setattr(agent_module, "_FAREWELL_S", 0.5)

    async def build() -> None:
        link = Link(profile, BOX, lambda text: None)
        try:
            await link.build()
        finally:
            link.close()

    async def work() -> None:
        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            group.create_task(agent.run())
            with pytest.raises(TorUnavailable, match="tor is missing") as found:
                await build()
            assert "apt install tor" in found.value.hint

    asyncio.run(work())


def test_an_agent_that_nobody_needs_ends(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextlib.asynccontextmanager
    async def forever(*_: object) -> AsyncIterator[None]:
        await asyncio.Event().wait()
        yield

    monkeypatch.setattr(agent_module, "own_tor", forever)
    monkeypatch.setattr(agent_module, "IDLE_LIMIT_S", 0.2)
    monkeypatch.setattr(agent_module, "_CHECK_S", 0.05)
    asyncio.run(asyncio.wait_for(agent.run(), 10))


@pytest.mark.needs("tor")
def test_the_live_network_s_tor_starts_with_our_lines_and_boxes_are_reached_by_onion_service(
    profile: Profile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the public authorities tor refuses what exits to loopback addresses need."""
    start: Any = start_tor
    monkeypatch.setattr(agent_tor, "start_tor", lambda lines, **rest: start([*lines, "DisableNetwork 1"], **rest))
    monkeypatch.setattr(agent_tor, "READY_LIMIT_S", 0.3)

    async def work() -> bool:
        with tempfile.TemporaryDirectory(prefix="bento-") as run:
            async with asyncio.timeout(30), own_tor(profile, Path(run)) as tor:
                with pytest.raises(TorUnavailable, match="0 %") as found:
                    await wait_until_ready(tor, lambda percent, text: None)
                assert "notice.log" in found.value.hint
                return tor.can_exit_to_self

    assert asyncio.run(work()) is False


def test_a_lock_is_for_one_and_waited_for(tmp_path: Path) -> None:
    async def work() -> None:
        async with locked(tmp_path / "lock", 1):
            with pytest.raises(TimeoutError):
                async with locked(tmp_path / "lock", 0.1):
                    pass
        async with locked(tmp_path / "lock", 0.1):
            pass

    asyncio.run(work())


def test_a_state_directory_is_made_private(tmp_path: Path) -> None:
    profile = Profile.choose(tmp_path / "a" / "b", tmp_path)
    assert profile.state.stat().st_mode & 0o777 == 0o700
    assert profile.agent.is_relative_to(profile.state)
    assert profile.box_list == tmp_path / "boxes.list"


def test_agents_of_different_networks_are_apart(tmp_path: Path) -> None:
    agents = {Profile.choose(tmp_path / "s", net).agent for net in (None, tmp_path / "one", tmp_path / "two")}
    assert len(agents) == 3


def test_a_state_directory_that_can_t_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="can't be made"):
        Profile.choose(tmp_path / "file" / "state", None)
