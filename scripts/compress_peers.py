"""Static int8 beside the quantizers of the engines' own makers: the same model, the same items, one interleaved run.

    python scripts/compress_peers.py NAME WORK [--judge val|test]

Ours (pass static_w8a8) for onnxruntime and LiteRT, onnxruntime's quantize_static (8-bit unsigned activations, signed
weights by channel, 7 bits of them as the machine asks for, and the tool's own defaults besides), and litert-quantizer's
static recipe on the float TFLite file that ours starts from. Needs litert-quantizer. Rows go to
models/NAME/bench.jsonl, kind "compress-peer".
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from edge_runtime.compress.artifact import Artifact, load_artifact, slim  # noqa: E402
from edge_runtime.compress.outputs import specs  # noqa: E402
from edge_runtime.compress.prepare import prepare  # noqa: E402
from edge_runtime.compress.recipe import Context, read_recipe  # noqa: E402
from edge_runtime.compress.samples import Samples, load_samples  # noqa: E402
from edge_runtime.compress.steps import run_recipe  # noqa: E402
from edge_runtime.compress.tflite_write import to_tflite  # noqa: E402
from edge_runtime.compress.verify import judge, speeds  # noqa: E402
from scripts.compress_models import items, model_file  # noqa: E402

KIND = "compress-peer"


def ort_static(original: Artifact, samples: Samples, scratch: Path, **settings: Any) -> Artifact:
    from onnxruntime.quantization import CalibrationDataReader, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.feeds = samples.feeds()

        def get_next(self) -> Any:
            return next(self.feeds, None)

    source, ready, made = (scratch / f"{name}.onnx" for name in ("source", "ready", "made"))
    source.write_bytes(original.content)
    quant_pre_process(str(source), str(ready))
    quantize_static(str(ready), str(made), Reader(), **settings)
    return Artifact("onnx_q", made.read_bytes())


def litert_static(lite: bytes, samples: Samples, scratch: Path) -> Artifact:
    from ai_edge_litert.interpreter import Interpreter
    from litert_quantizer import quantizer, recipe

    path = scratch / "float.tflite"
    path.write_bytes(lite)
    worker = quantizer.Quantizer(str(path), recipe.static_wi8_ai8())
    interpreter = Interpreter(str(path))
    signatures = interpreter.get_signature_list()
    key, about = next(iter(signatures.items())) if signatures else (None, {"inputs": []})
    feeds = []
    for feed in samples.feeds():
        arrays = [np.ascontiguousarray(np.moveaxis(one, 1, -1)) if one.ndim == 4 else one for one in feed.values()]
        feeds.append(dict(zip(about["inputs"], arrays, strict=True)))
    ranges = worker.calibrate({key: feeds}, num_threads=2)
    made = scratch / "made.tflite"
    worker.quantize(ranges).export_model(made, overwrite=True)
    return Artifact("tflite", made.read_bytes())


def candidates(original: Artifact, samples: Samples, scratch: Path) -> dict[str, Callable[[], Artifact]]:
    from onnxruntime.quantization import QuantFormat, QuantType

    steps = read_recipe({"name": "static_w8a8", "passes": [{"pass": "static_w8a8"}]}, "static_w8a8")
    lite = to_tflite(original.model())
    known: dict[str, Artifact] = {}

    def ours() -> Artifact:
        if not known:
            known["made"] = run_recipe(original, steps, Context(original, samples))[0]
        return known["made"]

    best = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8, "per_channel": True}
    best |= {"quant_format": QuantFormat.QDQ, "reduce_range": True}
    return {
        "original": lambda: original,
        "ours": lambda: slim(ours()),
        "onnxruntime": lambda: ort_static(original, samples, scratch, **best),
        "onnxruntime, defaults": lambda: ort_static(original, samples, scratch),
        "original-lite": lambda: Artifact("tflite", lite),
        "ours-lite": lambda: Artifact("tflite", to_tflite(ours().model())),
        "litert-quantizer": lambda: litert_static(lite, samples, scratch),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name")
    parser.add_argument("work", type=Path)
    parser.add_argument("--judge", choices=("val", "test"), default="val")
    options = parser.parse_args()
    original = prepare(load_artifact(model_file(options.name, options.work)))
    inputs, _ = specs(original)
    samples = load_samples(items(options.name, options.work, "calibration"), inputs)
    judged = load_samples(items(options.name, options.work, options.judge), inputs)
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as text:
        scratch = Path(text)
        files: dict[str, Path] = {}
        for label, make in candidates(original, samples, scratch).items():
            print(label, file=sys.stderr, flush=True)
            try:
                made = make()
                ((row,), _) = judge([made], original, judged)
            except Exception as error:  # of a peer's own making: its row says so
                rows[label] = {"error": f"{type(error).__name__}: {str(error)[:200]}"}
                continue
            rows[label] = row | {"engine": "litert" if made.format == "tflite" else "onnxruntime"}
            files[label] = scratch / f"{label.replace(', ', '-')}.{made.format}"
            files[label].write_bytes(made.content)
        for engine in ("onnxruntime", "litert"):
            group = [label for label in files if rows[label]["engine"] == engine]
            for label, speed in zip(group, speeds([files[one] for one in group], engine), strict=True):
                rows[label]["speed"] = speed
    path = ROOT / "models" / options.name / "bench.jsonl"
    old = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    made_rows = [
        {"kind": KIND, "model": options.name, "judged_on": options.judge, "quantizer": label} | row
        for label, row in rows.items()
    ]
    for row in made_rows:
        print(json.dumps(row))
    if options.judge == "test":
        kept = [row for row in old if row.get("kind") != KIND]
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in [*kept, *made_rows]))


if __name__ == "__main__":
    main()
