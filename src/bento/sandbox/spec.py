"""The words of the sandbox: what an instance may use, what it can see, how a pool is run. Pure.

>>> Limits(memory_bytes=64 * MIB, cpu_s=30, storage_bytes=16 * MIB).threads
64
"""

from typing import Annotated, Final, Literal

import msgspec
from msgspec import Meta

from bento.config import KIB, MIB

Cause = Literal["shutdown", "lease", "limit", "crash", "exit"]
"""Why an instance ended: its owner or operator, its lease, a limit (the tombstone names the rule), a signal or a
non-zero status of its own, or status zero."""

MAX_BEGIN_BYTES: Final = 80 * KIB
"""The first packet an instance gets: a frame of at most 64 KiB and what is said about it. No code travels in it."""

MAX_RECORD_BYTES: Final = 96 * KIB
"""What the reaper keeps of an instance for the next server: hashes of tokens, the grant. The largest grant, with 64
addresses of 300 characters kept twice, is 45 KB."""

MAX_PACKET_BYTES: Final = 192 * KIB
"""One packet between server, reaper and zygote: both of the above with room to spare, and below the 208 KiB that an
unprivileged socket may send at once."""

MAX_INSTANCE_ID_BYTES: Final = 64
"""An instance's name among server and reaper: a SHA-512 still fits."""

Positive = Annotated[int, Meta(ge=1, le=2**53)]
MAX_SECONDS: Final = 2**31
Seconds = Annotated[float, Meta(ge=0, le=MAX_SECONDS)]


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one instance may use, put on it by the reaper when it is handed its first session."""

    memory_bytes: Positive
    """Beyond what an empty instance and its files use."""
    cpu_s: Annotated[float, Meta(gt=0, le=2**31)]
    """Of all its threads together; the kernel counts whole seconds, so it is rounded up."""
    storage_bytes: Positive
    """In /data, which is memory: charged to the instance."""
    storage_files: Positive = 4096
    """An empty file costs the kernel about 1 KiB, so these cost at most 4 MiB more."""
    threads: Positive = 64
    """With the 256 KiB stacks they get: 16 MiB of address space."""
    descriptors: Positive = 256
    """Sockets and files together; a page with a hundred resources loads at once."""


class Bind(msgspec.Struct, frozen=True):
    """A file or folder of this machine that functions see, read-only. A device can be read and written."""

    source: str
    target: str
    is_device: bool = False


class Image(msgspec.Struct, frozen=True):
    """The whole of what a function can see besides its own /data. Paths are absolute, within the image."""

    name: str
    binds: tuple[Bind, ...]
    files: tuple[tuple[str, bytes], ...]
    links: tuple[tuple[str, str], ...]
    """(path, what it points to)"""
    python: str
    path: str
    """The folder that `sys.path` gets: packages, bento among them."""
    preload: tuple[str, ...]
    """Imported before the fork, so that every instance shares their pages."""
    entry: str
    """"module:function", called in each child with its control socket; returns when the instance ends."""
    rehearsal: str = ""
    """"module:function", called in the zygote before it forks, so that children share what it warmed; "" for none."""


USUAL_LIMITS: Final = Limits(memory_bytes=64 * MIB, cpu_s=30, storage_bytes=16 * MIB)


class SandboxConfig(msgspec.Struct, frozen=True):
    """How a reaper is to run."""

    run: str
    """A private folder: the reaper's socket and lock."""
    image: Image
    unavailable_packet: bytes
    """What a message on a control socket is answered with while no server is connected."""
    server_uid: int = 0
    """Who may connect, besides root."""
    uid_base: int = 2_000_000_000
    """As root: the instance in slot n runs under this plus n. Above every uid that Debian or a container hands out."""
    slots: Positive = 128
    """Waiting and running children at once."""
    pool_depth: Positive = 8
    """Children that wait: at 150 a second the pool refills in 50 ms; each costs 1.5 MB."""
    waiting: Limits = USUAL_LIMITS
    """The limits a waiting child has already; a grant equal to them costs less at hand-off."""
    cpu_cores: Annotated[float, Meta(gt=0, le=1024)] = 1.1
    """Of one instance. Python's threads take turns on one core, so more would serve only native code. At 1.0 a thread
    that never pauses is held back whenever the kernel moves it: a fifth less came through a socket."""
    cpu_shares: Annotated[int, Meta(ge=2, le=1024)] = 256
    """Of all instances together, where 1024 is the relay's: tor comes first when the machine is busy."""
    generation_children: Positive = 512
    """Children of one zygote share hash seed and address layout: one that has learnt them knows at most these."""
    generation_s: Annotated[float, Meta(gt=0)] = 3600
    """The same, for a box where little happens: a new zygote costs half a second of one core."""
    start_wait_s: Annotated[float, Meta(gt=0)] = 5
    """How long a start may wait for a child when the pool is empty: a new zygote is ready well before."""
    grace_s: Annotated[float, Meta(ge=0)] = 30
    """How long a reaper without server and instance stays: a server that restarts takes a few seconds."""


class Tombstone(msgspec.Struct, frozen=True):
    """How an instance ended."""

    instance: bytes
    cause: Cause
    rule: str = ""
    """"memory_bytes", "cpu_s" or "wall_s" when a limit ended it."""
    limit: float = 0
    asked: float = 0
    """What it had used, in the rule's unit."""
    until_s: float = 0
    """On CLOCK_BOOTTIME: when its lease would have ended, and it may be forgotten."""
