"""Run the written files on the real engines: figures are taken from what ships, not from the network in memory."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import numpy.typing as npt

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

Floats = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]


def run(path: Path, pixels: Pixels) -> Floats:
    """uint8 (N,64,64,3) to logits float32 (N,), one cell at a time as on the device."""
    return _run_onnx(path, pixels) if path.suffix == ".onnx" else _run_tflite(path, pixels)


def _run_onnx(path: Path, pixels: Pixels) -> Floats:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    result = np.empty(len(pixels), np.float32)
    for place, cell in enumerate(pixels):
        image = np.ascontiguousarray(cell.transpose(2, 0, 1), np.float32)[None] / np.float32(255)
        result[place] = session.run(None, {"image": image})[0][0, 0]
    return result


def _run_tflite(path: Path, pixels: Pixels) -> Floats:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path), num_threads=1)
    interpreter.allocate_tensors()
    image, logit = interpreter.get_input_details()[0], interpreter.get_output_details()[0]["index"]
    result = np.empty(len(pixels), np.float32)
    for place, cell in enumerate(pixels):
        integer = image["dtype"] == np.int8
        value = (cell ^ 128).view(np.int8) if integer else cell.astype(np.float32) / np.float32(255)
        interpreter.set_tensor(image["index"], value[None])
        interpreter.invoke()
        result[place] = interpreter.get_tensor(logit)[0, 0]
    return result
