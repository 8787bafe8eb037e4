"""MiniLM's student, and what recipes make of it, against MiniLM on both engines: bytes, time, F1 on test.

    python models/zoo/against.py OUT    # rows of models/minilm-student/bench.jsonl, kind "learn", judged on test

Wants OUT/minilm.onnx, OUT/minilm-student.onnx and what `compress_models.py minilm-student OUT --judge test` made of it.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from edge_runtime.compress import verify
from edge_runtime.compress.artifact import Artifact, load_artifact
from edge_runtime.compress.prepare import prepare
from edge_runtime.compress.tflite_write import to_tflite
from models.zoo.files import REPOSITORY, write_bytes

NAME = "minilm-student"
COMMAND = "python models/zoo/against.py OUT"
ENDINGS = {"onnxruntime": ".onnx", "litert": ".tflite"}


def both(path: Path, folder: Path) -> dict[str, Path]:
    """The float model's file for each engine."""
    whole = prepare(load_artifact(path))
    found = {}
    for engine, content in (("onnxruntime", whole.content), ("litert", to_tflite(whole.model(), "float"))):
        found[engine] = folder / f"{path.stem}{ENDINGS[engine]}"
        found[engine].write_bytes(content)
    return found


def rows(out: Path, folder: Path) -> list[dict[str, Any]]:
    recorded = [json.loads(line) for line in (REPOSITORY / "models" / NAME / "bench.jsonl").read_text().splitlines()]
    made = {(row["recipe"], row["engine"]): row for row in recorded if row["kind"] == "compress"}
    teacher, student = both(out / "minilm.onnx", folder), both(out / f"{NAME}.onnx", folder)
    parameters = json.loads((out / f"{NAME}.json").read_text())["parameters"]
    found = []
    for engine in ENDINGS:
        names = [recipe for recipe, on in made if on == engine and recipe != "original"]
        paths = [teacher[engine], student[engine], *(_file(out, name, engine) for name in names)]
        speeds = verify.speeds(paths, engine, lambda words: print(words, file=sys.stderr, flush=True))
        found.append(published(engine, teacher[engine], speeds[0]))
        for name, path, speed in zip(["original", *names], paths[1:], speeds[1:], strict=True):
            row = made[name, engine]
            found.append(
                {
                    "kind": "learn", "model": NAME, "step": "student" if name == "original" else f"student, {name}",
                    "engine": engine, "parameters": parameters if name == "original" else None,
                    "file_bytes": len(path.read_bytes()), "stored_bytes": row["stored_bytes"],
                    "times_smaller": verify.stored_bytes(_artifact(teacher[engine]), False) / row["stored_bytes"],
                    "speed": {key: speed[key] for key in ("p50_ms", "ratio", "interval", "peak_bytes")},
                    "scores": row["scores"], "judged_on": row["judged_on"],
                    "command": COMMAND,
                }
            )  # fmt: skip
    return found


def published(engine: str, path: Path, speed: dict[str, Any]) -> dict[str, Any]:
    """The row of MiniLM as published, with the F1 that is recorded of it."""
    recorded = (REPOSITORY / "models" / "minilm" / "bench.jsonl").read_text().splitlines()
    (was,) = (
        row for row in map(json.loads, recorded)
        if row["kind"] == "compress" and (row["recipe"], row["engine"]) == ("original", engine)
    )  # fmt: skip
    metrics = json.loads((REPOSITORY / "models" / "minilm" / "metrics.json").read_text())
    size = len(path.read_bytes())
    return {
        "kind": "learn", "model": NAME, "step": "MiniLM as published", "engine": engine,
        "parameters": metrics["minilm"]["parameters"], "file_bytes": size, "stored_bytes": size, "times_smaller": 1.0,
        "speed": {"p50_ms": speed["p50_ms"], "ratio": 1.0, "interval": None, "peak_bytes": speed["peak_bytes"]},
        "scores": was["scores"], "judged_on": "test", "command": COMMAND,
    }  # fmt: skip


def tuned(out: Path) -> dict[str, Any]:
    """The row of the student's teacher, which never became a file for an engine."""
    import torch

    from edge_runtime.compress.scores import scores
    from models.zoo.encoder import tokens
    from models.zoo.texts import read
    from models.zoo.tuned import logits, tune

    torch.set_num_threads(1)
    messages, labels = read("test")
    return {
        "kind": "learn", "model": NAME, "step": "MiniLM taught further, the teacher", "engine": "torch",
        "parameters": None, "file_bytes": None, "stored_bytes": None, "times_smaller": None, "speed": None,
        "scores": scores({"logits": logits(tune(out), tokens(messages))}, labels), "judged_on": "test",
        "command": COMMAND,
    }  # fmt: skip


def _file(out: Path, recipe: str, engine: str) -> Path:
    ending = ".onnx" if engine == "onnxruntime" else "-lite.tflite"
    found = sorted(out.glob(f"{NAME}-compressed-*/{recipe}{ending}"))
    if not found:
        raise SystemExit(
            f"found no {recipe}{ending} in {out}; run scripts/compress_models.py {NAME} {out} --judge test"
        )
    return found[0]


def _artifact(path: Path) -> Artifact:
    return Artifact("onnx" if path.suffix == ".onnx" else "tflite", path.read_bytes())


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        found = [tuned(Path(sys.argv[1])), *rows(Path(sys.argv[1]), Path(folder))]
    path = REPOSITORY / "models" / NAME / "bench.jsonl"
    old = [json.loads(line) for line in path.read_text().splitlines()]
    kept = [row for row in old if (row["kind"], row["judged_on"]) != ("learn", "test")]
    write_bytes(path, "".join(json.dumps(one) + "\n" for one in [*kept, *found]).encode())
    for row in found[1:]:
        speed = row["speed"]
        print(f"{row['step']:<40} {row['engine']:<12} x{row['times_smaller']:.0f} smaller, {speed['p50_ms']:.3f} ms, "
              f"x{1 / speed['ratio']:.1f} faster, F1 {row['scores']['f1']:.4f}")  # fmt: skip


if __name__ == "__main__":
    main()
