"""A running instance, by the tokens that its user holds: call it, ask for it, renew it, end it."""

import asyncio
import os
from typing import Any, Final

from bento.client.agent_messages import Hop
from bento.client.conversation import ask, ended_error, ending, gone_error, settle
from bento.client.invocation import Invocation
from bento.client.link import Link
from bento.client.source import verify_words
from bento.client.stream import Stream
from bento.config import INVOCATION_ID_BYTES
from bento.errors import BadToken, BoxUnreachable, NoSuchInstance, Unreachable
from bento.protocol.inner import InvocationSide
from bento.protocol.messages import Connect, Ended, InnerReply, Renew, Renewed, Shutdown, State, Status
from bento.tokens import InvocationToken, ShutdownToken
from bento.tor.box_list import ListedBox

STOP_LIMIT_S: Final = 15.0
"""For the Shutdown, on a new circuit if need be; past it the lease ends the instance."""

_STOP_RETRIES_S: Final = (0.0, 0.5, 1.5)
"""When the Spawn's answer never came, the Shutdown may be there before it."""

_GRACE_S: Final = 30.0
"""What the box may take beyond a lease to end an instance, and Tor to say so."""


class Instance:
    """One instance at a box; whoever has it has its tokens.

    Args:
        link: the way to its box; None if that is not chosen yet.
        shutdown_token: None for one who may invoke the instance, and neither renew nor end it.
        is_spawned: whether the box has confirmed the Spawn, at some time.
    """

    def __init__(
        self,
        link: Link | None,
        invocation_token: InvocationToken,
        shutdown_token: ShutdownToken | None,
        *,
        is_spawned: bool = True,
    ) -> None:
        self.invocation_token = invocation_token
        self.shutdown_token = shutdown_token
        self._link = link
        self._is_spawned = is_spawned
        self._wall_s = 2**53
        self._lease_s = 0
        self._lease_end_s: float | None = None
        self.is_ended = False
        """Whether nothing runs: the box has said so, or there was no instance."""
        self.is_stopped = False
        """Whether `stop` has done its work."""

    @property
    def box(self) -> ListedBox:
        """Where it runs."""
        return self._reached.box

    @property
    def path(self) -> tuple[Hop, ...]:
        """The relays of its circuit, the box's last; () by onion service."""
        return self._reached.path

    @property
    def lease_left_s(self) -> float | None:
        """Seconds until its lease ends, as far as the box has said."""
        return None if self._lease_end_s is None else self._lease_end_s - asyncio.get_running_loop().time()

    @property
    def deadline_s(self) -> float:
        """When the instance is gone for certain, on the event loop's clock."""
        return (self._lease_end_s or 0.0) + _GRACE_S

    async def call(self, entry: str, *args: Any) -> Any:
        """Call an entry without input; its returned value. Output is dropped: `invoke` gives it."""
        async with self.invoke(entry, *args, has_input=False) as invocation:
            return await invocation.result()

    def invoke(self, entry: str, *args: Any, has_input: bool = True) -> Invocation:
        """Call an entry and talk with it; without input its `api.recv()` gives b"" at once.

        Raises: SourceError if there is no such entry, or the arguments do not fit or can't travel.
        """
        verify_words(entry, args)
        side = InvocationSide(self.invocation_token.invoke, os.urandom(INVOCATION_ID_BYTES))
        return Invocation(self, side, entry, args, has_input=has_input)

    async def status(self) -> State:
        """Whether it runs, or how it ended. Raises: NoSuchInstance if the box does not know it (any more)."""
        try:
            state = await ask(self._reached, Status(self.invocation_token.route), State)
        except NoSuchInstance:
            self.is_ended |= self._is_spawned
            raise
        if state.running:
            self._set_lease(state.lease_s)
        else:
            self.is_ended = True
        return state

    async def renew(self, lease_s: int) -> int:
        """Let the lease end so many seconds from now; what the box grants, at most what is left of the wall time.

        Raises: BadToken for one who has no shutdown token; Refused if it is longer than the box's policy allows.
        """
        request = Renew(self.invocation_token.instance, self._owned("renew").shutdown, lease_s)
        try:
            renewed = await ask(self._reached, request, Renewed)
        except NoSuchInstance as error:
            raise await self.reason(error) from None
        self._set_lease(renewed.lease_s)
        return renewed.lease_s

    async def stop(self) -> None:
        """End the instance, and wait until the box has confirmed it; one that has ended is no error.

        Raises: Unreachable if it can't be told within STOP_LIMIT_S; the lease will end the instance. BadToken for
            one who has no shutdown token, while it runs.
        """
        if not self.is_ended:
            try:
                async with asyncio.timeout(STOP_LIMIT_S):
                    await (self._shut_down() if self.shutdown_token else self._verify_ended())
            except TimeoutError:
                raise BoxUnreachable(
                    f"the box did not confirm the end within {STOP_LIMIT_S:g} s", hint="its lease will end the function"
                ) from None
        self.is_ended = self.is_stopped = True

    async def ending(self) -> str:
        """How it ended, for people."""
        try:
            state = await self.status()
        except (NoSuchInstance, Unreachable):
            return "its box says no more of it"
        return "it runs" if state.running else ending(state)

    async def attach(self, side: InvocationSide, inner: bytes) -> tuple[Stream, list[InnerReply]]:
        """For invocations: a stream to the loader with the inner conversation's first bytes sent.

        Raises: StreamLost if it broke; what box and loader say.
        """
        stream, rest, answer = await settle(self._reached, Connect(self.invocation_token.route), inner)
        self._set_lease(answer.lease_s)
        return stream, take_in(stream, side, rest)

    async def verify_running(self) -> None:
        """For invocations, when a stream was lost: raises how the instance ended; returns if it may run (again)."""
        try:
            state = await self.status()
        except NoSuchInstance:
            if self._is_spawned:
                raise
            return
        except BoxUnreachable:
            return  # the one who reattaches tries, and finds out
        if not state.running:
            raise ended_error(state, self._wall_s, self._lease_s)

    @property
    def _reached(self) -> Link:
        if self._link is None:
            raise NoSuchInstance("the function is used outside its block", hint="use it inside `async with`")
        return self._link

    def _owned(self, what: str) -> ShutdownToken:
        if self.shutdown_token is None:
            raise BadToken(
                f"only the one who deployed the function can {what} it: a ticket has no shutdown token",
                hint=f"ask them to {what} it",
            )
        return self.shutdown_token

    async def _verify_ended(self) -> None:
        try:
            state = await self.status()
        except NoSuchInstance:
            return
        if state.running:
            self._owned("stop")

    async def reason(self, error: NoSuchInstance) -> NoSuchInstance:
        """What a box means that knows no running instance (any more): how it ended, if it tells."""
        if isinstance(error, BadToken):
            return error
        try:
            state = await self.status()
        except (NoSuchInstance, BoxUnreachable):
            return error
        return error if state.running else gone_error(state)

    async def _shut_down(self) -> None:
        request = Shutdown(self.invocation_token.instance, self._owned("stop").shutdown)
        for delay_s in _STOP_RETRIES_S:
            await asyncio.sleep(delay_s)
            try:
                await ask(self._reached, request, Ended)
                return
            except NoSuchInstance:
                if self._is_spawned:
                    return

    def _set_lease(self, lease_s: int) -> None:
        self._lease_end_s = asyncio.get_running_loop().time() + lease_s


def take_in(stream: Stream, side: InvocationSide, rest: bytes) -> list[InnerReply]:
    """What the loader has said right behind the box; closes the stream if that is an error."""
    try:
        return side.receive(rest)
    except BaseException:
        stream.close()
        raise
