"""The store: what is installed stays whole whatever happens in the middle, and the quota holds at every moment."""

from __future__ import annotations

import errno
import json
import linecache
import os
import random
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import edge_runtime as edge
from edge_runtime import store, store_copy
from edge_runtime.bundle import find_bundle, load_bundle, pack, read_bundle
from edge_runtime.errors import BudgetError, BundleError, StoreError
from edge_runtime.guard import Child
from edge_runtime.shelf import bundle_file, hold, in_use, index_file, installed_bundle, read_shelf
from edge_runtime.store import Room, bundle_files, install, list_store, remove, rollback, verify_store
from edge_runtime.version_order import compare_versions
from tests.conftest import null_model, picture, small_device
from tests.unit.test_bundle import FILES
from tests.unit.test_cli import cli
from tests.unit.test_session import header

BIG = 100_000
PLENTY = Room(10 << 20, 0)


def packed(folder: Path, version: str = "1.0", name: str = "b", size: int = BIG) -> Path:
    """A bundle with noise in it, of some `size` bytes."""
    noise = random.Random(f"{name} {version}").randbytes(size)
    files = {"m.null": null_model(), "card.md": noise}
    return pack(header(name=name, version=version), files, folder / f"{name}-{version}.edge").path


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The device's own store."""
    monkeypatch.setenv("EDGE_RUNTIME_STORE", str(tmp_path / "store"))
    return tmp_path / "store"


def versions(folder: Path, name: str = "b") -> list[str]:
    shelf = read_shelf(folder, name)
    return [kept.version for kept in shelf.kept] if shelf else []


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {".lock"}


def test_two_versions_are_kept_and_a_name_finds_the_current_one(home: Path, tmp_path: Path):
    for number, version in enumerate(("1.0", "1.1", "1.2")):
        done = install(packed(tmp_path, version), home, PLENTY)
        assert done.kind == ("updated" if number else "installed")
    assert versions(home) == ["1.2", "1.1"]
    assert len(bundle_files(home)) == 2
    assert verify_store(home) == []
    assert load_bundle("b").version == "1.2"
    assert rollback("b", home).current.version == "1.1"
    assert load_bundle("b").version == "1.1"
    assert load_bundle("b@1.2").version == "1.2"
    with pytest.raises(StoreError, match=r"found b 1.1 and 1.2, wanted 1.0"):
        load_bundle("b@1.0")
    with pytest.raises(BundleError, match="No such file"):
        load_bundle("malaria@1.0.0")  # not installed: the shipped one is called by its name
    assert rollback("b", home).current.version == "1.2"
    assert remove("b", home) > 2 * BIG
    assert left(home) == set()
    assert find_bundle("b") == Path("b")


def test_what_is_installed_goes_before_what_was_shipped(home: Path, tmp_path: Path):
    shipped = find_bundle("malaria")
    assert shipped.suffix == ".edge"
    install(packed(tmp_path, "9.0", "malaria"), home, PLENTY)
    assert load_bundle("malaria").version == "9.0"
    assert load_bundle(shipped).version != "9.0"
    index_file(home, "malaria").write_text("{")  # it must not quietly take another one
    with pytest.raises(StoreError, match="store remove malaria, and install"):
        load_bundle("malaria")
    remove("malaria", home)
    assert find_bundle("malaria") == shipped


def test_the_same_bundle_twice_is_one_copy_and_a_damaged_copy_is_renewed(home: Path, tmp_path: Path):
    bundle = packed(tmp_path)
    first = install(bundle, home, PLENTY)
    again = install(bundle, home, PLENTY)
    assert (again.kind, again.kept) == ("unchanged", first.kept)
    copy = bundle_file(home, "b", first.kept.digest)
    content = bytearray(copy.read_bytes())
    content[-50] ^= 1
    copy.write_bytes(content)
    assert "damaged or was changed" in verify_store(home)[0].what
    assert install(bundle, home, PLENTY).kind == "renewed"
    assert verify_store(home) == []
    assert versions(home) == ["1.0"]


