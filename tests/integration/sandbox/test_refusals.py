"""Where functions can't be confined the reaper does not start, and says why."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from bento.errors import SandboxUnavailable
from bento.sandbox import syscalls
from bento.sandbox.hierarchies import candidates
from bento.sandbox.spec import Bind, SandboxConfig
from bento.sandbox.start import start_reaper

# Takes a system call away from itself, then starts a reaper: what a container's own filter would do.
WITHOUT = """
import errno, sys
import msgspec, pyseccomp
from bento.errors import SandboxUnavailable
from bento.sandbox.hierarchies import candidates
from bento.sandbox.spec import SandboxConfig
from bento.sandbox.start import start_reaper
rules = pyseccomp.SyscallFilter(pyseccomp.ALLOW)
if sys.argv[1] == "seccomp":
    rules.add_rule(pyseccomp.ERRNO(errno.EINVAL), "prctl", pyseccomp.Arg(0, pyseccomp.EQ, 22))
else:
    rules.add_rule(pyseccomp.ERRNO(errno.EPERM), sys.argv[1])
rules.load()
try:
    start_reaper(msgspec.msgpack.decode(sys.stdin.buffer.read(), type=SandboxConfig))
except SandboxUnavailable as error:
    print(error, "/", error.hint)
"""


@pytest.mark.parametrize(
    ("call", "fact", "hint"),
    [
        ("seccomp", "seccomp filters don't work", "functions never run without it"),
        ("unshare", "may not make namespaces", "run the box as root"),
        ("mount", "nothing may be mounted", "run the box as root"),
        ("pivot_root", "can't be confined", ""),
        ("move_mount", "move_mount", ""),
    ],
)
def test_refuses_to_start_without(make_config: Callable[..., SandboxConfig], call: str, fact: str, hint: str) -> None:
    config = make_config()
    done = refused(config, call)
    said = done.stdout.decode()
    assert fact in said, done.stderr.decode()
    assert hint in said
    assert left_by(config) == []


def test_a_start_that_fails_unmounts_nothing_of_others(make_config: Callable[..., SandboxConfig]) -> None:
    config = make_config()
    root = Path(config.run) / "root"
    root.mkdir()
    try:
        syscalls.mount("none", str(root), "tmpfs", 0)
    except OSError:
        pytest.skip("nothing may be mounted here")
    try:
        refused(config, "unshare")
        assert root.is_mount()
    finally:
        syscalls.detach_mount(str(root))


def refused(config: SandboxConfig, call: str) -> "subprocess.CompletedProcess[bytes]":
    return subprocess.run(
        [sys.executable, "-c", WITHOUT, call],
        input=msgspec.msgpack.encode(config),
        capture_output=True,
        timeout=60,
    )


def left_by(config: SandboxConfig) -> list[Path]:
    """Cgroups, and files in the run folder."""
    cgroups = [folder for each in candidates(Path(config.run)) for folder in each.folders.values() if folder.exists()]
    return [*cgroups, *Path(config.run).iterdir()]


def test_refuses_an_image_that_can_not_serve(make_config: Callable[..., SandboxConfig]) -> None:
    config = make_config()
    broken = msgspec.structs.replace(config.image, entry="no_such_module:serve")
    with pytest.raises(SandboxUnavailable, match="zygote"):
        start_reaper(msgspec.structs.replace(config, image=broken))
    assert left_by(config) == []


def test_refuses_an_image_whose_files_are_gone(make_config: Callable[..., SandboxConfig]) -> None:
    config = make_config()
    broken = msgspec.structs.replace(config.image, binds=(*config.image.binds, Bind("/no/such/file", "/x")))
    with pytest.raises(SandboxUnavailable, match="/no/such/file"):
        start_reaper(msgspec.structs.replace(config, image=broken))
