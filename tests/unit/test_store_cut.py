"""The store when something happens in the middle: kills, full disks, pulled sticks, two at once, a session at work."""

from __future__ import annotations

import errno
import linecache
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import edge_runtime as edge
from edge_runtime import store, store_copy
from edge_runtime.bundle import load_bundle, read_bundle
from edge_runtime.errors import BudgetError, BundleError, StoreError
from edge_runtime.guard import Child
from edge_runtime.shelf import bundle_file, hold, in_use, read_shelf
from edge_runtime.store import Room, bundle_files, install, list_store, remove, rollback, verify_store
from tests.conftest import picture, small_device
from tests.unit.test_store import BIG, PLENTY, left, packed, versions


def forked(work: Callable[[], Any]) -> int:
    """`work` in a child; the exit code: 0 done, 7 EdgeError, 9 killed."""
    pid = os.fork()
    if not pid:
        code = 1
        try:
            work()
            code = 0
        except edge.EdgeError:
            code = 7
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def killed_at(count: int, work: Callable[[], Any]) -> int:
    """As `forked`, but the process ends before the step that is reached as number `count`: a line of the store that
    changes something outside the process."""
    ours = {store.__file__, store_copy.__file__}
    steps = ("open(", "write", "flush", "sync", "replace(", "unlink", "mkdir", "_sweep", "_lock", "dump", "return Kept")

    def run() -> None:
        seen = 0

        def trace(frame: Any, event: str, _: Any) -> Any:
            nonlocal seen
            if frame.f_code.co_filename not in ours:
                return None
            if event == "line":
                text = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
                seen += any(word in text for word in steps)
                if seen >= count:
                    os._exit(9)
            return trace

        sys.settrace(trace)
        work()

    return forked(run)


