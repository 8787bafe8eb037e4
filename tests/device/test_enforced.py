"""The memory limit held by a real ARM kernel: `pytest -m arm`, once scripts/arm/setup has made a machine."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.device.test_emulated import FOLDER, ROOT, run


@pytest.mark.arm
def test_the_kernel_kills_what_takes_more_and_the_figures_are_told(tmp_path: Path) -> None:
    if not (FOLDER / "arm64.img").exists() or not shutil.which("qemu-system-aarch64"):
        pytest.skip(f"no emulated machine: {FOLDER}/arm64.img or qemu is not there (scripts/arm/setup makes them)")
    shutil.copy(ROOT / "scripts" / "arm" / "enforce.py", tmp_path)
    done = run("--data", str(tmp_path), "--", "sh", "-c", "PYTHONPATH=$PYTHONPATH:/data python3 enforce.py")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 0, (rows, done.stderr)
    by_group, by_watchdog = rows[1:3]
    assert by_group["killed"]
    assert "stopped by the kernel at 64 MiB; allowed 64 MiB, predicted 32 MiB" in by_group["message"]
    assert not by_watchdog["group"]
    assert rows[-1] == {"groups_left": [], "ok": True}
