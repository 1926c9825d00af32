"""The messages of the two conversations on one stream. PROTOCOL.md describes each field.

*Outer*: client and box. *Inner*: client and the loader inside the sandbox. `Pad` and `Refused` belong to both.
Offsets count the bytes of one invocation's output (or input) from 0, over all its sessions.
"""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from bento.config import INVOCATION_ID_BYTES, MAX_NAME_CHARS, MAX_TEXT_CHARS, MIN_BUFFER_BYTES, TOKEN_BYTES
from bento.manifest import Manifest
from bento.policy import Grant, Policy, Refusal

Key = Annotated[bytes, Meta(min_length=TOKEN_BYTES, max_length=TOKEN_BYTES)]
InvocationId = Annotated[bytes, Meta(min_length=INVOCATION_ID_BYTES, max_length=INVOCATION_ID_BYTES)]
MAX_LEASE_S = 2**31
"""What fits everywhere; no box grants 68 years."""
Lease = Annotated[int, Meta(ge=1, le=MAX_LEASE_S)]
Remaining = Annotated[int, Meta(ge=0, le=MAX_LEASE_S)]
"""Of a lease, in seconds."""
Offset = Annotated[int, Meta(ge=0, le=2**62)]
Text = Annotated[str, Meta(max_length=MAX_TEXT_CHARS)]
EntryName = Annotated[str, Meta(min_length=1, max_length=MAX_NAME_CHARS)]


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, tag_field="t"):
    """What all messages are: a msgpack map whose key "t" names the type. Unknown keys are an error."""


class Pad(Message, frozen=True, tag="pad"):
    """Ignored by whoever gets it. Fills a flight up to its size, and carries cover traffic."""

    data: bytes


class Refused(Message, frozen=True, tag="refused"):
    """No, and why. `code` is an error's wire code; `refusals` has every rule of the policy that was broken."""

    code: Text
    message: Text
    hint: Text = ""
    refusals: tuple[Refusal, ...] = ()


# --- outer: client to box -------------------------------------------------------------------------------------------


class Hello(Message, frozen=True, tag="hello"):
    """Comes first. A box answers nothing to a version it speaks, and `Refused` to any other."""

    version: int


class Describe(Message, frozen=True, tag="describe"):
    """What does this box run, and under which policy?"""


class Spawn(Message, frozen=True, tag="spawn"):
    """Start an instance. `instance` and `shutdown` are the names of the client's tokens (see `bento.tokens`).

    The same Spawn again, on any stream, is the same instance. `lease_s` seconds from now it ends, unless renewed.
    """

    instance: Key
    shutdown: Key
    manifest: Manifest
    lease_s: Lease


class Connect(Message, frozen=True, tag="connect"):
    """Attach to an instance. `route` is the invocation token's half for the box."""

    route: Key


class Status(Message, frozen=True, tag="status"):
    """How is this instance, or how did it end?"""

    route: Key


class Renew(Message, frozen=True, tag="renew"):
    """Let the lease end `lease_s` seconds from now."""

    instance: Key
    shutdown: Key
    lease_s: Lease


class Shutdown(Message, frozen=True, tag="shutdown"):
    """End the instance and free all that it holds."""

    instance: Key
    shutdown: Key


# --- outer: box to client -------------------------------------------------------------------------------------------