def test_an_older_version_wants_to_be_asked_for(home: Path, tmp_path: Path):
    old, odd = packed(tmp_path, "1.9"), packed(tmp_path, "spring")
    install(packed(tmp_path, "1.10"), home, PLENTY)
    with pytest.raises(StoreError, match=r"b 1.9 is older than 1.10, which is installed\n  try: .*--allow-older"):
        install(old, home, PLENTY)
    with pytest.raises(StoreError, match="spring cannot be compared with 1.10"):
        install(odd, home, PLENTY)
    assert versions(home) == ["1.10"]
    assert install(old, home, PLENTY, allow_older=True).kind == "replaced"
    assert versions(home) == ["1.9", "1.10"]
    assert install(tmp_path / "b-1.10.edge", home, Room(0, 0)).kind == "updated", "it is there: no copy, no room needed"
    with pytest.raises(StoreError, match="is older"):
        install(old, home, PLENTY)


@pytest.mark.parametrize(
    ("one", "other", "order"),
    [
        *[("1.0", "1", 0), ("1.0", "1.0.0", 0), ("1.2", "1.10", -1), ("v2", "1.9", 1), ("1.0-rc1", "1.0", -1)],
        *[("1.0-rc2", "1.0-rc10", -1), ("1.0-1", "1.0-a", -1), ("a", "a", 0), ("a", "1", None), ("1.0.", "1.0", None)],
    ],
)
def test_the_order_of_versions(one: str, other: str, order: int | None):
    assert compare_versions(one, other) == order
    assert compare_versions(other, one) == (None if order is None else -order)


@given(st.text(max_size=20), st.text(max_size=20))
def test_any_versions_compare_or_do_not(one: str, other: str):
    found, back = compare_versions(one, other), compare_versions(other, one)
    assert found == (None if back is None else -back)


# ---------------------------------------------------------------- room


def test_nothing_is_written_where_it_would_not_fit(home: Path, tmp_path: Path):
    first = packed(tmp_path, "1.0")
    size = first.stat().st_size
    with pytest.raises(BudgetError, match="b-1.0.edge needs .* of the quota of") as caught:
        install(first, home, Room(size - 1, 0))
    assert (caught.value.exit_code, caught.value.predicted_bytes) == (3, size)
    free, reserve = store.space(tmp_path)
    assert reserve >= 16 << 20
    with pytest.raises(BudgetError, match="stay for the journal"):
        install(first, home, Room(10 << 20, free))
    assert left(home) == set()
    install(first, home, Room(size, 0))
    before = left(home)
    with pytest.raises(BudgetError):  # beside the current one, which is never taken away
        install(packed(tmp_path, "1.1"), home, Room(2 * size - 1, 0))
    assert left(home) == before


def test_previous_versions_make_room_their_own_first_then_the_oldest(home: Path, tmp_path: Path):
    for name in "abc":
        for version in ("1", "2"):
            install(packed(tmp_path, version, name), home, PLENTY)
            stamp = {"a": "2026-02", "b": "2026-01", "c": "2026-03"}[name] + f"-0{version}"
            index = index_file(home, name)
            index.write_text(json.dumps(_dated(json.loads(index.read_text()), stamp)))
    size = max(bundle_files(home).values())
    full = Room(sum(bundle_files(home).values()) + 100, 0)
    done = install(packed(tmp_path, "3", "a"), home, full)
    assert [one[:2] for one in done.evicted] == ["a@"]
    done = install(packed(tmp_path, "1", "d", 2 * BIG), home, full)
    assert [one[:2] for one in done.evicted] == ["b@", "a@"], "2026-01 before 2026-02; no more than it needs"
    before = left(home)
    with pytest.raises(BudgetError):  # c's previous alone is not enough: then it stays
        install(packed(tmp_path, "1", "e", 3 * size), home, full)
    assert left(home) == before


def _dated(plain: dict[str, Any], stamp: str) -> dict[str, Any]:
    for kept in filter(None, (plain["current"], plain["previous"])):
        kept["installed"] = stamp
    return plain


def test_a_damaged_bundle_costs_nobody_a_version(home: Path, tmp_path: Path):
    for version in ("1", "2"):
        install(packed(tmp_path, version), home, PLENTY)
    bad = packed(tmp_path, "3")
    content = bytearray(bad.read_bytes())
    content[-50] ^= 1
    bad.write_bytes(content)
    for room in (PLENTY, Room(sum(bundle_files(home).values()), 0)):
        with pytest.raises(BundleError, match=r"b-3.edge: .* is damaged"):
            install(bad, home, room)
        assert versions(home) == ["2", "1"]
        assert len(left(home)) == 3


# ---------------------------------------------------------------- what happens in the middle


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


# ---------------------------------------------------------------- the command line


