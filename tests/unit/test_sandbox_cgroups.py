"""The tiers, on hierarchies made of plain files: this machine has but one of them."""

from pathlib import Path

import pytest

from bento.config import MIB
from bento.sandbox.cgroups import BASE_BYTES, Cgroups
from bento.sandbox.hierarchies import Hierarchies, candidates, enable_controllers
from bento.sandbox.spec import Limits

LIMITS = Limits(memory_bytes=64 * MIB, cpu_s=1, storage_bytes=16 * MIB, threads=20)
BOUND = str(80 * MIB + BASE_BYTES)


def fill(folder: Path, files: dict[str, str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A folder that stands for /proc/self; its mounts are in the folder itself."""
    return fill(tmp_path / "proc", {"mountinfo": "", "cgroup": ""})


def v2_machine(machine: Path, own: dict[str, str]) -> Path:
    point = machine.parent / "unified"
    (machine / "mountinfo").write_text(f"30 23 0:26 / {point} rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n")
    (machine / "cgroup").write_text("0::/system.slice/bento.service\n")
    return fill(point / "system.slice/bento.service", {"cgroup.procs": "", **own})


def v1_machine(machine: Path, *controllers: str) -> Path:
    point = machine.parent / "v1"
    mounts = [f"3{n} 23 0:2{n} / {point}/{name} rw - cgroup cgroup rw,{name}" for n, name in enumerate(controllers)]
    (machine / "mountinfo").write_text("\n".join(mounts))
    (machine / "cgroup").write_text("\n".join(f"{n}:{name}:/box" for n, name in enumerate(controllers)))
    for name in controllers:
        fill(point / name / "box", {})
    return point


def tiers(machine: Path) -> list[str]:
    return [each.tier for each in candidates(Path("/run/bento"), proc=machine)]


def test_v2_is_first_where_its_controllers_are_on(machine: Path) -> None:
    own = v2_machine(machine, {"cgroup.controllers": "cpu memory pids", "cgroup.subtree_control": "memory pids"})
    found = next(candidates(Path("/run/bento"), proc=machine))
    assert found.tier == "v2"
    assert set(found.folders) == {"memory", "pids"}
    (folder,) = set(found.folders.values())
    assert folder.parent == own
    assert folder.name.startswith("bento-")


def test_v2_without_the_memory_controller_does_not_count(machine: Path) -> None:
    v2_machine(machine, {"cgroup.controllers": "hugetlb", "cgroup.subtree_control": ""})
    assert tiers(machine) == ["rlimits"]


def test_v2_switches_on_what_it_may(machine: Path) -> None:
    own = v2_machine(machine, {"cgroup.controllers": "cpu memory pids", "cgroup.subtree_control": ""})
    enable_controllers(own, "bento-x")
    assert (own / "cgroup.subtree_control").read_text() == "+memory +pids +cpu"  # the kernel would now list them


def test_v1_needs_memory_and_pids(machine: Path) -> None:
    v1_machine(machine, "memory")
    assert tiers(machine) == ["rlimits"]
    v1_machine(machine, "memory", "pids")
    assert tiers(machine) == ["v1", "rlimits"]


def test_one_run_folder_has_one_name(machine: Path) -> None:
    v1_machine(machine, "memory", "pids")
    first, again, other = (
        next(candidates(Path(run), proc=machine)).folders["pids"] for run in ("/run/a", "/run/./a", "/run/b")
    )
    assert first == again != other


def test_a_machine_without_proc_has_rlimits(tmp_path: Path) -> None:
    assert tiers(tmp_path / "nothing") == ["rlimits"]


def make_v2(tmp_path: Path) -> tuple[Cgroups, Path]:
    own = fill(tmp_path / "own", {})
    folder = fill(own / "bento-x", {"cgroup.subtree_control": "", "cpu.weight": ""})
    names = ("cgroup.procs", "memory.max", "memory.swap.max", "memory.current", "memory.events", "pids.max", "cpu.max")
    fill(folder / "i0", dict.fromkeys(names, ""))
    hierarchies = Hierarchies("v2", dict.fromkeys(("memory", "pids", "cpu"), folder))
    cgroups = Cgroups(hierarchies, cpu_cores=0.5, cpu_shares=256)
    cgroups.make_parent()
    return cgroups, folder


def test_v2_limits_are_written(tmp_path: Path) -> None:
    cgroups, folder = make_v2(tmp_path)
    assert (folder / "cgroup.subtree_control").read_text() == "+memory +pids +cpu"
    assert (folder / "cpu.weight").read_text() == "25"
    assert len(cgroups.join(0)) == 1
    cgroups.limit(0, LIMITS)
    slot = folder / "i0"
    written = {name: (slot / name).read_text() for name in ("memory.max", "memory.swap.max", "pids.max", "cpu.max")}
    assert written == {"memory.max": BOUND, "memory.swap.max": "0", "pids.max": "20", "cpu.max": "50000 100000"}
    cgroups.free(0)
    assert [(slot / name).read_text() for name in ("memory.max", "pids.max")] == ["max", "max"]


def test_v2_counts_are_read(tmp_path: Path) -> None:
    cgroups, folder = make_v2(tmp_path)
    fill(folder / "i0", {"memory.current": "4096\n", "memory.events": "low 0\noom 3\noom_kill 2\noom_group_kill 0\n"})
    assert (cgroups.memory_bytes(0), cgroups.oom_kills(0)) == (4096, 2)


def test_v1_limits_memory_before_memory_and_swap(tmp_path: Path) -> None:
    folders = {name: fill(tmp_path / name / "bento-x", {}) for name in ("memory", "pids")}
    fill(folders["memory"] / "i0", {"memory.limit_in_bytes": "", "memory.oom_control": "under_oom 0\noom_kill 1\n"})
    fill(folders["pids"] / "i0", {"pids.max": ""})
    cgroups = Cgroups(Hierarchies("v1", folders), cpu_cores=1, cpu_shares=256)
    cgroups.limit(0, LIMITS)  # without swap accounting there is no memsw file
    assert (folders["memory"] / "i0/memory.limit_in_bytes").read_text() == BOUND
    assert (folders["pids"] / "i0/pids.max").read_text() == "20"
    assert cgroups.oom_kills(0) == 1


def test_a_limit_that_can_not_be_set_is_an_error(tmp_path: Path) -> None:
    cgroups = Cgroups(Hierarchies("v2", {"memory": tmp_path, "pids": tmp_path}), cpu_cores=1, cpu_shares=256)
    with pytest.raises(FileNotFoundError):
        cgroups.limit(0, LIMITS)


def test_the_lowest_tier_limits_nothing_and_says_nothing(tmp_path: Path) -> None:
    cgroups = Cgroups(Hierarchies("rlimits", {}), cpu_cores=1, cpu_shares=256)
    cgroups.make_parent()
    cgroups.limit(0, LIMITS)
    cgroups.free(0)
    assert (cgroups.join(0), cgroups.oom_kills(0), cgroups.memory_bytes(0)) == ([], 0, 0)
    cgroups.remove()


def test_removal_takes_what_an_earlier_start_left(tmp_path: Path) -> None:
    folder = tmp_path / "bento-x"
    for slot in range(3):
        (folder / f"i{slot}").mkdir(parents=True)
    Cgroups(Hierarchies("v2", {"memory": folder}), cpu_cores=1, cpu_shares=256).remove()
    assert not folder.exists()
