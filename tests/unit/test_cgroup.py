"""The kernel's limit, against a made-up tree of control groups; scripts/arm/enforce.py does the same in a real one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from edge_runtime import cgroup, doctor
from edge_runtime.errors import BudgetError, EngineError
from edge_runtime.guard import Child, Limits
from tests.unit.test_session import MIB

CONTROLS = (
    "memory.max",
    "memory.swap.max",
    "memory.oom.group",
    "cgroup.procs",
    "cgroup.kill",
    "cgroup.subtree_control",
)


class Tree:
    """A file system with /proc/self and /sys/fs/cgroup, whose groups appear with their files as the kernel's do."""

    def __init__(self, root: Path, own: str = "/", controllers: str = "cpu memory") -> None:
        self.root, self.top = root, root / "sys/fs/cgroup"
        (root / "proc/self").mkdir(parents=True)
        (root / "proc/self/cgroup").write_text(f"0::{own}\n")
        (root / "proc/self/mountinfo").write_text(
            "30 23 0:28 / /sys rw - sysfs sysfs rw\n31 23 0:29 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw\n"
        )
        self.top.parent.mkdir(parents=True)
        self.make(self.top, controllers)
        self.here = self.top
        for name in filter(None, own.split("/")):
            self.here = self.here / name
            self.make(self.here, controllers)

    def make(self, path: Path, controllers: str = "memory") -> None:
        path.mkdir()
        (path / "cgroup.controllers").write_text(controllers)
        for name in CONTROLS:
            (path / name).write_text("")

    @property
    def groups(self) -> list[Path]:
        return sorted(self.top.rglob("edge-runtime-*"))


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tree:
    made = Tree(tmp_path)
    monkeypatch.setattr(cgroup, "_make", made.make)
    monkeypatch.setattr(cgroup, "_remove", lambda path: shutil.rmtree(path, ignore_errors=True))
    return made


def test_a_group_at_the_root_of_a_machine(tree: Tree):
    place = cgroup.find_place(tree.root)
    assert place.parent == tree.top
    assert (tree.top / "cgroup.subtree_control").read_text() == "+memory"
    group = cgroup.confine(42, 100 * MIB, place.parent)
    assert group
    assert (group.path / "memory.max").read_text() == str(100 * MIB)
    assert (group.path / "memory.swap.max").read_text() == "0"
    assert (group.path / "cgroup.procs").read_text() == "42"
    (group.path / "memory.events").write_text("low 0\nhigh 0\nmax 9\noom 1\noom_kill 1\n")
    (group.path / "memory.peak").write_text("104857600\n")
    assert (group.oom_kills(), group.peak_bytes()) == (1, 100 * MIB)
    group.close()
    assert tree.groups == []