def test_the_verbs(tmp_path: Path):
    folder, device = tmp_path / "s", ("--device", "raspberry-pi-zero-2w")
    one = packed(tmp_path, "1")
    assert cli("store", "list", "--store", folder).returncode == 0
    done = cli("store", "install", one, "--store", folder, *device)
    assert (done.returncode, done.stdout.startswith("b 1: installed;")) == (0, True), done.stderr
    assert f"EDGE_RUNTIME_STORE={folder} edge-runtime run b" in done.stderr
    done = cli("store", "install", packed(tmp_path, "2"), "--store", folder, *device, "--json")
    assert json.loads(done.stdout)["before"]["version"] == "1"
    rows = [json.loads(line) for line in cli("store", "list", "--store", folder, "--json").stdout.splitlines()]
    assert [(row["version"], row["role"]) for row in rows] == [("2", "current"), ("1", "previous")]
    assert "1 is the current version again" in cli("store", "rollback", "b", "--store", folder).stdout
    assert "2 bundles, every byte" in cli("store", "verify", "--store", folder).stderr
    Path(rows[0]["path"]).write_bytes(b"")
    assert cli("store", "verify", "--store", folder).returncode == 1
    environment = os.environ | {"EDGE_RUNTIME_STORE": str(folder)}
    assert "from this device's store" in cli("inspect", "b", env=environment).stdout
    assert json.loads(cli("inspect", "b", "--json", env=environment).stdout)["origin"] == "store"
    assert "came with the package" in cli("inspect", "malaria", env=environment).stdout
    one = pack(header(variants=[costly(header()["variants"][0])]), FILES, tmp_path / "large.edge").path
    done = cli("store", "install", one, "--store", folder, *device)
    assert (done.returncode, "it is installed, and will not run there: " in done.stderr) == (0, True), done.stderr
    (folder / ".incoming-1").write_bytes(bytes(1 << 20))
    assert "1 MiB is of an interrupted command" in cli("store", "list", "--store", folder).stderr
    (folder / "notes.json").write_text("[]")
    done = cli("store", "list", "--store", folder)
    assert (done.returncode, "notes.json: found" in done.stderr, done.stdout.count("b  ")) == (1, True, 2)
    (folder / "notes.json").unlink()
    big = packed(tmp_path, "1", "big", 2 << 20)
    done = cli("store", "install", big, "--store", folder, *device, "--reserve", "9999GiB")
    assert (done.returncode, "stay for the journal" in done.stderr) == (3, True)
    assert cli("store", "remove", "b", "--store", folder).returncode == 0
    done = cli("store", "remove", "b", "--store", folder)
    assert (done.returncode, "installed is means" in done.stderr) == (1, True)
    assert cli("store").returncode == 2


def costly(variant: dict[str, Any]) -> dict[str, Any]:
    cost = {"ram_bytes": 1 << 40, "storage_bytes": 0, "latency_ms": None, "energy_mj": None}
    machines = {f"null/{arch}": {**cost, "basis": "measured", "where": ""} for arch in ("aarch64", "armv7l")}
    return {**variant, "costs": machines}


def test_it_runs_on_the_standard_library_alone(home: Path, tmp_path: Path):
    code = (
        "import sys\nfrom edge_runtime.cli import main\n"
        f"assert main(['store', 'install', {str(packed(tmp_path))!r}]) == 0\n"
        "for words in (['list'], ['verify'], ['remove', 'b']): assert main(['store', *words]) == 0\n"
        "heavy = {'numpy', 'PIL', 'psutil', 'onnxruntime', 'nacl', 'cryptography', 'hashlib'} & set(sys.modules)\n"
        "sys.exit(str(sorted(heavy)) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_where_the_store_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    from edge_runtime.shelf import store_folder

    monkeypatch.delenv("EDGE_RUNTIME_STORE", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert store_folder() == tmp_path / "edge_runtime" / "store"
    assert installed_bundle("malaria") is None


@settings(max_examples=30)
@given(st.recursive(st.none() | st.integers() | st.text(max_size=5), lambda inner: st.dictionaries(st.text(), inner)))
def test_an_index_that_is_anything_is_refused_in_words(tmp_path_factory: pytest.TempPathFactory, plain: Any):
    folder = tmp_path_factory.getbasetemp() / "odd-index"
    folder.mkdir(exist_ok=True)
    for found in (plain, {"schema": 1, "name": "b", "current": plain, "previous": None}):
        index_file(folder, "b").write_text(json.dumps(found))
        with pytest.raises(StoreError, match="wanted what `store` writes"):
            read_shelf(folder, "b")
