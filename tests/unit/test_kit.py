"""The install kit, installed natively: mostly with a package that only says its name, once with the real one.

Inside emulated ARM machines the same is done by scripts/arm/test.
"""

from __future__ import annotations

import os
import platform
import shutil
import struct
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scripts.kits import installer
from scripts.kits import kit_file as build

ROOT = Path(__file__).resolve().parents[2]

PYTHON = "{}.{}".format(*sys.version_info[:2])
BITS = struct.calcsize("P") * 8
HERE = build.Target(platform.machine(), BITS, (), (), {}, system=build.TARGETS["armv7l"].system[2:])
WANTED = {"arch": "aarch64", "bits": 64, "python": "3.11", "glibc": "2.28", "features": ["asimd"]}
PI = {"python": "3.11", "implementation": "cpython", "bits": 64, "machine": "aarch64", "abi": "aarch64-linux-gnu"}
PI |= {"library": "glibc 2.36", "features": {"asimd", "fp"}}
PI_32 = {**PI, "bits": 32, "abi": "arm-linux-gnueabihf", "features": {"asimd", "fp"}}  # on its 64-bit kernel


def small_wheel(
    folder: Path, says: str = "self-test: ok", code: int = 0, name: str = "edge_runtime/__main__.py"
) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "edge_runtime-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("edge_runtime/__init__.py", "")
        wheel.writestr(name, f"import sys\nprint({says!r}, *sys.argv[1:])\nsys.exit({code})\n")
        wheel.writestr("edge_runtime-0.1.0.data/purelib/beside.py", "")
        wheel.writestr("edge_runtime-0.1.0.data/scripts/tool", "")
    return path


def make_kit(folder: Path, device: str = "", target: Any = HERE, **wheel: Any) -> Path:
    path = folder / f"kit{device}.pyz"
    build.make_kit(target, PYTHON, [small_wheel(folder / "wheels", **wheel)], path, device=device)
    return path


def run(kit: Path, into: Path, *words: str, patch: str = "") -> subprocess.CompletedProcess[str]:
    """`patch`: Python that is executed in the kit before its main."""
    line = [sys.executable, str(kit)]
    if patch:
        code = f"import sys; sys.path.insert(0, {str(kit)!r}); import __main__ as old\nimport runpy, os\n{patch}\n"
        line = [sys.executable, "-c", f"{code}runpy.run_path({str(kit)!r}, run_name='__main__')"]
    return subprocess.run([*line, "--into", str(into), *words], capture_output=True, text=True, check=False)


