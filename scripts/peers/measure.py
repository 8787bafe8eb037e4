"""Fresh processes in turn on one core, and rows from what they say. Standard library alone."""

from __future__ import annotations

import array
import hashlib
import json
import os
import platform
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from scripts.peers.catalogue import (
    ABOUT,
    DIFFERENCE_SD,
    OUTPUTS,
    REFERENCE,
    SAME_DECISIONS,
    SEED,
    SIZES,
    TEST_IMAGES,
    WINDOW_S,
    Peer,
)
from scripts.peers.prepare import HERE, ROOT, Failed, last_words, say, surroundings
from scripts.peers.stats import agreement, median, paired_ratio

TIMEOUT_S = 180
SCHEMA = 1


@dataclass
class Candidate:
    """One peer on one model in one precision. `reason` is None while it can be measured."""

    peer: Peer
    model: str
    precision: str
    python: Path | None = None
    reason: str | None = None
    packages: dict[str, tuple[str, int]] = field(default_factory=dict)
    runs: list[dict[str, Any] | None] = field(default_factory=list)  # one a round; None where it failed
    outputs: list[float] = field(default_factory=list)

    @property
    def title(self) -> str:
        return f"{self.model} {self.precision} on {self.peer.name}"

    def files(self, work: Path) -> list[Path]:
        return [work / "models" / self.model / one for one in self.peer.files.get(self.precision, ())]


def _worker(one: Candidate, work: Path, how: str, last: str) -> tuple[float, str]:
    """Start time on the monotonic clock, stdout. Raises Failed."""
    assert one.python
    pixels = work / "images" / f"{one.model}-test.u8"
    command = [str(one.python), "-I", str(HERE / "worker.py"), how, one.peer.adapter, str(one.files(work)[0])]
    command += [str(pixels), str(SIZES[one.model]), last]
    variables = surroundings(work)
    start = time.clock_gettime(time.CLOCK_MONOTONIC)
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=TIMEOUT_S, env=variables, cwd=work
        )
    except subprocess.TimeoutExpired:
        raise Failed(f"gave no answer in {TIMEOUT_S} s") from None
    if done.returncode:
        raise Failed(last_words(done.stderr, done.returncode))
    return start, done.stdout


def last_answer(text: str) -> dict[str, Any]:
    """The worker's JSON among what its engine prints (MNN's own line comes after it). Raises Failed."""
    for line in reversed(text.splitlines()):
        if line.startswith("{"):
            try:
                found: dict[str, Any] = json.loads(line)
                return found
            except ValueError:
                break
    raise Failed("ended well and said nothing of what it measured")


def compare_outputs(candidates: Sequence[Candidate], work: Path) -> None:
    """Every image through every candidate once: their outputs, or the reason why there are none."""
    for one in candidates:
        if one.reason:
            continue
        say(f"{one.title}: answers on {TEST_IMAGES} images")
        file = work / "outputs.f32"
        file.unlink(missing_ok=True)
        try:
            _worker(one, work, "agree", str(file))
            found = array.array("f", file.read_bytes())
            one.outputs = found.tolist()
        except (Failed, OSError) as error:
            one.reason = str(error)


def measure(candidates: Sequence[Candidate], work: Path, rounds: int) -> None:
    """`rounds` times every candidate in a fresh process; the order within a model is drawn anew each round."""
    draw = random.Random(SEED)
    raw = open(work / "rounds.jsonl", "w")  # noqa: SIM115  (closed below; a cut run leaves what it has)
    began = time.monotonic()
    for number in range(rounds):
        for model in dict.fromkeys(one.model for one in candidates):
            some = [one for one in candidates if one.model == model and not one.reason]
            for one in draw.sample(some, len(some)):
                try:
                    start, text = _worker(one, work, "time", str(WINDOW_S))
                    found = last_answer(text)
                    found["cold_ms"] = (found.pop("first_at") - start) * 1e3
                    one.runs.append(found)
                    raw.write(json.dumps({"round": number, "what": one.title, **found}) + "\n")
                    raw.flush()
                except Failed as error:
                    one.runs.append(None)
                    say(f"{one.title}: round {number + 1}: {error}")
                    if one.runs.count(None) > 1:
                        one.reason = f"failed in {one.runs.count(None)} of {len(one.runs)} rounds: {error}"
        took = time.monotonic() - began
        say(f"round {number + 1} of {rounds}; about {took / (number + 1) * (rounds - number - 1):.0f} s left")
    raw.close()


def machine() -> dict[str, Any]:
    """What kind of machine: no names, no paths."""
    sys.path.insert(0, str(ROOT))
    from edge_runtime.probe import read_machine

    found = read_machine()
    wanted = (
        "neon",
        "asimd",
        "asimddp",
        "i8mm",
        "avx",
        "avx2",
        "fma",
        "avx512f",
        "avx512_vnni",
        "avx_vnni",
        "amx_int8",
    )
    return {
        "soc": found.soc,
        "arch": found.arch,
        "cores": [list(one) for one in found.cores],
        "features": [one for one in wanted if one in found.feature_words],
        "ram_bytes": found.ram_bytes,
        "kernel": platform.release().partition("-")[0],
        "allowed_cores": found.allowed_cores,
        "load_1min": round(os.getloadavg()[0], 2),
    }


