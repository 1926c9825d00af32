"""A grant's limits, put on a child that waits: cgroup, file system, resource limits. About 0.3 ms."""

import math
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from msgspec import structs

from bento.sandbox import syscalls
from bento.sandbox.cgroups import Cgroups
from bento.sandbox.spec import Limits

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


def storage_options(limits: Limits) -> dict[str, str]:
    """What its tmpfs may hold; the folder itself is one of the inodes."""
    return {"size": str(limits.storage_bytes), "nr_inodes": str(limits.storage_files + 1)}


def apply_limits(limits: Limits, has: Limits, *, pid: int, uid: int, storage: int, cgroups: Cgroups, slot: int) -> None:
    """Put `limits` on the child. OSError says which could not be set; the child must not be used then.

    Args:
        has: what its cgroup and its tmpfs were made with; nothing is written that is so already.
        uid: the child's uid and gid, -1 if it has a user namespace of its own.
        storage: the descriptor that holds its tmpfs.
    """
    if structs.replace(limits, cpu_s=has.cpu_s, descriptors=has.descriptors) != has:
        cgroups.limit(slot, limits)
        syscalls.reconfigure(storage, storage_options(limits))
    with _real_ids_of(uid):
        for kind, value in _resource_limits(limits, pid, counts_threads=cgroups.tier == "rlimits"):
            resource.prlimit(pid, kind, (value, value))


def _resource_limits(limits: Limits, pid: int, *, counts_threads: bool) -> Iterator[tuple[int, int]]:
    size_bytes = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * _PAGE_BYTES
    # Python answers a full address space with MemoryError, which tells the function more than a kill would.
    yield resource.RLIMIT_AS, size_bytes + limits.memory_bytes
    yield resource.RLIMIT_CPU, math.ceil(limits.cpu_s)
    yield resource.RLIMIT_NOFILE, limits.descriptors
    if counts_threads:
        # Counted for each uid, so boxes that share a range of uids would share it; a cgroup counts for itself.
        yield resource.RLIMIT_NPROC, limits.threads


@contextmanager
def _real_ids_of(uid: int) -> Iterator[None]:
    """Be the child's user in real uid and gid: without CAP_SYS_RESOURCE, which containers drop, prlimit asks for that.

    The effective ids stay 0. The child can't signal its namesake: it sees no process outside its pid namespace.
    """
    if uid < 0:
        yield
        return
    os.setresgid(uid, -1, -1)
    os.setresuid(uid, -1, -1)
    try:
        yield
    finally:
        os.setresuid(0, -1, -1)
        os.setresgid(0, -1, -1)
