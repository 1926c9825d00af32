"""Instances without a process: the other end of a control socket, asking the box's server for connections."""

import asyncio
import socket
from collections.abc import Awaitable, Callable

from bento.box.dialled import Dialled
from bento.box.egress import Egress, serve_requests
from bento.box.reach import Reach
from bento.box.resolver import Resolver
from bento.exit_policy import RelayFacts
from bento.policy import Grant, Policy
from bento.protocol.broker import Dial, FromBox, Packet, Resolve, decode_from_box, encode_packet

WAIT_S = 10
ALL = RelayFacts(policy="accept *:*")
GRANT = Grant("python", 1, 1, 1, 1, 1 << 16, ("*:80",), 1 << 30)


class Instance:
    """The instance's end of its control socket."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control

    def say(self, packet: Packet | bytes) -> None:
        self._control.send(packet if isinstance(packet, bytes) else encode_packet(packet))

    def close(self) -> None:
        self._control.close()

    async def answer(self) -> FromBox:
        async with asyncio.timeout(WAIT_S):
            return decode_from_box(await asyncio.get_running_loop().sock_recv(self._control, 65536))

    async def ask(self, packet: Packet | bytes) -> FromBox:
        self.say(packet)
        return await self.answer()

    async def resolve(self, host: str, port: int = 80) -> FromBox:
        return await self.ask(Resolve(1, host, port))

    async def dial(self, address: str, port: int = 80) -> tuple[FromBox, socket.socket | None]:
        """The answer, and the connection that came with it."""
        self.say(Dial(1, address, port))
        return await self.dialled()

    async def dialled(self) -> tuple[FromBox, socket.socket | None]:
        loop, readable = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(self._control, readable.set)
        try:
            async with asyncio.timeout(WAIT_S):
                await readable.wait()
        finally:
            loop.remove_reader(self._control)
        data, descriptors, _, _ = socket.recv_fds(self._control, 65536, 1)
        return decode_from_box(data), socket.socket(fileno=descriptors[0]) if descriptors else None


def serve(
    scenario: Callable[..., Awaitable[None]],
    *,
    instances: int = 1,
    grant: Grant = GRANT,
    policy: Policy = Policy(egress=("accept *:*",)),  # noqa: B008 - frozen
    facts: Callable[[], RelayFacts] = lambda: ALL,
) -> None:
    """Run a scenario with so many instances whose requests are served as a box's server serves them."""

    async def serve_one(control: socket.socket, name: bytes, dialled: Dialled, resolver: Resolver) -> None:
        with dialled.account(name, grant.egress_bytes) as account:
            async with asyncio.TaskGroup() as group:
                watching = group.create_task(account.watch())
                await serve_requests(control, Egress(Reach(grant, policy, facts), account, resolver))
                watching.cancel()

    async def run() -> None:
        dialled, resolver = Dialled(), Resolver()
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(instances)]
        for pair in pairs:
            for end in pair:
                end.setblocking(False)
        async with asyncio.TaskGroup() as group:
            letting_go = group.create_task(dialled.run())
            serving = [
                group.create_task(serve_one(pair[0], bytes([number]), dialled, resolver))
                for number, pair in enumerate(pairs)
            ]
            await scenario(*(Instance(pair[1]) for pair in pairs))
            for pair in pairs:
                pair[1].close()
            async with asyncio.timeout(WAIT_S):
                await asyncio.gather(*serving)
            letting_go.cancel()
        for pair in pairs:
            pair[0].close()

    asyncio.run(run())