@pytest.fixture
def unsynced(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill forgets nothing that was written, so hundreds of them need not wait for the disk."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.mark.parametrize("tight", [False, True])
def test_killed_at_any_step_it_is_the_old_or_the_new_version(tight: bool, unsynced: None, tmp_path: Path):
    """With room and without, at every step: afterwards what is current is whole, and the next command cleans up."""
    bundles = {version: packed(tmp_path, version, size=2000) for version in ("1", "2", "3")}
    size = bundles["3"].stat().st_size
    room = Room(2 * size + size // 2 if tight else 4 * size, 0)
    for version in ("1", "2"):
        install(bundles[version], tmp_path / "as-it-was", room)
    count, kinds = 0, set()
    while True:
        count += 1
        folder = shutil.copytree(tmp_path / "as-it-was", tmp_path / f"store-{count}")
        code = killed_at(count, lambda folder=folder: install(bundles["3"], folder, room))
        shelf = read_shelf(folder, "b")
        assert shelf
        read_bundle(bundle_file(folder, "b", shelf.current.digest)).verify()
        kinds.add((shelf.current.version, shelf.previous.version if shelf.previous else None))
        assert sum(bundle_files(folder).values()) <= room.quota_bytes
        assert install(bundles["3"], folder, room).kept.version == "3"
        remove_leftovers = left(folder)
        assert len(remove_leftovers) == 1 + len(versions(folder)), remove_leftovers
        assert verify_store(folder) == []
        if code == 0:
            break
        assert code == 9
    assert count > 20
    assert kinds == {("2", "1"), ("3", "2")} | ({("2", None)} if tight else set())


@pytest.mark.parametrize("act", [lambda f: rollback("b", f), lambda f: remove("b", f)])
def test_rollback_and_remove_killed_at_any_step(act: Callable[[Path], Any], unsynced: None, tmp_path: Path):
    bundles = [packed(tmp_path, version, size=100) for version in ("1", "2")]
    for one in bundles:
        install(one, tmp_path / "as-it-was", PLENTY)
    count, code = 0, 9
    while code == 9:
        count += 1
        folder = shutil.copytree(tmp_path / "as-it-was", tmp_path / f"store-{count}")
        code = killed_at(count, lambda folder=folder: act(folder))
        assert versions(folder) in (["2", "1"], ["1", "2"], [])
        install(bundles[1], folder, PLENTY)
        assert verify_store(folder) == []
        assert versions(folder)[0] == "2"
    assert code == 0


def test_all_is_synced_before_it_takes_its_name(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What a power cut may forget: a file that was not synced before its rename, a rename in a folder that was not."""
    seen: list[tuple[str, str]] = []
    real_fsync, real_replace = os.fsync, os.replace

    def fsync(fd: int) -> None:
        seen.append(("sync", Path(os.readlink(f"/proc/self/fd/{fd}")).name))
        real_fsync(fd)

    def replace(source: Path, target: Path) -> None:
        seen.append(("name", f"{source.name} {target.name}"))
        real_replace(source, target)

    bundle = packed(tmp_path)
    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "replace", replace)
    done = install(bundle, home, PLENTY)
    copy, index = f".incoming-{os.getpid()}", f".index-{os.getpid()}"
    assert seen == [
        ("sync", tmp_path.name),
        *[("sync", copy), ("name", f"{copy} b@{done.kept.digest}.edge"), ("sync", "store")],
        *[("sync", index), ("name", f"{index} b.json"), ("sync", "store")],
    ]


@pytest.fixture
def tiny(tmp_path: Path) -> Iterator[Path]:
    """A file system of one MiB."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.geteuid() or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("only root may mount a tiny file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_fills_up_meanwhile_leaves_what_was_there(tiny: Path, tmp_path: Path, monkeypatch: Any):
    folder = tiny / "store"
    install(packed(tmp_path, "1"), folder, PLENTY)
    with pytest.raises(BudgetError, match="stay for the journal"):  # by itself it says so before a byte is written
        install(packed(tmp_path, "2", size=900_000), folder, PLENTY)
    before = left(folder)
    monkeypatch.setattr(store, "space", lambda _: (1 << 30, 0))  # the room was there when it began
    for size in (980_000, 1_000_000):
        with pytest.raises(BudgetError, match="No space left on device while .* was copied; what was installed before"):
            install(packed(tmp_path, "2", size=size), folder, PLENTY)
        assert left(folder) == before
    filler = tiny / "filler"
    filler.write_bytes(bytes(os.statvfs(tiny).f_bavail * os.statvfs(tiny).f_frsize))
    with pytest.raises((BudgetError, StoreError), match="No space left"):
        install(packed(tmp_path, "2", size=10), folder, PLENTY)
    assert verify_store(folder) == []
    assert left(folder) == before
    assert remove("b", folder) > BIG, "room can be made on a full disk"


def test_on_a_full_disk_a_previous_version_makes_room(tiny: Path, tmp_path: Path):
    folder = tiny / "store"
    for version in ("1", "2"):
        install(packed(tmp_path, version, size=300_000), folder, PLENTY)
    (tiny / "filler").write_bytes(bytes(os.statvfs(tiny).f_bavail * os.statvfs(tiny).f_frsize))
    assert install(packed(tmp_path, "3"), folder, PLENTY).evicted
    assert versions(folder) == ["3", "2"]
    assert verify_store(folder) == []


def test_a_limit_on_file_sizes_is_told_as_one(home: Path, tmp_path: Path):
    install(packed(tmp_path, "1"), home, PLENTY)
    bundle = packed(tmp_path, "2")

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (BIG // 2, BIG // 2))
        install(bundle, home, PLENTY)

    assert forked(limited) == 7
    assert versions(home) == ["1"]
    assert len(left(home)) == 2


@pytest.mark.parametrize("place", range(8))
def test_a_write_that_fails_anywhere_leaves_what_was_there(place: int, home: Path, tmp_path: Path, monkeypatch: Any):
    for version in ("1", "2"):
        install(packed(tmp_path, version), home, PLENTY)
    bundle, calls = packed(tmp_path, "3"), iter(range(100))

    def failing(real: Any) -> Any:
        def call(*words: Any) -> Any:
            if next(calls) == place:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*words)

        return call

    for name in ("fsync", "replace"):
        monkeypatch.setattr(os, name, failing(getattr(os, name)))
    try:
        install(bundle, home, PLENTY)
    except (BudgetError, StoreError):
        assert versions(home) in (["2", "1"], ["3", "2"])
        assert len(left(home)) == 3
    else:
        assert place >= 6
    assert verify_store(home) == []


def test_a_stick_that_is_pulled_and_a_bundle_that_changes(home: Path, tmp_path: Path, monkeypatch: Any):
    install(packed(tmp_path, "1"), home, PLENTY)
    before, bundle, real = left(home), packed(tmp_path, "2"), store_copy._pour

    def during(act: Callable[[], Any]) -> None:
        monkeypatch.setattr(store_copy, "_pour", lambda *words: (act(), real(*words)))

    other = packed(tmp_path, "2.5").read_bytes()
    for act, said in (
        (lambda: os.truncate(bundle, BIG // 2), "wanted the .* that were there when this began"),
        (lambda: bundle.write_bytes(other), "changed while it was copied|wanted the"),
        (bundle.unlink, "No such file or directory: it was there when this began"),
    ):
        packed(tmp_path, "2")
        during(act)
        with pytest.raises((StoreError, BundleError), match=said):
            install(bundle, home, PLENTY)
        assert left(home) == before
    monkeypatch.setattr(store_copy, "_pour", real)
    monkeypatch.setattr(store_copy, "_read_source", _unreadable)
    with pytest.raises(StoreError, match="put the stick back in"):
        install(packed(tmp_path, "2"), home, PLENTY)
    assert left(home) == before


def _unreadable(*_: object) -> bytes:
    raise StoreError("b: Input/output error while it was copied", hint="put the stick back in")


def test_every_kind_of_leftover_is_taken_away_and_nothing_else(home: Path, tmp_path: Path):
    done = install(packed(tmp_path, "1"), home, PLENTY)
    whole = bundle_file(home, "b", done.kept.digest).read_bytes()
    for name in (".incoming-1", ".incoming-99", ".index-7", f"b@{'0' * 64}.edge", f"gone@{'1' * 64}.edge"):
        (home / name).write_bytes(whole[:1000])
    for name in ("README", "notes.edge", "keys"):
        (home / name).write_bytes(b"mine")
    (home / "keys").unlink()
    assert len(verify_store(home)) == 4
    install(packed(tmp_path, "2"), home, PLENTY)
    assert left(home) == {"README", "notes.edge", "b.json", *(p.name for p in bundle_files(home))}
    assert len(bundle_files(home)) == 2


def test_two_installs_at_once_take_turns(home: Path, tmp_path: Path):
    bundles = [packed(tmp_path, str(number)) for number in range(1, 7)]
    pids = []
    for one in bundles:
        pid = os.fork()
        if not pid:
            try:
                install(one, home, PLENTY, allow_older=True)
            finally:
                os._exit(0)
        pids.append(pid)
    for pid in pids:
        os.waitpid(pid, 0)
    assert len(versions(home)) == 2
    assert verify_store(home) == []
    assert len(left(home)) == 3


def test_a_store_that_is_locked_for_long_is_told(home: Path, tmp_path: Path):
    install(packed(tmp_path), home, PLENTY)
    with store._changing(home), pytest.raises(StoreError, match="another command has been changing this store"):
        store._changing(home, wait_s=0.0).__enter__()


def test_media_that_cannot_be_written(tmp_path: Path):
    folder = tmp_path / "file"
    folder.write_bytes(b"")
    with pytest.raises(StoreError, match="wanted a folder to write to"):
        install(packed(tmp_path), folder / "store", PLENTY)
    with pytest.raises(StoreError, match="Not a directory"):
        list_store(folder)


def test_a_read_only_store_can_be_used_and_not_changed(home: Path, tmp_path: Path):
    install(packed(tmp_path), home, PLENTY)
    command = ["mount", "--bind", "-o", "ro", str(home), str(home)]
    if os.geteuid() or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("only root may mount a folder read-only")
    try:
        assert load_bundle("b").version == "1.0"
        assert verify_store(home) == []
        for change in (lambda: install(packed(tmp_path, "2"), home, PLENTY), lambda: remove("b", home)):
            with pytest.raises(StoreError, match="Read-only file system"):
                change()
    finally:
        subprocess.run(["umount", str(home)], check=True)


# ---------------------------------------------------------------- while a session runs


def test_a_session_keeps_its_version_through_installs_even_after_a_breach(home: Path, tmp_path: Path):
    red = picture(tmp_path / "a.png", (255, 0, 0))
    install(packed(tmp_path, "1"), home, PLENTY)
    with edge.open_session("b", small_device()) as session:
        assert session.predict(red)
        mine = session.bundle.path
        for version in ("2", "3", "4"):
            install(packed(tmp_path, version), home, PLENTY)
        assert versions(home) == ["4", "3"]
        assert in_use(mine)
        child = session._child
        assert isinstance(child, Child)
        child.close()  # as after a breach: the next item gets a fresh child, which reads the bundle again
        assert session.predict(red)
        assert session.origin.bundle == "b 1"
        tight = Room(sum(bundle_files(home).values()), 0)
        install(packed(tmp_path, "5"), home, tight)
        assert mine.exists(), "what a session has open makes no room"
        with pytest.raises(BudgetError, match="is an older version that a running session has open"):
            install(packed(tmp_path, "5.1", size=3 * BIG), home, tight)
        with pytest.raises(StoreError, match="a running session has it open"):
            remove("b", home)
    assert not in_use(mine)
    install(packed(tmp_path, "6"), home, PLENTY)
    assert not mine.exists()


def test_a_session_goes_on_when_it_is_rolled_back(home: Path, tmp_path: Path):
    for version in ("1", "2"):
        install(packed(tmp_path, version), home, PLENTY)
    with edge.open_session("b", small_device()) as session:
        rollback("b", home)
        assert session.predict(picture(tmp_path / "a.png", (255, 0, 0)))
        assert session.origin.bundle == "b 2"
    with edge.open_session("b", small_device()) as session:
        assert session.origin.bundle == "b 1"


def test_holding_is_seen_by_other_processes_and_ends_with_the_holder(tmp_path: Path):
    bundle = packed(tmp_path)
    held = hold(bundle)
    code = (
        f"import sys, pathlib; from edge_runtime.shelf import in_use; sys.exit(in_use(pathlib.Path({str(bundle)!r})))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 1
    os.close(held)
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
    assert hold(tmp_path / "none") == -1
