"""End-to-end tests share one user; see `tests/users.py`."""

from collections.abc import Iterator

import pytest

from bento.testnet import Network
from tests.users import User


@pytest.fixture(scope="session")
def user(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Iterator[User]:
    someone = User(network, tmp_path_factory.mktemp("user") / "state")
    yield someone
    someone.end_agent()
