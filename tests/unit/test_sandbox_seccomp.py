"""No seccomp, no functions."""

import struct

import pytest

from bento.errors import SandboxUnavailable
from bento.sandbox import seccomp

ALLOW_ALL = struct.pack("HBBI", 0x06, 0, 0, 0x7FFF0000)  # BPF: return SECCOMP_RET_ALLOW


pytestmark = pytest.mark.needs("seccomp")


def test_the_filter_is_enforced() -> None:
    seccomp.verify_seccomp(seccomp.build_filter())


@pytest.mark.parametrize(
    ("program", "why"), [(ALLOW_ALL, "a filter that is not enforced"), (b"\xff" * 8, "a filter that is not taken")]
)
def test_refuses_a_machine_without_seccomp(program: bytes, why: str) -> None:
    with pytest.raises(SandboxUnavailable, match="seccomp") as caught:
        seccomp.verify_seccomp(program)
    assert "functions never run without it" in caught.value.hint, why


def test_no_rule_allows_what_another_kills() -> None:
    allowed = {*seccomp.ALLOWED, *(name for name, _ in seccomp.by_argument())}
    assert not allowed & set(seccomp.KILLING)
    assert not allowed & {
        "socket",
        "connect",
        "bind",
        "listen",
        "accept",
        "accept4",
        "execve",
        "fork",
        "vfork",
        "clone3",
        "flock",
    }
    assert len(seccomp.ALLOWED) == len(set(seccomp.ALLOWED))
