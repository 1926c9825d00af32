"""Deploying and sharing, as two people type it: one deploys, the other accepts a ticket."""

import asyncio
import base64
import contextlib
import json
import os
import secrets
import signal
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bento.client import Deployed
from bento.client.records import Records
from bento.errors import BadToken, NoSuchInstance
from bento.protocol.messages import Ended, Renew, Renewed, Shutdown, State, Status
from bento.testnet import Network
from tests.users import FUNCTION, User, ask_box, wait_until

SLOW = b"import time\ntime.sleep(60)\ndef f(): pass\n"

pytestmark = pytest.mark.needs("tor", "namespaces", "seccomp")


ENDLESS = """
# /// bento
# buffer_bytes = 16_777_216
# ///
import time

count = 0

def endless():
    global count
    try:
        while True:
            yield bytes(65536)
    finally:
        count += 1

def ended():
    end_s = time.monotonic() + 20
    while count < 5 and time.monotonic() < end_s:
        time.sleep(0.05)
    return count
"""


@pytest.fixture(scope="module")
def friend(network: Network, tmp_path_factory: pytest.TempPathFactory) -> Iterator[User]:
    """Another person, with a state directory and a tor of their own."""
    someone = User(network, tmp_path_factory.mktemp("friend") / "state")
    yield someone
    someone.end_agent()


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "function.py"
    path.write_bytes(FUNCTION)
    return str(path)


@pytest.fixture
def name(user: User, friend: User) -> Iterator[str]:
    """A name that nobody has; what it names is gone after the test."""
    chosen = f"f{secrets.token_hex(4)}"
    yield chosen
    if (user.profile.functions / chosen).exists():
        asyncio.run(user.client().stop(chosen))


def deploy(user: User, name: str, file: str, *options: str) -> dict[str, Any]:
    done = user.run("deploy", file, "--name", name, "--json", *options)
    assert (done.returncode, done.stderr) == (0, b"")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def share(user: User, friend: User, name: str) -> str:
    """The friend has it under the same name, without the command line; returns the ticket."""
    ticket = user.client().share(name)
    asyncio.run(friend.client().accept(ticket, name))
    return ticket


def assert_gone(user: User, record: Deployed) -> None:
    box = next(box for box in asyncio.run(user.client().boxes()) if box.fingerprint == record.box)
    with contextlib.suppress(NoSuchInstance):  # the Spawn may never have arrived
        assert not asyncio.run(ask_box(user, box, Status(record.invocation_token.route), State)).running


def test_one_deploys_and_shares_the_other_accepts_and_invokes_but_can_t_stop(
    user: User, friend: User, file: str, name: str
) -> None:
    deployed = deploy(user, name, file)
    assert deployed.keys() == {"name", "box", "instance", "expires"}
    assert abs(deployed["expires"] - time.time() - 3600) < 60
    shared = user.run("share", name)
    assert (shared.returncode, shared.stderr) == (0, b"")
    assert len(shared.stdout.splitlines()) == 1
    assert friend.run("accept", "--name", name, stdin=shared.stdout).returncode == 0
    assert user.run("invoke", name, "remember").stdout == b"1\n"
    assert friend.run("invoke", name, "remember").stdout == b"2\n"
    assert friend.run("invoke", name, "shout", stdin=b"one\n").stdout == b"ONE\n4\n"

    for words in (("stop", name), ("renew", name)):
        done = friend.run(*words)
        assert done.returncode == 4
        assert b"only the one who deployed" in done.stderr
    folder = friend.profile.state / "functions" / name
    assert f"to forget it here alone, remove {folder}" in friend.run("stop", name).stderr.decode()
    found = json.loads(friend.run("inspect", name, "--json").stdout)
    assert (found["running"], found["own"], found["instance"]) == (True, False, deployed["instance"])
    assert user.run("invoke", name, "remember").stdout == b"3\n"

    stopped = user.run("stop", name)
    assert (stopped.returncode, stopped.stderr) == (0, b"")
    for someone, cause in ((user, b"no function"), (friend, b"was stopped")):
        done = someone.run("invoke", name, "remember")
        assert (done.returncode, done.stdout) == (4, b"")
        assert cause in done.stderr
    found = json.loads(friend.run("inspect", name, "--json").stdout)
    assert (found["running"], found["cause"]) == (False, "shutdown")
    # What has ended needs no token to be forgotten.
    assert friend.run("stop", name).returncode == 0
    assert name not in {row["name"] for row in json.loads(friend.run("ls", "--json").stdout)}


