"""What `edge-runtime run` is measured against: the same cells, decoded, prepared and scored in a bare script.

    python scripts/plain_reader.py MODEL.onnx|MODEL.tflite FOLDER

No verdict, no gate, no limits, no checks. Used by scripts/bench_run.py; prints how many cells and the sum of logits.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np
from PIL import Image


def prepare(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        cell = image.convert("RGB")
    scale = 64 / max(cell.size)
    width, height = max(1, round(cell.width * scale)), max(1, round(cell.height * scale))
    square = np.zeros((64, 64, 3), np.uint8)
    left, top = (64 - width) // 2, (64 - height) // 2
    square[top : top + height, left : left + width] = cell.resize((width, height), Image.Resampling.BILINEAR)
    return square


def main() -> None:
    model, folder = sys.argv[1:]
    total, count = 0.0, 0
    if model.endswith(".onnx"):
        import onnxruntime

        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = settings.inter_op_num_threads = 1
        session = onnxruntime.InferenceSession(model, settings, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name

        def infer(square: np.ndarray) -> float:
            feed = np.ascontiguousarray(square.transpose(2, 0, 1), np.float32)[None] / np.float32(255)
            return float(session.run(None, {name: feed})[0].ravel()[0])
    else:
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(model_path=model, num_threads=1)
        interpreter.allocate_tensors()
        into, out = interpreter.get_input_details()[0], interpreter.get_output_details()[0]

        def infer(square: np.ndarray) -> float:
            feed = square[None].astype(np.float32) / np.float32(255)
            if into["dtype"] != np.float32:
                step, zero = into["quantization"]
                feed = np.clip(np.rint(feed / step) + zero, -128, 127).astype(into["dtype"])
            interpreter.set_tensor(into["index"], feed)
            interpreter.invoke()
            found = float(interpreter.get_tensor(out["index"]).ravel()[0])
            return found if out["dtype"] == np.float32 else (found - out["quantization"][1]) * out["quantization"][0]

    for path in sorted(Path(folder).glob("*.png")):
        total += infer(prepare(path))
        count += 1
    print(count, round(total, 3))


main()