class Package(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One library of an image. `digest` is SHA-256 over its files, as PROTOCOL.md defines it."""

    name: Text
    version: Text
    digest: Annotated[bytes, Meta(min_length=32, max_length=32)]


class Description(Message, frozen=True, tag="description"):
    """Answers Describe. `tier` is how limits are enforced: "v2", "v1" (cgroups) or "rlimits"."""

    software: str
    python: str
    images: tuple[str, ...]
    packages: dict[str, tuple[Package, ...]]
    """Of each image."""
    policy: Policy
    tier: str
    conclave: str | None = None


class Spawned(Message, frozen=True, tag="spawned"):
    """The instance is there; from the next byte on the loader speaks. `lease_s` seconds are left."""

    grant: Grant
    lease_s: Remaining


class Connected(Message, frozen=True, tag="connected"):
    """From the next byte on the loader speaks."""

    lease_s: Remaining


Cause = Literal["shutdown", "lease", "limit", "crash", "exit", "box"]
"""How an instance ended: by its shutdown token, its lease, a limit, a signal, by itself, or with its box."""


class State(Message, frozen=True, tag="state"):
    """Answers Status: running, with `lease_s` seconds left; or ended, by `cause`, and for a limit by which `rule`."""

    running: bool
    lease_s: Remaining
    cause: Cause | None = None
    rule: str = ""
    limit: int = 0


class Renewed(Message, frozen=True, tag="renewed"):
    """Answers Renew: `lease_s` seconds are left, never more than the grant's wall time leaves."""

    lease_s: Remaining


class Ended(Message, frozen=True, tag="ended"):
    """Answers Shutdown; also to one that comes again."""


# --- inner: client to loader ----------------------------------------------------------------------------------------


class Load(Message, frozen=True, tag="load"):
    """The function's source, run once. `invoke` is the name of the invocation token's half for the loader."""

    code: bytes
    invoke: Key


class Invoke(Message, frozen=True, tag="invoke"):
    """Call an entry. The same `invocation` again attaches to the one that runs; `attachment` as for Resume."""

    invoke: Key
    invocation: InvocationId
    entry: EntryName
    args: tuple[Any, ...] = ()
    attachment: InvocationId = bytes(INVOCATION_ID_BYTES)


class Resume(Message, frozen=True, tag="resume"):
    """Attach again to an invocation, of whose output the client has `received` bytes.

    `attachment` is the client's own, the same on all its streams: one that another has replaced is refused.
    """

    invoke: Key
    invocation: InvocationId
    received: Offset
    attachment: InvocationId = bytes(INVOCATION_ID_BYTES)


class Input(Message, frozen=True, tag="input"):
    """Bytes for `api.recv()`, from `offset` on; `end` says that none follow."""

    offset: Offset
    data: bytes
    end: bool = False


# --- inner: loader to client ----------------------------------------------------------------------------------------


class Loaded(Message, frozen=True, tag="loaded"):
    """The source has run; invocations may come. `buffer_bytes` of output are kept until acknowledged."""

    buffer_bytes: int = MIN_BUFFER_BYTES


class Resumed(Message, frozen=True, tag="resumed"):
    """Answers Resume: `received` bytes of input have arrived; output follows from the offset that Resume named."""

    received: Offset


class Output(Message, frozen=True, tag="output"):
    offset: Offset
    data: bytes


class Return(Message, frozen=True, tag="return"):
    """The invocation has returned; all its output is before `offset`."""

    offset: Offset
    value: Any = None


class Raise(Message, frozen=True, tag="raise"):
    """The invocation has raised. `rule` names the limit that it met, if it was one."""

    offset: Offset
    type: Text
    message: Text
    rule: str = ""


# --- inner: both ways -----------------------------------------------------------------------------------------------


class Acknowledge(Message, frozen=True, tag="acknowledge"):
    """All bytes before `offset` may be forgotten: the client has them safe, or the function has taken them.

    `end` from the client: it has the outcome, or gives the call up. From the loader: the input has arrived, to its
    end, taken or not.
    """

    offset: Offset
    end: bool = False


OuterRequest = Hello | Describe | Spawn | Connect | Status | Renew | Shutdown | Pad
OuterReply = Description | Spawned | Connected | State | Renewed | Ended | Refused | Pad
InnerRequest = Load | Invoke | Resume | Input | Acknowledge | Pad
InnerReply = Loaded | Resumed | Output | Return | Raise | Acknowledge | Refused | Pad