def test_the_tokens_of_a_ticket_end_and_renew_nothing_whatever_is_sent(
    user: User, friend: User, file: str, name: str
) -> None:
    deploy(user, name, file)
    share(user, friend, name)
    record = Records(friend.profile.functions).read(name)
    token = record.invocation_token
    assert record.shutdown_token is None
    box = next(box for box in asyncio.run(friend.client().boxes()) if box.fingerprint == record.box)
    for key in (token.secret, token.route, token.invoke, token.instance, bytes(32)):
        with pytest.raises(BadToken):
            asyncio.run(ask_box(friend, box, Shutdown(token.instance, key), Ended))
        with pytest.raises(BadToken):
            asyncio.run(ask_box(friend, box, Renew(token.instance, key, 60), Renewed))
    assert asyncio.run(ask_box(friend, box, Status(token.route), State)).running


def test_after_the_lease_both_get_a_clear_4_and_the_name_is_free_again(
    user: User, friend: User, file: str, name: str
) -> None:
    deployed = deploy(user, name, file, "--lease", "5")
    share(user, friend, name)
    time.sleep(max(0.0, deployed["expires"] + 2 - time.time()))
    for someone in (user, friend):
        done = someone.run("invoke", name, "remember")
        assert done.returncode == 4
        assert b"lease" in done.stderr
        (row,) = (row for row in json.loads(someone.run("ls", "--json").stdout) if row["name"] == name)
        assert row["state"] == "expired"
    assert user.run("renew", name).returncode == 4
    assert deploy(user, name, file)["instance"] != deployed["instance"]


def test_renew_moves_the_end_and_inspect_tells_it(user: User, file: str, name: str) -> None:
    deployed = deploy(user, name, file, "--lease", "60")
    assert user.run("renew", name, "--lease", "600").returncode == 0
    found = json.loads(user.run("inspect", name, "--json").stdout)
    assert found["expires"] - deployed["expires"] > 500
    assert 540 < found["lease_s"] <= 600
    refused = user.run("renew", name, "--lease", "99999999")
    assert refused.returncode == 3
    assert b"lease_s" in refused.stderr
    (box,) = (box for box in asyncio.run(user.client().boxes()) if box.fingerprint == found["box"])
    assert found["nickname"] == box.nickname
    assert (found["own"], found["running"], found["cause"]) == (True, True, None)


def test_a_limit_that_ended_it_is_told_by_inspect_invoke_and_stop(user: User, tmp_path: Path, name: str) -> None:
    (tmp_path / "f.py").write_bytes(b"# /// bento\n# cpu_s = 1\n# ///\n" + FUNCTION)
    deploy(user, name, str(tmp_path / "f.py"))
    assert user.run("invoke", name, "spin").returncode == 7
    found = json.loads(user.run("inspect", name, "--json").stdout)
    assert (found["running"], found["cause"], found["rule"], found["limit"]) == (False, "limit", "cpu_s", 1)
    again = user.run("invoke", name, "remember")
    assert again.returncode == 4
    assert b"cpu_s = 1" in again.stderr
    stopped = user.run("stop", name)
    assert stopped.returncode == 0
    assert b"cpu_s = 1" in stopped.stdout


@pytest.mark.parametrize(
    ("source", "options", "status", "message"),
    [
        (b"def f(): pass\n1 / 0\n", [], 1, b"ZeroDivisionError"),
        (b"def f(:\n", [], 2, b"does not parse"),
        (FUNCTION, ["--lease", "99999999"], 3, b"lease_s"),
        (FUNCTION, ["--lease", "9" * 12], 2, b"lease_s"),
        (b"# /// bento\n# cpu_s = 999_999\n# ///\n" + FUNCTION, [], 3, b"cpu_s"),
        (FUNCTION, ["--box", "F" * 40], 5, b"no box"),
    ],
)
def test_a_deployment_that_fails_leaves_no_record(
    user: User, tmp_path: Path, name: str, source: bytes, options: list[str], status: int, message: bytes
) -> None:
    (tmp_path / "f.py").write_bytes(source)
    done = user.run("deploy", str(tmp_path / "f.py"), "--name", name, *options)
    assert done.returncode == status
    assert message in done.stderr
    assert done.stdout == b""
    assert not (user.profile.functions / name).exists()