def rows(candidates: Sequence[Candidate], work: Path, rounds: int, about: dict[str, Any]) -> list[dict[str, Any]]:
    when = datetime.now(UTC).isoformat(timespec="seconds")
    labels = {model: (work / "images" / f"{model}-test-labels.u8").read_bytes() for model in SIZES}
    by_name = {(one.peer.name, one.model, one.precision): one for one in candidates}
    return [
        {
            "schema": SCHEMA, "engine": one.peer.name, "model": one.model, "precision": one.precision,
            "about": ABOUT[one.model], "note": one.peer.notes.get(one.precision), "reason": one.reason, "when": when,
            "rounds": rounds, "machine": about, **_installation(one, work), **_figures(one, by_name),
            "agreement": _agreement(one, by_name, labels[one.model]),
        }
        for one in candidates
    ]  # fmt: skip


def _installation(one: Candidate, work: Path) -> dict[str, Any]:
    files = [file for file in one.files(work) if file.is_file()]
    sizes = {name: size for name, (_, size) in one.packages.items()}
    names = {name.lower(): name for name in one.packages}  # MNN's metadata spells it otherwise
    shown = [names[name.lower()] for name in one.peer.version_of if name.lower() in names]
    complete = bool(files) and len(files) == len(one.files(work))
    return {
        "versions": {name: one.packages[name][0] for name in shown},
        "packages": {name: version for name, (version, _) in sorted(one.packages.items())},
        "installed_bytes": sum(sizes.values()) or None,
        "installed_without_numpy_bytes": sum(sizes.values()) - sizes.get("numpy", 0) or None,
        "model_bytes": sum(file.stat().st_size for file in files) if complete else None,
        "model_sha256": hashlib.sha256(b"".join(map(Path.read_bytes, files))).hexdigest() if complete else None,
    }


def _figures(one: Candidate, by_name: dict[tuple[str, str, str], Candidate]) -> dict[str, Any]:
    """Latency, cold start and memory; ratios are paired by round."""
    runs = [run for run in one.runs if run]
    if one.reason or not runs:
        return dict.fromkeys(("latency_ms", "cold_ms", "peak_bytes", "ratio", "cold_ratio", "ratio_to_bare"))
    reference = by_name.get((REFERENCE, one.model, "fp32"))
    bare = by_name.get((one.peer.bare or "", one.model, one.precision))
    return {
        "latency_ms": _spread([run["p50_ms"] for run in runs])
        | {"p90": median([run["p90_ms"] for run in runs]), "inferences": sum(run["inferences"] for run in runs)},
        "cold_ms": _spread([run["cold_ms"] for run in runs]),
        "peak_bytes": round(median([run["peak_bytes"] for run in runs])),
        "ratio": _ratio(one, reference, "p50_ms"),
        "cold_ratio": _ratio(one, reference, "cold_ms"),
        "ratio_to_bare": _ratio(one, bare, "p50_ms"),
    }


def _spread(values: list[float]) -> dict[str, Any]:
    return {"p50": round(median(values), 5), "processes": [round(value, 5) for value in values]}


def _ratio(one: Candidate, other: Candidate | None, key: str) -> dict[str, Any] | None:
    pairs = (
        [(run[key], its[key]) for run, its in zip(one.runs, other.runs, strict=False) if run and its] if other else []
    )
    if not pairs or other is None:
        return None
    ratio, interval = paired_ratio([ours for ours, _ in pairs], [theirs for _, theirs in pairs])
    to = f"{other.precision} on {other.peer.name}"
    return {"to": to, "ratio": round(ratio, 4), "interval": [round(end, 4) for end in interval], "pairs": len(pairs)}


def _agreement(one: Candidate, by_name: dict[tuple[str, str, str], Candidate], labels: bytes) -> dict[str, Any] | None:
    reference = by_name.get((REFERENCE, one.model, "fp32"))
    if not one.outputs or reference is None or not reference.outputs:
        return None
    outputs = OUTPUTS[one.model]
    same, difference = agreement(one.outputs, reference.outputs, outputs)
    answers = [one.outputs[place : place + outputs] for place in range(0, len(one.outputs), outputs)]
    infected = [(answer[-1] > (answer[0] if outputs > 1 else 0)) for answer in answers]
    right = sum(int(found) == label for found, label in zip(infected, labels, strict=False))
    return {
        "to": f"fp32 on {REFERENCE}", "images": len(labels), "same_decision": round(same, 4),
        "difference_sd": float(f"{difference:.3g}") if difference < 1e9 else None,
        "right": round(right / len(labels), 4),
        "usable": same >= SAME_DECISIONS and difference <= DIFFERENCE_SD,
    }  # fmt: skip
