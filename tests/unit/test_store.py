"""The store: what is installed stays whole whatever happens in the middle, and the quota holds at every moment."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.bundle import find_bundle, load_bundle, pack
from edge_runtime.errors import BudgetError, BundleError, StoreError
from edge_runtime.shelf import bundle_file, index_file, installed_bundle, read_shelf
from edge_runtime.store import Room, bundle_files, install, remove, rollback, verify_store
from edge_runtime.store_copy import space
from edge_runtime.version_order import compare_versions
from tests.conftest import null_model
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
    with pytest.raises(BundleError, match="neither installed nor shipped"):
        load_bundle("malaria@1.0.0")  # not installed: the shipped one is called by its name
    assert rollback("b", home).current.version == "1.2"
    assert remove("b", home) > 2 * BIG
    assert left(home) == set()
    with pytest.raises(BundleError, match="b: found no bundle of this name, neither"):
        load_bundle("b")


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


def test_a_file_of_the_folder_does_not_take_a_name(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A stick with a file called malaria, an older bundle with a good signature."""
    stick = tmp_path / "stick"
    stick.mkdir()
    (stick / "b").write_bytes(packed(tmp_path, "0.1").read_bytes())
    (stick / "malaria").write_bytes(packed(tmp_path, "0.1", "malaria").read_bytes())
    shipped = find_bundle("malaria")
    monkeypatch.chdir(stick)
    assert find_bundle("malaria") == shipped
    with pytest.raises(BundleError, match=r"b: found no bundle of this name.*\n.*a file in this folder is called ./b"):
        load_bundle("b")
    for path in ("./b", "../stick/b", Path("b")):
        assert load_bundle(path).version == "0.1"
    install(packed(tmp_path, "1.0"), home, PLENTY)
    assert load_bundle("b").version == "1.0"
    done = cli("store", "install", "b", "--json")
    assert '"done": "unchanged"' in done.stdout, done.stderr
    assert load_bundle("./b").version == "0.1"


@pytest.mark.parametrize(
    "changes",
    [{"version": "1.0\ud800"}, {"version": "\x1b[2J"}, {"installed": "\ud800"}, {"size": 10**400}, {"digest": None}],
)
def test_one_entry_that_cannot_be_read_does_not_hide_the_others(home: Path, tmp_path: Path, changes: Any):
    for name in "bc":
        install(packed(tmp_path, name=name), home, PLENTY)
    plain = json.loads(index_file(home, "b").read_text())
    plain["current"] |= changes
    index_file(home, "b").write_text(json.dumps(plain))
    done = cli("store", "list")
    assert (done.returncode, done.stdout.split()[0]) == (1, "c"), done.stderr
    assert "b.json: found " in done.stderr
    assert "Traceback" not in done.stderr
    assert remove("b", home)


@pytest.mark.parametrize("name", ["../victim", "a/b", "..", "", "B", "/etc/passwd"])
def test_only_names_are_removed_and_rolled_back(home: Path, name: str):
    victim = home.parent / "victim.json"
    victim.write_text("{}")
    for act in (remove, rollback):
        with pytest.raises(StoreError, match="wanted the name of a bundle"):
            act(name, home)
    assert victim.exists()
    assert not home.exists()


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
    free, reserve = space(tmp_path)
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
    lines = cli("store", "list", "--store", folder, "--json").stdout.splitlines()
    *rows, room = [json.loads(line) for line in lines]
    assert room["used_bytes"] == sum(row["size"] for row in rows) < room["quota_bytes"] and room["problems"] == 0
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
