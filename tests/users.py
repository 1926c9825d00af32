"""Users of a private network, and a look behind their agents."""

import asyncio
import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from bento.client import Client
from bento.client.conversation import ask
from bento.client.link import Link
from bento.client.profile import Profile
from bento.testnet import Network
from bento.tor.box_list import ListedBox
from bento.tor.control import Control

LIMIT_S = 60


FUNCTION = b"""
import time
count = 0

def hello(name):
    return f"hello {name}"

def remember():
    global count
    count += 1
    return count

def ticks(n, pause_s):
    for number in range(n):
        yield f"{number}\\n"
        time.sleep(pause_s)
    return "done"

def shout():
    total = 0
    while data := api.recv():
        total += len(data)
        api.send(data.upper())
    return total

def flood(size):
    for _ in range(size // 65536):
        yield bytes(65536)

def fail():
    yield "before"
    raise ValueError("as asked")

def spin():
    while True:
        pass

def eat():
    held = []
    while True:
        held.append(bytearray(2**20))

def vanish():
    import os
    os._exit(0)
"""


class User:
    """A state directory on a network."""

    def __init__(self, network: Network, state: Path) -> None:
        self.network = network
        self.profile = Profile.choose(state, network.directory)

    def client(self) -> Client:
        return Client(state=self.profile.state, net=self.profile.net)

    def bento(self, *words: str, **options: Any) -> "subprocess.Popen[bytes]":
        """Start a command; stdin is empty, stdout and stderr are pipes, unless `options` say otherwise."""
        pipes: dict[str, Any] = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        environment = os.environ | {
            "BENTO_STATE": str(self.profile.state),
            "BENTO_NET": str(self.profile.net),
        }
        process: subprocess.Popen[bytes] = subprocess.Popen(
            [sys.executable, "-m", "bento", *words], env=environment, **pipes | options
        )
        return process

    def run(self, *words: str, stdin: bytes = b"", limit_s: float = 60) -> "subprocess.CompletedProcess[bytes]":
        """A command from start to end."""
        process = self.bento(*words, stdin=subprocess.PIPE)
        try:
            out, err = process.communicate(stdin, timeout=limit_s)
        finally:
            process.kill()
        return subprocess.CompletedProcess(words, process.returncode, out, err)

    @property
    def agent_pids(self) -> list[int]:
        """The pids of the agents of this state directory: one, or none."""
        wanted = os.fsencode(self.profile.state)
        return [int(path.name) for path in Path("/proc").glob("[0-9]*") if wanted in _agent_words(path)]

    @property
    def sockets(self) -> Path | None:
        """The directory of the agent's socket."""
        try:
            return Path((self.profile.agent / "address").read_text()).parent
        except FileNotFoundError:
            return None

    def control(self) -> Control:
        """Another connection to the agent's tor."""
        name = "a" + hashlib.sha256(os.fsencode(self.profile.state)).hexdigest()[:16]
        record = msgspec.json.decode((self.network.directory / "instance.json").read_bytes())
        cookie = self.network.directory / "agents" / name / "control_auth_cookie"
        return Control.connect(Path(record["run"]) / name / "control", cookie)

    def circuits_to(self, fingerprint: str) -> list[str]:
        """The ids of the agent's circuits that end at this relay."""
        with self.control() as control:
            lines = [line.split() for line in control.get_info("circuit-status").splitlines()]
        # Only what carries streams has a user name: tor's own circuits may end there, too.
        return [
            words[0]
            for words in lines
            if words[1] == "BUILT"
            and words[2].split(",")[-1][1:41] == fingerprint
            and any(word.startswith("SOCKS_USERNAME=") for word in words)
        ]

    def break_circuits_to(self, fingerprint: str) -> int:
        """Close them; how many there were."""
        circuits = self.circuits_to(fingerprint)
        with self.control() as control:
            for circuit in circuits:
                control.close_circuit(circuit)
        return len(circuits)

    async def start_agent(self) -> None:
        """Have an agent with a tor that is ready."""
        link = Link(self.profile, (await self.client().boxes())[0], lambda text: None)
        await link.build()
        link.close()

    def end_agent(self) -> None:
        for pid in self.agent_pids:
            os.kill(pid, signal.SIGTERM)
        wait_until(lambda: not self.agent_pids)


async def ask_box(user: User, box: ListedBox, request: Any, kind: Any) -> Any:
    link = Link(user.profile, box, lambda text: None)
    try:
        async with asyncio.timeout(LIMIT_S):
            return await ask(link, request, kind)
    finally:
        link.close()


def wait_until(is_done: Callable[[], bool], limit_s: float = 20) -> None:
    end = time.monotonic() + limit_s
    while not is_done():
        assert time.monotonic() < end, f"not so within {limit_s} s"
        time.sleep(0.05)


def _agent_words(process: Path) -> list[bytes]:
    """The command line of a process, if it is an agent."""
    try:
        words = (process / "cmdline").read_bytes().split(b"\0")
    except OSError:
        return []
    return words if b"bento.client.agent" in words else []