def test_a_deployment_killed_while_its_source_runs_can_still_be_stopped(user: User, tmp_path: Path, name: str) -> None:
    (tmp_path / "f.py").write_bytes(SLOW)
    process = user.bento("deploy", str(tmp_path / "f.py"), "--name", name)
    record = user.profile.functions / name / "function.json"
    wait_until(record.exists)
    found = Records(user.profile.functions).read(name)
    process.kill()
    process.communicate()
    (row,) = (row for row in json.loads(user.run("ls", "--json").stdout) if row["name"] == name)
    assert row["state"] == "starting"
    assert user.run("stop", name).returncode == 0
    assert not record.exists()
    assert_gone(user, found)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_deployment_leaves_neither_instance_nor_record(
    user: User, tmp_path: Path, name: str, number: int, status: int
) -> None:
    (tmp_path / "f.py").write_bytes(SLOW)
    process = user.bento("deploy", str(tmp_path / "f.py"), "--name", name)
    wait_until((user.profile.functions / name / "function.json").exists)
    found = Records(user.profile.functions).read(name)
    process.send_signal(number)
    assert process.communicate(timeout=30) == (b"", b"")
    assert process.returncode == status
    assert not (user.profile.functions / name).exists()
    assert_gone(user, found)


def test_what_is_stopped_while_it_starts_does_not_run(user: User, tmp_path: Path, name: str) -> None:
    (tmp_path / "f.py").write_bytes(SLOW)
    process = user.bento("deploy", str(tmp_path / "f.py"), "--name", name)
    wait_until((user.profile.functions / name / "function.json").exists)
    found = Records(user.profile.functions).read(name)
    assert user.run("stop", name).returncode == 0
    _, err = process.communicate(timeout=60)
    assert (process.returncode, b"Traceback" in err) == (4, False)
    assert_gone(user, found)


def test_a_circuit_lost_while_the_source_runs_costs_no_deployment(user: User, tmp_path: Path, name: str) -> None:
    (tmp_path / "f.py").write_bytes(b"import time\ntime.sleep(3)\n" + FUNCTION)
    process = user.bento("deploy", str(tmp_path / "f.py"), "--name", name)
    wait_until((user.profile.functions / name / "function.json").exists)
    assert user.break_circuits_to(Records(user.profile.functions).read(name).box)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, b"")
    assert user.run("invoke", name, "remember").stdout == b"1\n"


def test_two_deployments_at_once_do_not_share_a_name(user: User, file: str, name: str) -> None:
    commands = [user.bento("deploy", file, "--name", name, "--json") for _ in range(3)]
    done = [(*command.communicate(timeout=60), command.returncode) for command in commands]
    (won,) = (json.loads(out) for out, _, status in done if status == 0)
    lost = [err for _, err, status in done if status == 2]
    assert len(lost) == 2
    assert all(b"in use" in err for err in lost)
    assert json.loads(user.run("inspect", name, "--json").stdout)["instance"] == won["instance"]


def test_tokens_lie_in_files_of_the_user_s_alone_and_are_shown_nowhere(
    user: User, friend: User, file: str, name: str
) -> None:
    shown = [user.run("deploy", file, "--name", name)]
    ticket = share(user, friend, name)
    shown += [user.run(*words) for words in (("ls",), ("inspect", name), ("invoke", name, "nope"), ("ls", "--json"))]
    shown += [friend.run("stop", name), friend.run("inspect", name)]
    record = Records(user.profile.functions).read(name)
    assert record.shutdown_token is not None
    text = b"".join(done.stdout + done.stderr for done in shown) + repr(record).encode()
    for secret in (record.invocation_token.secret, record.shutdown_token.secret):
        assert secret.hex().encode() not in text.lower()
        assert repr(secret).encode() not in text
    assert ticket.encode() not in text
    for someone in (user, friend):
        assert stat.S_IMODE((someone.profile.functions / name).stat().st_mode) == 0o700
        assert stat.S_IMODE((someone.profile.functions / name / "function.json").stat().st_mode) == 0o600
        held = {path for path in someone.profile.state.rglob("*") if path.is_file() and _holds(path, record)}
        assert held == {someone.profile.functions / name / "function.json"}