def start(into: Path, *words: str) -> str:
    done = subprocess.run([into / "edge-runtime", *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def everything(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_it_is_installed_tried_and_started(tmp_path: Path) -> None:
    into = tmp_path / "a folder"
    done = run(make_kit(tmp_path), into)
    assert done.returncode == 0, done.stderr
    assert "self-test: ok doctor --self-test" in done.stderr
    assert start(into, "doctor", "a b") == "self-test: ok doctor a b"
    (version,) = (into / "versions").iterdir()
    assert {path.name for path in (version / "site").iterdir()} == {"edge_runtime", "beside.py"}
    assert list((version / "site" / "edge_runtime").rglob("*.pyc"))  # compiled when it was tried, and not later


def test_again_upgrades_and_keeps_the_former_one(tmp_path: Path) -> None:
    into = tmp_path / "into"
    for number in range(3):
        kit = make_kit(tmp_path, str(number), says=f"number {number}")
        for _ in range(2):  # the second time it is there already
            assert run(kit, into).returncode == 0
            assert start(into) == f"number {number}"
    assert len(list((into / "versions").iterdir())) == 2


def test_what_was_damaged_since_is_unpacked_again_and_the_journal_beside_it_stays(tmp_path: Path) -> None:
    into, kit = tmp_path / "into", make_kit(tmp_path)
    assert run(kit, into).returncode == 0
    (into / "clinic.db").write_text("rows")
    (program,) = (into / "versions").glob("*/site/edge_runtime/__main__.py")
    program.write_text("sys.exit('damaged')")
    done = run(kit, into)
    assert done.returncode == 0 and "does not work any more" in done.stderr, done.stderr
    assert start(into, "doctor") == "self-test: ok doctor"
    assert (into / "clinic.db").read_text() == "rows" and len(list((into / "versions").iterdir())) == 1


@pytest.mark.parametrize("call", ["os.rename", "os.sync", "os.chmod"])
def test_cut_off_in_the_middle_leaves_the_old_one(tmp_path: Path, call: str) -> None:
    into = tmp_path / "into"
    assert run(make_kit(tmp_path, "1", says="old"), into).returncode == 0
    new = make_kit(tmp_path, "2", says="new")
    assert run(new, into, patch=f"{call} = lambda *_: os._exit(9)").returncode == 9
    assert start(into) == "old"
    assert run(new, into).returncode == 0
    assert start(into) == "new"
    assert not [path for path in everything(into) if path.endswith(".new")]


def test_one_that_fails_its_test_does_not_take_the_place(tmp_path: Path) -> None:
    into = tmp_path / "into"
    assert run(make_kit(tmp_path, "1", says="old"), into).returncode == 0
    before = everything(into)
    done = run(make_kit(tmp_path, "2", says="no engine works here", code=1), into)
    assert (done.returncode, start(into)) == (1, "old")
    assert "no engine works here" in done.stderr and "as it was" in done.stderr
    assert everything(into) == before


def test_a_full_disk_is_seen_before_anything_is_written(tmp_path: Path) -> None:
    kit = make_kit(tmp_path)
    full = (
        "import types; os.statvfs = lambda _: types.SimpleNamespace(f_bavail=9, f_frsize=4096, f_files=0, f_favail=0)"
    )
    done = run(kit, tmp_path / "into", patch=full)
    assert done.returncode == 1
    assert "0 MiB free, wanted 16 MiB" in done.stderr
    assert not (tmp_path / "into").exists()


def test_a_disk_that_fills_up_leaves_the_old_one(tmp_path: Path) -> None:
    into = tmp_path / "into"
    assert run(make_kit(tmp_path, "1", says="old"), into).returncode == 0
    before = everything(into)
    fills = "import shutil, errno\ndef copy(*_): raise OSError(errno.ENOSPC, 'No space left on device')\n"
    done = run(make_kit(tmp_path, "2"), into, patch=f"{fills}shutil.copyfileobj = copy")
    assert done.returncode == 1 and "No space left" in done.stderr and "Traceback" not in done.stderr
    assert (everything(into), start(into)) == (before, "old")


@pytest.mark.parametrize("how", ["flipped", "short"])
def test_a_damaged_kit_is_refused_before_anything_is_written(tmp_path: Path, how: str) -> None:
    kit = make_kit(tmp_path)
    content = bytearray(kit.read_bytes())
    content[content.index(b"self-test: ok")] ^= 1
    kit.write_bytes(content if how == "flipped" else content[: len(content) // 2])
    done = run(kit, tmp_path / "into")
    assert done.returncode == 1
    if how == "flipped":
        assert "damaged" in done.stderr and "copy the file here again" in done.stderr
    assert not (tmp_path / "into").exists()


def test_a_wheel_writes_nothing_outside(tmp_path: Path) -> None:
    done = run(make_kit(tmp_path, name="../../../outside.py"), tmp_path / "into")
    assert done.returncode == 1 and "outside the folder" in done.stderr
    assert not list(tmp_path.rglob("outside.py"))


@pytest.mark.parametrize("what", ["file", "strangers"])
def test_what_is_somebody_elses_is_left_alone(tmp_path: Path, what: str) -> None:
    into = tmp_path / "into"
    if what == "file":
        into.write_text("mine")
    else:
        into.mkdir()
        (into / "letter.txt").write_text("mine")
    done = run(make_kit(tmp_path), into)
    assert done.returncode == 1 and "--into" in done.stderr
    assert (into if what == "file" else into / "letter.txt").read_text() == "mine"


def test_check_writes_nothing(tmp_path: Path) -> None:
    done = run(make_kit(tmp_path), tmp_path / "into", "--check")
    assert done.returncode == 0 and "goes here" in done.stdout
    assert not (tmp_path / "into").exists()


@pytest.mark.parametrize(
    ("arch", "here", "said"),
    [
        ("aarch64", PI, None),
        ("aarch64", {**PI, "features": set()}, None),  # unknown: the self-test will tell
        ("armv7l", PI_32, None),
        ("armv7l", {**PI_32, "machine": "armv7l", "features": {"half", "neon", "vfpv4"}}, None),
        ("aarch64", PI_32, "found a 32-bit Python on aarch64, wanted a 64-bit"),
        ("armv7l", PI, "found a 64-bit Python on aarch64, wanted a 32-bit"),
        ("armv7l", {**PI_32, "machine": "armv6l"}, "armv6l"),
        ("armv7l", {**PI_32, "abi": "arm-linux-gnueabi"}, "hard float"),
        ("armv7l", {**PI_32, "features": {"vfp"}}, "lacks neon, vfpv4"),
        ("aarch64", {**PI, "machine": "x86_64"}, "--arch x86_64"),
        ("aarch64", {**PI, "python": "3.13"}, "--python 3.13"),
        ("aarch64", {**PI, "implementation": "pypy"}, "pypy"),
        ("aarch64", {**PI, "library": "glibc 2.9"}, "wanted 2.28 or newer"),
        ("aarch64", {**PI, "library": ""}, "proot-distro"),
    ],
)
def test_what_does_not_go_here_is_said(arch: str, here: dict[str, Any], said: str | None) -> None:
    target = build.TARGETS[arch]
    wanted = {**WANTED, "arch": arch, "bits": target.bits, "features": list(target.features)}
    found = [" ".join(one) for one in installer.objections(wanted, here)]
    assert len(found) == (said is not None)
    assert said is None or said in found[0]


def test_the_systems_packages_must_be_there_and_fit(tmp_path: Path) -> None:
    modules = (build.Module("nowhere", "python3-nowhere", "1.0"), build.Module("psutil", "python3-psutil", "1", "2"))
    done = run(make_kit(tmp_path, target=replace(HERE, system=modules)), tmp_path / "into")
    assert done.returncode == 1
    assert "found no nowhere" in done.stderr and "older than 2" in done.stderr
    assert "apt-get install python3-nowhere python3-psutil" in done.stderr


def test_same_inputs_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = make_kit(tmp_path / "a"), make_kit(tmp_path / "b")
    assert first.read_bytes() == second.read_bytes()
    assert first.read_bytes() != make_kit(tmp_path / "a", "other").read_bytes()
    assert os.access(first, os.X_OK)


def test_glibc_is_what_every_wheel_runs_on() -> None:
    names = ["a-1-cp311-cp311-manylinux_2_27_aarch64.manylinux_2_28_aarch64.whl", "b-1-py3-none-any.whl"]
    assert build.least_glibc(names) == "2.27"
    assert build.least_glibc([*names, "c-1-cp311-cp311-manylinux_2_34_armv7l.whl"]) == "2.34"
    assert build.least_glibc(["d-1-cp36-abi3-manylinux2014_aarch64.whl"]) == "2.17"


@pytest.mark.parametrize("path", sorted((ROOT / "scripts" / "kits").glob("*-3.*.txt")), ids=lambda path: path.stem)
def test_locks_name_every_wheel_with_its_digest(path: Path) -> None:
    sections = build.pinned(path)
    assert sections.keys() == {"common", build.SIGN, *build.TARGETS[path.stem.rpartition("-")[0]].engines}
    assert all(
        "==" in line and len(line.partition("--hash=sha256:")[2]) == 64 for one in sections.values() for line in one
    )
    signing = [line.partition("==")[0] for line in sections[build.SIGN]]
    assert signing == ([] if path.stem.startswith("armv7l") else ["cffi", "pycparser", "pynacl"])


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--device", "raspberry-pi-5"], "-o FILE"),
        (["--device", "nothing", "-o", "x.pyz"], "nothing"),
        (["--arch", "armv7l", "--python", "3.13", "-o", "x.pyz"], "--lock armv7l-3.13"),
        (["--arch", "armv7l", "--engine", "onnxruntime", "-o", "x.pyz"], "wanted one of litert"),
        (["--arch", "armv7l", "--wheels", "EMPTY", "-o", "x.pyz"], "tflite-runtime"),
        (["--arch", "aarch64", "--bundle", "no.edge", "-o", "x.pyz"], "no.edge"),
    ],
)
def test_what_cannot_be_made_is_said(tmp_path: Path, words: list[str], said: str) -> None:
    (tmp_path / "EMPTY").mkdir()
    line = [sys.executable, ROOT / "scripts" / "kit", *words]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode in (1, 2)
    assert said in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "x.pyz").exists()


def test_the_real_package_reads_slides_where_it_was_installed(tmp_path: Path) -> None:
    wheel = build.own_wheel(tmp_path)
    build.make_kit(replace(HERE, system=build.TARGETS["armv7l"].system[1:]), PYTHON, [wheel], tmp_path / "kit.pyz")
    shutil.move(wheel, tmp_path / "elsewhere.whl")
    done = run(tmp_path / "kit.pyz", tmp_path / "into")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("self-test: ok") == 3
    assert "malaria" in start(tmp_path / "into", "inspect", "malaria")


@pytest.mark.parametrize(("sign", "wanted"), [(False, []), (True, ["nacl"])])
def test_a_kit_that_checks_signatures_on_32_bit_asks_for_the_systems_library(
    tmp_path: Path, sign: bool, wanted: list[str]
) -> None:
    out = tmp_path / "kit.pyz"
    about = build.make_kit(build.TARGETS["armv7l"], "3.11", [small_wheel(tmp_path)], out, sign=sign)
    assert [one["module"] for one in about["system"]] == ["numpy", "PIL", "psutil", *wanted]
