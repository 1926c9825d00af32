"""The agent: one for each user, a circuit for each instance, nothing left behind."""

import asyncio
import os
import signal
import socket
from pathlib import Path

import pytest

from bento.client.agent_messages import new_socket
from bento.client.agent_start import connect_agent
from bento.client.link import Link
from bento.errors import NetworkDown
from bento.protocol.messages import Describe, Description
from tests.users import FUNCTION, User, ask_box, wait_until

pytestmark = pytest.mark.needs("tor", "namespaces", "seccomp")


def test_two_commands_at_once_share_an_agent_and_no_circuit(newcomer: User, tmp_path: Path) -> None:
    (tmp_path / "f.py").write_bytes(FUNCTION)
    box = asyncio.run(newcomer.client().boxes())[0].fingerprint
    words = ("run", str(tmp_path / "f.py"), "ticks", "40", "0.1", "--box", box)
    commands = [newcomer.bento(*words) for _ in range(2)]
    for command in commands:
        assert command.stdout
        assert command.stdout.readline() == b"0\n"
    assert len(newcomer.agent_pids) == 1
    assert len(newcomer.circuits_to(box)) == 2
    for command in commands:
        out, err = command.communicate(timeout=60)
        assert (command.returncode, err) == (0, b"")
        assert out.endswith(b'39\n"done"\n')
    wait_until(lambda: not newcomer.circuits_to(box))


def test_a_circuit_is_closed_when_its_command_is_killed(user: User, tmp_path: Path) -> None:
    (tmp_path / "f.py").write_bytes(FUNCTION)
    box = asyncio.run(user.client().boxes())[0].fingerprint
    before = set(user.circuits_to(box))
    command = user.bento("run", str(tmp_path / "f.py"), "ticks", "100", "0.1", "--box", box)
    assert command.stdout
    assert command.stdout.readline() == b"0\n"
    assert set(user.circuits_to(box)) - before
    command.kill()
    command.communicate()
    wait_until(lambda: not set(user.circuits_to(box)) - before)


def test_all_streams_of_an_instance_go_on_its_one_circuit(user: User) -> None:
    async def work() -> None:
        client = user.client()
        box = (await client.boxes())[0].fingerprint
        before = set(await asyncio.to_thread(user.circuits_to, box))
        async with client.spawn(FUNCTION, box=box) as function:
            for _ in range(3):
                await function.call("remember")
                await function.status()
            assert len(set(await asyncio.to_thread(user.circuits_to, box)) - before) == 1

    asyncio.run(work())


def test_a_killed_agent_is_replaced_and_its_socket_removed(newcomer: User) -> None:
    async def call() -> str:
        async with newcomer.client() as client, client.spawn(FUNCTION) as function:
            value: str = await function.call("hello", "x")
            return value

    assert asyncio.run(call()) == "hello x"
    (first,), sockets = newcomer.agent_pids, newcomer.sockets
    os.kill(first, signal.SIGKILL)
    wait_until(lambda: not newcomer.agent_pids)
    assert asyncio.run(call()) == "hello x"
    assert newcomer.agent_pids != [first]
    assert sockets
    assert not sockets.exists()


def test_an_invocation_survives_the_agent_s_end(newcomer: User) -> None:
    async def work() -> bytes:
        output = b""
        async with (
            newcomer.client() as client,
            client.spawn(FUNCTION) as function,
            function.invoke("ticks", 20, 0.1) as invocation,
        ):
            async for chunk in invocation:
                output += chunk
                if chunk == b"5\n":
                    os.kill(newcomer.agent_pids[0], signal.SIGKILL)
        return output

    assert asyncio.run(work()) == b"".join(b"%d\n" % number for number in range(20))


def test_an_agent_that_ends_leaves_no_process_and_no_socket(newcomer: User) -> None:
    box = asyncio.run(newcomer.client().boxes())[0]
    asyncio.run(ask_box(newcomer, box, Describe(), Description))
    sockets = newcomer.sockets
    assert sockets
    assert sockets.exists()
    newcomer.end_agent()
    assert not sockets.exists()
    assert newcomer.sockets is None


def test_the_agent_holds_no_descriptor_of_who_started_it(newcomer: User) -> None:
    box = asyncio.run(newcomer.client().boxes())[0]
    asyncio.run(ask_box(newcomer, box, Describe(), Description))
    descriptors = Path(f"/proc/{newcomer.agent_pids[0]}/fd")
    stdin, stdout, stderr = ((descriptors / str(number)).readlink() for number in (0, 1, 2))
    assert stdin == stdout == Path(os.devnull)
    assert stderr.is_relative_to(newcomer.profile.state)
    assert stderr.read_bytes() == b""


def test_an_agent_answers_only_requests_it_knows(user: User) -> None:
    async def send(garbage: bytes) -> bytes:
        connection = await connect_agent(user.profile)
        with connection:
            connection.setblocking(True)
            connection.settimeout(10)
            connection.send(garbage)
            return await asyncio.to_thread(connection.recv, 1000)

    for garbage in (b"nonsense", b'{"type":"dial"}', b'{"type":"other","id":1}', bytes(1000)):
        assert asyncio.run(send(garbage)) == b""
    box = asyncio.run(user.client().boxes())[0]
    assert asyncio.run(ask_box(user, box, Describe(), Description)).images


def test_a_stream_without_a_circuit_is_refused(user: User) -> None:
    async def dial() -> bytes:
        with await connect_agent(user.profile) as connection:
            connection.setblocking(True)
            connection.settimeout(60)
            connection.send(b'{"type":"dial","id":1}')
            return await asyncio.to_thread(connection.recv, 1000)

    assert b'"failed"' in asyncio.run(dial())


def test_a_stale_address_of_another_s_socket_is_not_trusted(newcomer: User, tmp_path: Path) -> None:
    """Whoever listens there must be this very user; here nobody does any more."""
    newcomer.profile.agent.mkdir(parents=True)
    with new_socket() as listener:
        listener.bind(str(tmp_path / "s"))
    (newcomer.profile.agent / "address").write_text(str(tmp_path / "s"))
    box = asyncio.run(newcomer.client().boxes())[0]
    assert asyncio.run(ask_box(newcomer, box, Describe(), Description)).images


def test_a_name_that_is_not_routed_gets_no_circuit(user: User) -> None:
    """Streams that no command asked for are closed, not left hanging."""
    asyncio.run(ask_box(user, asyncio.run(user.client().boxes())[0], Describe(), Description))
    with user.control() as control:
        socks = control.get_conf("SocksPort")[0].split()[0].removeprefix("unix:").strip('"')
    with socket.socket(socket.AF_UNIX) as stream:
        stream.settimeout(20)
        stream.connect(socks)
        stream.sendall(bytes.fromhex("050102 0103 616263 0178 05010001 2e505050 0050"))
        answer = b""
        while data := stream.recv(100):
            answer += data
    assert answer[:3] == b"\x01\x00\x05"
    assert answer[3] != 0


def test_a_network_that_is_down_is_a_clear_error(tmp_path: Path, user: User) -> None:
    box = asyncio.run(user.client().boxes())[0]
    profile = type(user.profile)(user.profile.state, tmp_path)
    with pytest.raises(NetworkDown, match="no network is up"):
        asyncio.run(Link(profile, box, lambda text: None).build())
