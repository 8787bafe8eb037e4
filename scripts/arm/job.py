"""The job under a real ARM kernel's limits, and the install kit in there: what goes in, and what must come out."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from machine import ROOT, Failure, Machine, boot

HERE = Path(__file__).resolve().parent
KITS = {False: "raspberry-pi-zero-2w", True: "lg-g-pad-7.0"}  # by whether the userland has 32 bit
SAME = ("verdict", "cells", "infected", "images", "item_digest")
LARGE_PIXELS = 4096  # a side: 192 MiB as float32, so not in the 192 MiB of a Raspberry Pi Zero 2 W


def write_large(folder: Path) -> None:
    from PIL import Image

    from edge_runtime.packing import pack_folder

    with tempfile.TemporaryDirectory() as scratch:
        image = {"name": "image", "shape": [1, 3, LARGE_PIXELS, LARGE_PIXELS], "dtype": "float32"}
        scores = {"name": "scores", "shape": [1, 1], "dtype": "float32"}
        Path(scratch, "n.null").write_text(json.dumps({"inputs": [image], "outputs": [scores], "fill": 0.5}))
        manifest: dict[str, Any] = {"name": "large", "version": "1.0.0", "labels": ["score"]}
        manifest["task"] = {"kind": "image", "top": 1, "scores": "logits"}
        size = [LARGE_PIXELS, LARGE_PIXELS]
        manifest["preprocessing"] = {"size": size, "resize": "stretch", "mean": [0.0] * 3, "std": [1.0] * 3}
        manifest["variants"] = [{"name": "nothing", "format": "null", "file": "n.null"}]
        Path(scratch, "bundle.json").write_text(json.dumps(manifest))
        pack_folder(Path(scratch), folder / "large.edge")
    Image.new("RGB", (64, 64), (200, 0, 0)).save(folder / "picture.png")


def make_kits(folder: Path) -> dict[bool, Path]:
    """Raises Failure where one cannot be made, as without a network."""
    made = {arm32: folder / f"{name}.pyz" for arm32, name in KITS.items()}
    for arm32, name in KITS.items():
        line = [sys.executable, ROOT / "scripts" / "kit", "--device", name, "-o", made[arm32]]
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        if done.returncode:
            raise Failure(done.stderr.strip())
    return made


def run_job(
    machine: Machine, slides: Path, kits: dict[bool, Path] | None, choices: list[str], timeout_s: float
) -> list[dict[str, Any]]:
    """`slides` has the folders infected and clean of cells. Raises Failure where the machine ends badly."""
    with tempfile.TemporaryDirectory(prefix="edge-arm-") as scratch:
        data = Path(scratch, "data")
        shutil.copytree(slides, data, copy_function=shutil.copyfile)
        write_large(data)
        if kits:
            shutil.copy(kits[machine.arm32], data / "kit.pyz")
            shutil.copy(kits[not machine.arm32], data / "other.pyz")
        shutil.copy(HERE / "job_guest.py", data)
        words = ["--kit"] if kits else []
        done = boot(machine, ["python3", "job_guest.py", *words, *choices], data=data, timeout_s=timeout_s)
    if done.exit_code:
        raise Failure(f"the job ended with {done.exit_code}:\n{done.stderr.decode(errors='replace')[-3000:]}")
    return [json.loads(line) for line in done.stdout.decode().splitlines()]


def outcomes(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def wrong_with(found: list[dict[str, Any]], here: dict[str, list[dict[str, Any]]]) -> list[str]:
    """What is not as it must be; `here` has this computer's outcomes by choice."""
    wrong = [f"{one['step']}: a traceback: {one['stderr'][-500:]}" for one in found if "Traceback" in one["stderr"]]
    steps = {one["step"]: one for one in found}
    jobs = [(one["choice"], one) for one in found if one["step"] == "job"]
    if "kit" in steps:
        jobs.append((jobs[0][0], steps["kit, its job"]))
    for choice, one in jobs:
        if one["code"]:
            wrong.append(f"{one['step']} {choice}: exit code {one['code']}: {one['stderr'][-500:]}")
            continue
        for mine, other in zip(here[choice], outcomes(one["stdout"]), strict=True):
            about = f"{one['step']} {choice} {mine['item']}"
            wrong += [f"{about}: {key} {other[key]}, here {mine[key]}" for key in SAME if mine[key] != other[key]]
    tight, limits = steps["cgroup"], steps["limits"]
    if tight["code"] not in (1, 3) or not tight["kills"]:
        wrong.append(f"memory.max of {tight['allowed_bytes']} bytes: exit code {tight['code']}, kills {tight['kills']}")
    if limits["code"] != 3 or "allowed 192 MiB" not in limits["stderr"]:
        wrong.append(f"the runtime's own limit: exit code {limits['code']}: {limits['stderr'][-500:]}")
    return wrong + (wrong_with_kits(steps) if "kit" in steps else [])


def wrong_with_kits(steps: dict[str, dict[str, Any]]) -> list[str]:
    refused = steps["kit, the wrong one"]
    wrong = [] if refused["code"] == 1 and "bit Python" in refused["stderr"] else [f"the wrong kit: {refused}"]
    kits = [(name, steps[name]) for name in ("kit", "kit, again")]
    return wrong + [f"{name}: exit code {one['code']}: {one['stderr'][-1000:]}" for name, one in kits if one["code"]]


def rows(machine: Machine, found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of memory: for models/arm.jsonl."""
    userland = "armv7l" if machine.arm32 else "aarch64"
    made = []
    for one in found:
        if one["step"] == "job" and not one["code"]:
            peak = max(outcome["peak_ram_bytes"] for outcome in outcomes(one["stdout"]))
            row = {"what": "memory", "userland": userland, "core": machine.cpu, "choice": one["choice"]}
            row |= {"peak_ram_bytes": peak, "group_peak_bytes": one["group_peak_bytes"]}
            made.append(
                row | {"basis": f"VmHWM, and memory.peak of both processes; arm64 kernel, {machine.memory_mib} MiB"}
            )
    return made
