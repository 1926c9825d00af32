"""A user of the shared network, with an agent of their own for the whole session."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from bento.testnet import Network
from tests.users import User


@pytest.fixture(scope="session")
def user(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Iterator[User]:
    """One who stays for all tests."""
    someone = User(network, tmp_path_factory.mktemp("user") / "state")
    asyncio.run(someone.start_agent())
    yield someone
    someone.end_agent()


@pytest.fixture
def newcomer(network: Network, tmp_path: Path) -> Iterator[User]:
    """One without an agent yet."""
    someone = User(network, tmp_path / "state")
    yield someone
    someone.end_agent()