def _holds(path: Path, record: Deployed) -> bool:
    return base64.b64encode(record.invocation_token.secret) in path.read_bytes()


def test_two_functions_at_one_box_have_a_circuit_each(user: User, file: str, name: str) -> None:
    box = asyncio.run(user.client().boxes())[0].fingerprint
    other = f"{name}-too"
    for chosen in (name, other):
        deploy(user, chosen, file, "--box", box)
    wait_until(lambda: not user.circuits_to(box))
    commands = [user.bento("invoke", chosen, "ticks", "1000", "0.05") for chosen in (name, other)]
    try:
        for command in commands:
            assert command.stdout
            assert command.stdout.readline() == b"0\n"
        assert len(user.circuits_to(box)) == 2
    finally:
        for command in commands:
            command.terminate()
            command.communicate(timeout=30)
    asyncio.run(user.client().stop(other))


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["nope"], 2, b"nope"),
        (["hello"], 2, b"argument"),
        (["hello", "a", "b"], 2, b"argument"),
        (["fail"], 1, b"ValueError: as asked"),
    ],
)
def test_what_goes_wrong_in_an_invocation_is_one_line_and_its_status(
    user: User, standing: str, words: list[str], status: int, message: bytes
) -> None:
    done = user.run("invoke", standing, *words)
    assert done.returncode == status
    assert message in done.stderr
    assert done.stderr.startswith(b"bento: error: ")


@pytest.fixture(scope="module")
def standing(user: User, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A function that stays for several tests."""
    path = tmp_path_factory.mktemp("standing") / "function.py"
    path.write_bytes(FUNCTION)
    deploy(user, "standing", str(path))
    yield "standing"
    asyncio.run(user.client().stop("standing"))


def test_a_name_in_use_is_refused_before_anyone_is_asked(user: User, standing: str, file: str) -> None:
    ticket = user.client().share(standing).encode()
    for words, stdin in ((("deploy", file, "--name", standing), b""), (("accept", "--name", standing), ticket)):
        done = user.run(*words, stdin=stdin)
        assert done.returncode == 2
        assert b"in use" in done.stderr


def test_a_box_that_left_the_list_is_unreachable_and_its_record_stays(
    user: User, network: Network, standing: str, tmp_path: Path
) -> None:
    (tmp_path / "net").mkdir()
    (tmp_path / "net" / "boxes.list").write_bytes(b"")
    for words in (("invoke", standing, "hello", "x"), ("stop", standing), ("inspect", standing)):
        done = user.run(*words, "--net", str(tmp_path / "net"))
        assert done.returncode == 5
        assert b"another network" in done.stderr
    assert user.run("inspect", standing).returncode == 0


def test_an_interrupted_invocation_leaves_the_function_running(user: User, standing: str) -> None:
    process = user.bento("invoke", standing, "ticks", "1000", "0.05")
    assert process.stdout
    assert process.stdout.readline() == b"0\n"
    os.kill(process.pid, signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
    assert user.run("invoke", standing, "hello", "x").stdout == b'"hello x"\n'


def test_invocations_whose_reader_left_cost_the_function_nothing(user: User, tmp_path: Path, name: str) -> None:
    path = tmp_path / "endless.py"
    path.write_text(ENDLESS)
    deploy(user, name, str(path))
    for number in range(5):
        command = user.bento("invoke", name, "endless")
        assert command.stdout
        assert command.stdout.read(1000) == bytes(1000)
        if number % 2:
            command.send_signal(signal.SIGINT)
        command.stdout.close()
        assert command.wait(60) in (130, 141)
    assert user.run("invoke", name, "ended").stdout == b"5\n"


def test_a_call_outlives_the_lease_it_began_under_if_that_was_renewed(
    user: User, file: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bento.client.instance._GRACE_S", -18)
    deploy(user, name, file, "--lease", "20")

    async def work() -> bytes:
        output = b""
        async with user.client().function(name) as instance, instance.invoke("ticks", 30, 0.2) as invocation:
            await user.client().renew(name, 60)
            async for chunk in invocation:
                output += chunk
        return output

    assert asyncio.run(work()) == b"".join(b"%d\n" % number for number in range(30))
