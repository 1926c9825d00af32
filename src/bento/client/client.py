"""The way in: a user's boxes, and functions to run there."""

import asyncio
import time
from pathlib import Path
from random import SystemRandom
from types import TracebackType
from typing import Self

from bento.client.choose import choose_boxes, find_box
from bento.client.conversation import ask
from bento.client.function import Function
from bento.client.link import Link, Report
from bento.client.profile import Profile
from bento.client.source import Source, read_source
from bento.errors import BoxUnreachable, NetworkDown, UsageError
from bento.protocol.messages import Describe, Description
from bento.tor.box_list import MAX_LIST_BYTES, BoxList, ListedBox, parse_box_list


class Client:
    """One user on one Tor network.

        async with bento.Client() as client:
            async with client.spawn("hello.py") as function:
                print(await function.call("hello", "world"))

    Args:
        state: the user's directory; default: BENTO_STATE, else bento/ in the XDG state directory.
        net: a private network's directory; default: BENTO_NET, else the live network.
        report: is told what one waits for, such as tor's start.
    """

    def __init__(
        self, *, state: Path | str | None = None, net: Path | str | None = None, report: Report = lambda text: None
    ) -> None:
        self._profile = Profile.choose(state, net)
        self._report = report
        self._boxes: BoxList | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return

    async def box_list(self) -> BoxList:
        """The box list, its signatures checked; read once.

        Raises: NetworkDown or BoxUnreachable if there is no list.
        """
        if self._boxes is None:
            text = await asyncio.to_thread(self._read_list)
            self._boxes = await asyncio.to_thread(parse_box_list, text, now_s=time.time())
        return self._boxes

    async def boxes(self) -> tuple[ListedBox, ...]:
        """The boxes of the list, by fingerprint. Nobody is asked."""
        return (await self.box_list()).boxes

    def spawn(
        self,
        source: str | Path | bytes | Source,
        *,
        box: str | None = None,
        lease_s: int | None = None,
        timeout_s: int | None = None,
    ) -> Function:
        """A function, spawned at the first call inside its `async with` block, and ended with the block.

        Args:
            source: a path, or the source itself as bytes.
            box: the fingerprint of the only box to ask; without it a random one that fits, and on a refusal up to
                two others.
            lease_s: seconds after which it ends unless renewed; by default its whole wall time.
            timeout_s: seconds of wall time to ask for, if less than its manifest does; by default 300.
        Raises (at the block's start): SourceError, ManifestError, UsageError, Refused, Unreachable.
        """
        for name, value in (("lease_s", lease_s), ("timeout_s", timeout_s)):
            if value is not None and value < 1:
                raise UsageError(f"{name} is {value}, the least is 1")

        async def prepare() -> tuple[Source, list[Link]]:
            checked = await asyncio.to_thread(read_source, source)
            listed = await self.boxes()
            chosen = [find_box(listed, box)] if box else choose_boxes(listed, checked.manifest, SystemRandom())
            return checked, [self._link(found) for found in chosen]

        return Function(prepare, lease_s=lease_s, timeout_s=timeout_s)

    async def describe(self, box: str) -> Description:
        """Ask a box, by its fingerprint, what it runs and under which policy."""
        link = self._link(find_box(await self.boxes(), box))
        try:
            return await ask(link, Describe(), Description)
        finally:
            link.close()

    def _link(self, box: ListedBox) -> Link:
        return Link(self._profile, box, self._report)

    def _read_list(self) -> bytes:
        path = self._profile.box_list
        try:
            with path.open("rb") as file:
                return file.read(MAX_LIST_BYTES + 1)
        except FileNotFoundError:
            if self._profile.net is not None:
                raise NetworkDown(
                    f"there is no box list in {self._profile.net}",
                    hint=f"start the network with: bento net up --boxes 3 --detach --dir {self._profile.net}",
                ) from None
            raise BoxUnreachable(
                f"there is no box list at {path}",
                hint="put one there from someone you know, or name a private network with --net DIR",
            ) from None
        except OSError as error:
            raise BoxUnreachable(f"can't read the box list {path}: {error.strerror}") from None
