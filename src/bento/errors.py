"""Every error Bento raises on purpose.

    BentoError
    ├── UsageError              2   the caller's words are off
    │   ├── ManifestError           the manifest in the function's source
    │   ├── ConfigError             a box's or a policy's TOML file
    │   ├── SourceError             the function's source, its entry or its arguments
    │   └── TicketError             a ticket that was cut, mistyped or is none
    ├── FunctionRaised          1   the function itself raised
    ├── Refused                 3   the box's policy says no; carries every broken rule
    ├── NoSuchInstance          4   never there, or ended and forgotten
    │   ├── BadToken            4   the token does not fit
    │   └── Replaced            4   a newer attachment to the same invocation took over
    ├── Unreachable             5   Tor, the box or the private network
    │   ├── TorUnavailable
    │   ├── BoxUnreachable
    │   ├── NetworkDown             a private network is not up, or did not start
    │   ├── SandboxUnavailable      a box can't confine functions here
    │   └── ProtocolError           the peer broke the wire protocol
    │       └── VersionMismatch
    ├── AttestationFailed       6
    └── LimitReached            7   a limit ended it; carries the rule

Each class knows its wire code and the exit status of the command line; each error carries a hint: what to do next.
"""

from collections.abc import Sequence
from typing import ClassVar, Protocol


class BentoError(Exception):
    """A fact with its value and limit; `hint` says what to do about it."""

    code: ClassVar[str] = "error"
    exit_status: ClassVar[int] = 1
    default_hint: ClassVar[str] = ""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint or self.default_hint


class UsageError(BentoError):
    code, exit_status = "usage", 2


class ManifestError(UsageError):
    code = "manifest"
    default_hint = "PROTOCOL.md lists the manifest's keys, their units and defaults"


class ConfigError(UsageError):
    code = "config"


class SourceError(UsageError):
    code = "source"


class TicketError(UsageError):
    code = "ticket"


class FunctionRaised(BentoError):
    """The function raised; `type_name` is its exception's class."""

    code, exit_status = "raised", 1

    def __init__(self, type_name: str, text: str) -> None:
        super().__init__(f"{type_name}: {text}" if text else type_name)
        self.type_name = type_name
        self.text = text


class BrokenRule(Protocol):
    """One rule of a policy that was broken (`bento.policy.Refusal`)."""

    @property
    def text(self) -> str: ...


class Refused(BentoError):
    """The policy's refusal; `refusals` has every rule that was broken."""

    code, exit_status = "refused", 3
    default_hint = "ask for less in the manifest, or pick another box"

    def __init__(self, refusals: Sequence[BrokenRule], *, hint: str = "") -> None:
        super().__init__("; ".join(refusal.text for refusal in refusals) or "the box's policy forbids it", hint=hint)
        self.refusals = tuple(refusals)


class NoSuchInstance(BentoError):
    code, exit_status = "no-such-instance", 4
    default_hint = "it has ended, or its lease has; spawn the function again"


class BadToken(NoSuchInstance):
    code = "bad-token"
    default_hint = "use the token of this very instance"


class Replaced(NoSuchInstance):
    code = "replaced"
    default_hint = "the invocation goes on there; attach again to take it back"


class Unreachable(BentoError):
    code, exit_status = "unreachable", 5


class TorUnavailable(Unreachable):
    code = "tor-unavailable"
    default_hint = "install it with: apt install tor"


class BoxUnreachable(Unreachable):
    code = "box-unreachable"
    default_hint = "try again, or pick another box with --box"


class NetworkDown(Unreachable):
    code = "network-down"
    default_hint = "start it with: bento net up --detach --dir DIR"


class SandboxUnavailable(Unreachable):
    code = "sandbox-unavailable"


class ProtocolError(Unreachable):
    code = "protocol"
    default_hint = "the other side does not speak this protocol; check its version"


class VersionMismatch(ProtocolError):
    code = "version"
    default_hint = "upgrade the older side"


class AttestationFailed(BentoError):
    code, exit_status = "attestation", 6


class LimitReached(BentoError):
    """A limit of the grant ended the work; `rule` names it as the manifest does."""

    code, exit_status = "limit", 7

    def __init__(self, rule: str, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint or f"ask for more {rule} in the manifest, or do less")
        self.rule = rule


def _all_classes(base: type[BentoError]) -> list[type[BentoError]]:
    return [base] + [found for child in base.__subclasses__() for found in _all_classes(child)]


_BY_CODE: dict[str, type[BentoError]] = {found.code: found for found in _all_classes(BentoError)}


def from_wire(code: str, message: str, hint: str) -> BentoError:
    """The error that a peer named by its wire code; an unknown code is a plain ProtocolError."""
    found = _BY_CODE.get(code, ProtocolError)
    if found in (FunctionRaised, LimitReached, Refused):
        return ProtocolError(f"{code}: {message}", hint=hint)
    return found(message, hint=hint)
