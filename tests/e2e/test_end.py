"""When a private network ends, its users' agents end with it, whatever they are doing."""

from pathlib import Path

import pytest

from bento.testnet import Network
from tests.network import open_to_all
from tests.users import FUNCTION, User, wait_until

pytestmark = pytest.mark.needs("tor", "namespaces", "seccomp")


def test_agents_and_runs_end_with_their_network(tmp_path: Path) -> None:
    directory = tmp_path / "network"
    directory.mkdir()
    open_to_all(directory)
    (tmp_path / "f.py").write_bytes(FUNCTION)
    with Network(directory, boxes=1) as network:
        user = User(network, tmp_path / "state")
        process = user.bento("run", str(tmp_path / "f.py"), "ticks", "1000", "0.1")
        assert process.stdout
        assert process.stdout.readline() == b"0\n"
        sockets = user.sockets
        assert sockets
        network.stop()
        wait_until(lambda: not user.agent_pids, 5)
        assert not sockets.exists()
    _, err = process.communicate(timeout=30)
    assert process.returncode == 5
    assert b"Traceback" not in err
    again = user.run("run", str(tmp_path / "f.py"), "hello", "x")
    assert again.returncode == 5
    assert b"bento net up" in again.stderr
