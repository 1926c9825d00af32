"""End-to-end tests share one private network and one user; see `tests/network.py` and `tests/users.py`."""

from collections.abc import Iterator

import pytest

from bento.testnet import Network
from tests.network import network
from tests.users import User

__all__ = ["network"]


@pytest.fixture(scope="session")
def user(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Iterator[User]:
    someone = User(network, tmp_path_factory.mktemp("user") / "state")
    yield someone
    someone.end_agent()