@pytest.mark.parametrize(
    ("own", "enabled_in", "said"),
    [
        ("/app.slice/terminal.scope", "app.slice", "app.slice"),  # a user's own systemd session
        ("/user.slice/session-3.scope", None, "gives its groups no memory controller"),
    ],
)
def test_beside_this_process_where_its_parent_has_the_controller(
    own: str, enabled_in: str | None, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    tree = Tree(tmp_path, own)
    monkeypatch.setattr(cgroup, "_make", tree.make)
    monkeypatch.setattr(cgroup, "_remove", lambda path: shutil.rmtree(path, ignore_errors=True))
    written = cgroup._write

    def write(path: Path, text: str) -> None:
        if path == tree.here / "cgroup.subtree_control":
            raise OSError(16, "Device or resource busy")
        written(path, text)

    monkeypatch.setattr(cgroup, "_write", write)
    (tree.here / "cgroup.procs").write_text("1\n2\n")
    if enabled_in:
        (tree.top / enabled_in / "cgroup.subtree_control").write_text("memory pids")
    place = cgroup.find_place(tree.root)
    assert place.parent == (tree.top / enabled_in if enabled_in else None)
    assert said in place.reason
    assert tree.groups == []


def test_alone_in_a_delegated_group_it_goes_into_one_inside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tree = Tree(tmp_path, "/edge.service")
    (tree.here / "cgroup.procs").write_text(f"{os.getpid()}\n")
    monkeypatch.setattr(cgroup, "_make", tree.make)
    monkeypatch.setattr(cgroup, "_remove", lambda path: shutil.rmtree(path, ignore_errors=True))
    written = cgroup._write

    def write(path: Path, text: str) -> None:
        if path == tree.here / "cgroup.subtree_control" and not tree.groups:
            raise OSError(16, "Device or resource busy")
        written(path, text)

    monkeypatch.setattr(cgroup, "_write", write)
    assert cgroup.find_place(tree.root).parent == tree.here
    (leaf,) = tree.groups
    assert (leaf / "cgroup.procs").read_text() == str(os.getpid())
    # asked again from there
    (tree.root / "proc/self/cgroup").write_text(f"0::/edge.service/{leaf.name}\n")
    (tree.here / "cgroup.subtree_control").write_text("memory")
    assert cgroup.find_place(tree.root).parent == tree.here


def test_why_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert "no cgroup v2" in cgroup.find_place(tmp_path).reason
    tree = Tree(tmp_path / "a", controllers="cpu hugetlb")
    assert "cgroup v1" in cgroup.find_place(tree.root).reason
    monkeypatch.setenv(cgroup.VARIABLE, "off")
    assert cgroup.find_place(tree.root) == (None, "switched off by EDGE_RUNTIME_CGROUP")
    monkeypatch.setenv(cgroup.VARIABLE, str(tmp_path / "nowhere"))
    assert "No such file" in cgroup.find_place(tree.root).reason
    assert cgroup.confine(1, 1, tmp_path / "nowhere") is None


def test_groups_of_processes_that_are_gone_are_swept(tree: Tree):
    (tree.top / "edge-runtime-999999999-0").mkdir()
    (tree.top / f"edge-runtime-{os.getpid()}-7").mkdir()
    cgroup.find_place(tree.root)
    assert [path.name for path in tree.groups] == [f"edge-runtime-{os.getpid()}-7"]


def test_what_the_kernel_kills_is_a_breach_with_the_figures(tree: Tree, monkeypatch: pytest.MonkeyPatch):
    """The child kills itself in the kernel's place, and the group says that it was an OOM kill."""
    monkeypatch.setenv(cgroup.VARIABLE, str(tree.top))
    child = Child("tests.unit.test_session:hungry", {"predicted_bytes": 40 * MIB}, Limits(100 * MIB))
    child.ready()
    (group,) = tree.groups
    assert (group / "cgroup.procs").read_text() == str(child._process.pid)
    # no rlimit beside it: what is only reserved is not refused
    assert child.call("reserve", {"bytes": 300 * MIB})
    (group / "memory.events").write_text("oom_kill 1\n")
    (group / "memory.peak").write_text(str(100 * MIB))
    with pytest.raises(
        BudgetError, match="stopped by the kernel at 100 MiB; allowed 100 MiB, predicted 40 MiB"
    ) as caught:
        child.call("signal", {"signal": 9})
    assert caught.value.measured_bytes == 100 * MIB
    assert tree.groups == []


def test_a_kill_by_somebody_else_is_not_a_breach(tree: Tree, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(cgroup.VARIABLE, str(tree.top))
    child = Child("tests.unit.test_session:hungry", {}, Limits(400 * MIB))
    child.ready()
    with pytest.raises(EngineError, match="SIGKILL"):
        child.call("signal", {"signal": 9})


def test_doctor_says_how_the_limit_is_held_and_why(tree: Tree, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor, "_engines", list)
    for value, by, said in (
        (str(tree.top), "cgroup", f"a control group for each model (memory.max in {tree.top}), and a watchdog"),
        ("off", "rlimit", "rlimits and a watchdog; no control group: switched off by EDGE_RUNTIME_CGROUP"),
    ):
        monkeypatch.setenv(cgroup.VARIABLE, value)
        found = doctor.examine(folder=tree.root)
        assert found["memory_limit"] == {"by": by, "about": said}
        assert f"memory    the limit is held by {said}" in found["text"]
