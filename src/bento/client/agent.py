"""The agent: the one process of a user that owns Bento's tor and its circuits.

    python -m bento.client.agent DESCRIPTOR STATE [NET]

DESCRIPTOR is its listening socket, made by the command that starts it. It ends when nobody has needed it for
IDLE_LIMIT_S, and at once when its tor or its private network does. It writes nothing but its state.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import sys
from pathlib import Path
from random import SystemRandom
from typing import Final

from bento.client import agent_messages
from bento.client.agent_holder import Holder, Service
from bento.client.agent_tor import own_tor, wait_until_ready
from bento.client.lock import locked
from bento.client.profile import Profile
from bento.client.tasks import task_group
from bento.errors import BentoError, TorUnavailable
from bento.tor.circuits import Circuits

IDLE_LIMIT_S: Final = 600.0
"""Ten minutes: a person's pause between two commands. An idle tor costs 60 MB and the traffic that keeps it current."""

_CHECK_S: Final = 1.0
_FAREWELL_S: Final = 2.0
"""For commands that wait, to be told why there is no tor."""

_PREDECESSOR_LIMIT_S: Final = 15.0
"""For the agent before this one to end its tor."""


class _Over(Exception):
    """The agent's work is done."""


class Agent:
    """One agent, from its start to its end."""

    def __init__(self, listener: socket.socket, profile: Profile) -> None:
        self._listener = listener
        self._profile = profile
        self._run = Path(listener.getsockname()).parent
        self._service = Service()

    async def run(self) -> None:
        """Serve until idle, told to end, or without tor; leave no socket and no process."""
        loop = asyncio.get_running_loop()
        ending = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, ending.set)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._accept(group))
                group.create_task(self._keep_tor())
                group.create_task(self._end_when_idle())
                await ending.wait()
                raise _Over
        except* (_Over, BentoError):
            pass
        finally:
            self._remove_traces()

    async def _accept(self, group: asyncio.TaskGroup) -> None:
        loop = asyncio.get_running_loop()
        self._listener.setblocking(False)
        while True:
            connection, _ = await loop.sock_accept(self._listener)
            if agent_messages.peer_user(connection) == os.geteuid():
                group.create_task(Holder(connection, self._service).serve())
            else:
                connection.close()

    async def _keep_tor(self) -> None:
        """Run tor; when there is none (any more), tell the commands that wait why, then end."""
        try:
            async with locked(self._profile.agent / "running", _PREDECESSOR_LIMIT_S):
                await self._run_tor()
        except TimeoutError:
            self._service.fail(TorUnavailable("the agent before this one does not end", hint="end its process"))
        except BentoError as error:
            self._service.fail(error)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FAREWELL_S):
                await self._service.until_unused()
        raise _Over

    async def _run_tor(self) -> None:
        async with own_tor(self._profile, self._run) as tor:
            circuits = Circuits(tor.control, SystemRandom())
            await circuits.take_over()
            async with task_group() as group:
                group.create_task(circuits.run())
                group.create_task(tor.watch())
                await wait_until_ready(tor, self._service.report)
                self._service.start(tor, circuits)

    async def _end_when_idle(self) -> None:
        loop = asyncio.get_running_loop()
        busy_s = loop.time()
        while loop.time() - busy_s < IDLE_LIMIT_S:
            await asyncio.sleep(_CHECK_S)
            if self._service.holders:
                busy_s = loop.time()
        raise _Over

    def _remove_traces(self) -> None:
        self._listener.close()
        address = self._profile.agent / "address"
        with contextlib.suppress(OSError):
            if Path(address.read_text()).parent == self._run:
                address.unlink()
        shutil.rmtree(self._run, ignore_errors=True)


def main(arguments: list[str]) -> None:
    """Go on in a process that nobody waits for, then serve."""
    if os.fork():
        os._exit(0)
    descriptor, state, net = arguments
    profile = Profile(Path(state), Path(net) if net else None)
    with socket.socket(fileno=int(descriptor)) as listener:
        asyncio.run(Agent(listener, profile).run())


if __name__ == "__main__":
    main(sys.argv[1:])
