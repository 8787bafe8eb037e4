"""The package on an emulated ARM computer: `pytest -m arm`, once scripts/arm/setup has made one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(os.environ.get("EDGE_RUNTIME_ARM") or ROOT / "build" / "arm")


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([ROOT / "scripts" / "arm" / "run", *words], capture_output=True, text=True, check=False)


@pytest.mark.arm
@pytest.mark.parametrize(("image", "words", "arch"), [("arm64", [], "aarch64"), ("armhf", ["--32bit"], "armv7l")])
def test_doctor_finds_an_engine(image: str, words: list[str], arch: str) -> None:
    if not (FOLDER / f"{image}.img").exists() or not shutil.which("qemu-system-aarch64"):
        pytest.skip(f"no emulated machine: {FOLDER / image}.img or qemu is not there (scripts/arm/setup makes them)")
    done = run(*words, "--", "python3", "-m", "edge_runtime", "doctor", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["arch"] == arch
    assert any(one["works"] for one in found["engines"])


@pytest.mark.arm
def test_files_and_exit_code_come_back(tmp_path: Path) -> None:
    if not (FOLDER / "arm64.img").exists() or not shutil.which("qemu-system-aarch64"):
        pytest.skip(f"no emulated machine: {FOLDER}/arm64.img or qemu is not there (scripts/arm/setup makes them)")
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a file").write_text("x")
    script = "cat 'a file'; printf 'a\\r\\nb' >&2; cp 'a file' out/b; exit 7"
    done = run("--data", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--", "sh", "-c", script)
    assert (done.returncode, done.stdout) == (7, "x")
    assert (tmp_path / "out" / "b").read_text() == "x"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--icount", "--smp", "2", "--", "true"], "wanted 1"),
        (["--dir", "/nowhere", "--", "true"], "scripts/arm/setup --dir /nowhere"),
        (["--cpu", "max", "--", "true"], "invalid choice"),
        (["--data", "/nowhere", "--", "true"], "not a folder"),
    ],
)
def test_what_cannot_be_is_refused(words: list[str], said: str) -> None:
    done = run(*words)
    assert done.returncode in (1, 2)
    assert said in done.stderr
    assert "Traceback" not in done.stderr
