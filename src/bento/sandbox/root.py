"""The read-only root that functions see, built once by the reaper and entered by each zygote."""

import os
from pathlib import Path

from bento.errors import SandboxUnavailable
from bento.sandbox import syscalls
from bento.sandbox.spec import Bind, Image

_SPARE_BYTES = 1 << 20
"""Beyond the files' own bytes: folders, links and mount points, rounded up to pages."""

_READ_ONLY = syscalls.MOUNT_ATTR_RDONLY | syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV
_DEVICE = syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NOEXEC


def mount_root(image: Image, mount_point: int) -> int:
    """Mount an empty root on a folder, in this process's mount namespace. Returns its descriptor.

    Descriptors, never names: whoever may rename things in the run folder gains nothing by it.

    Args:
        mount_point: the descriptor of an empty folder.
    """
    size = _SPARE_BYTES + sum(len(content) + os.sysconf("SC_PAGE_SIZE") for _, content in image.files)
    root = syscalls.make_tmpfs(
        {"size": str(size), "mode": "755"}, syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV
    )
    syscalls.attach_mount(root, mount_point)
    return root


def fill_root(image: Image, root: int) -> None:
    """Put all that functions see into the root, which becomes the working folder, and close it to writing.

    Raises: SandboxUnavailable naming the path that could not be made.
    """
    os.fchdir(root)
    for target in ("/data", "/dev"):
        _within(target).mkdir()
    for bind in image.binds:
        _bind(bind, _within(bind.target))
    for target, content in image.files:
        path = _within(target)
        _make_parents(path)
        path.write_bytes(content)
        path.chmod(0o644)
    for target, destination in image.links:
        path = _within(target)
        _make_parents(path)
        path.symlink_to(destination)
    syscalls.add_attributes(root, _READ_ONLY)


def enter_root(root: int) -> None:
    """Make `root` the only file system of this process, which then has nowhere else to go."""
    os.fchdir(root)
    syscalls.unshare(syscalls.NEW_NS)
    syscalls.pivot_root(".", ".")
    syscalls.detach_mount(".")
    os.chdir("/")


def _within(target: str) -> Path:
    """Below the working folder, which is the root."""
    return Path(target.lstrip("/"))


def _make_parents(path: Path) -> None:
    path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)


def _bind(bind: Bind, target: Path) -> None:
    _make_parents(target)
    try:
        if Path(bind.source).is_dir():
            target.mkdir()
        else:
            target.touch()
        tree = syscalls.clone_tree(bind.source, _DEVICE if bind.is_device else _READ_ONLY)
        try:
            syscalls.attach_mount(tree, str(target))
        finally:
            os.close(tree)
    except OSError as error:
        raise SandboxUnavailable(f"can't show {bind.source} to functions: {error}") from None
