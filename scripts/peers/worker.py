"""One engine, one model file, one fresh process. Runs in that engine's environment, with numpy:

    python worker.py time  ADAPTER FILE PIXELS SIZE SECONDS     -> one JSON line: first answer, medians, peak memory
    python worker.py agree ADAPTER FILE PIXELS SIZE OUTPUTS     -> float32 outputs of all the images, in OUTPUTS

PIXELS is a file of uint8 (N,SIZE,SIZE,3). An adapter loads the file and gives two functions: how a picture of uint8
(S,S,3) becomes what the engine takes (not timed), and the inference, whose answer is a numpy array (timed). Each has
one thread and the defaults of its engine otherwise.
"""

from __future__ import annotations

import os
import sys
import time

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before the import, else a thread and a queue of events are there
os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np


def planes(pixels):
    """float32 (1,3,S,S) in 0-1."""
    return np.ascontiguousarray(pixels.transpose(2, 0, 1), np.float32)[None] / np.float32(255)


def fitted(pixels, details):
    """What a TFLite input takes: (1,S,S,3) as float32 in 0-1, or as integers by the tensor's scale and zero point."""
    real = pixels[None].astype(np.float32) / np.float32(255)
    if details["dtype"] == np.float32:
        return real
    scale, zero = details["quantization"]
    limits = np.iinfo(details["dtype"])
    return np.clip(np.rint(real / scale) + zero, limits.min, limits.max).astype(details["dtype"])


def onnxruntime(path):
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return planes, lambda feed: session.run(None, {name: feed})[0]


def _interpreter(interpreter):
    interpreter.allocate_tensors()
    image, out = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    scale, zero = out["quantization"]

    def run(feed):
        interpreter.set_tensor(image["index"], feed)
        interpreter.invoke()
        found = interpreter.get_tensor(out["index"])
        return found if found.dtype == np.float32 else (found.astype(np.float32) - zero) * scale

    return lambda pixels: fitted(pixels, image), run


def litert(path):
    from ai_edge_litert.interpreter import Interpreter

    return _interpreter(Interpreter(path, num_threads=1))


def tflite_runtime(path):
    from tflite_runtime.interpreter import Interpreter

    return _interpreter(Interpreter(path, num_threads=1))


def ncnn(path):
    import ncnn

    net = ncnn.Net()
    net.opt.num_threads = 1
    net.opt.use_vulkan_compute = False
    if net.load_param(path) or net.load_model(path.removesuffix("param") + "bin"):
        raise SystemExit("ncnn refuses the model")

    def run(feed):
        extractor = net.create_extractor()
        extractor.input("in0", ncnn.Mat(feed))
        return np.array(extractor.extract("out0")[1])

    return lambda pixels: planes(pixels)[0], run


def mnn(path):
    import MNN

    net = MNN.Interpreter(path)
    session = net.createSession({"backend": "CPU", "numThread": 1})
    image, out = net.getSessionInput(session), net.getSessionOutput(session)

    def run(feed):
        image.copyFrom(feed)
        net.runSession(session)
        shape = out.getShape()
        host = MNN.Tensor(shape, MNN.Halide_Type_Float, np.zeros(shape, np.float32), MNN.Tensor_DimensionType_Caffe)
        out.copyToHostTensor(host)
        return np.array(host.getNumpyData())

    def prepare(pixels):
        data = planes(pixels)
        return MNN.Tensor(data.shape, MNN.Halide_Type_Float, data, MNN.Tensor_DimensionType_Caffe)

    return prepare, run


def openvino(path):
    import openvino

    settings = {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": 1}
    compiled = openvino.Core().compile_model(path, "CPU", settings)
    request = compiled.create_infer_request()

    def run(feed):
        request.infer([feed], share_inputs=True)
        return request.get_output_tensor(0).data

    return planes, run


def executorch(path):
    import executorch_numpy_runtime

    program = executorch_numpy_runtime.Runtime.get().load_program(path)
    method = program.load_method("forward")
    run.keep = program
    return planes, lambda feed: method([feed])[0]


def _edge(program):
    """The package's own layer takes what its tensors say, in one layout or the other."""
    image, out = program.inputs[0], program.outputs[0]
    details = {"dtype": np.dtype(image.dtype), "quantization": (image.scale, image.zero_point)}
    prepare = planes if image.shape[1] == 3 else lambda pixels: fitted(pixels, details)
    scale, zero = (out.scale, out.zero_point) if out.scale else (1, 0)

    def run(feed):
        found = program.run({image.name: feed})[out.name]
        return found if found.dtype == np.float32 else (found.astype(np.float32) - zero) * scale

    return prepare, run


def edge(path):
    """In this process: engine.load(...).run."""
    from pathlib import Path

    from edge_runtime.engine import EngineOptions, find_engine

    name = "litert" if path.endswith(".tflite") else "onnxruntime"
    return _edge(find_engine(name).load(Path(path), EngineOptions(threads=1)))


def edge_guarded(path):
    """In a guarded child: open_program. Peak memory is both processes', what they share counted twice."""
    import edge_runtime

    run.keep = program = edge_runtime.open_program(path, threads=1)
    run.other_bytes = lambda: program.peak_ram_bytes
    return _edge(program)


def peak_bytes():
    with open("/proc/self/status") as text:
        return next(int(line.split()[1]) << 10 for line in text if line.startswith("VmHWM"))


def run(how, adapter, path, images, size, last):
    size = int(size)
    prepare, infer = globals()[adapter](path)
    with open(images, "rb") as file:
        pixels = np.frombuffer(file.read(32 * size * size * 3 if how == "time" else -1), np.uint8)
    pixels = pixels.reshape(-1, size, size, 3)
    infer(prepare(pixels[0]))
    first_at = time.clock_gettime(time.CLOCK_MONOTONIC)
    if how == "agree":
        np.stack([np.array(infer(prepare(one)), np.float32).ravel() for one in pixels]).tofile(last)
        return None
    feeds = [prepare(one) for one in pixels]
    took = []
    start = time.perf_counter()
    while (now := time.perf_counter()) - start < float(last) or len(took) < 60:
        infer(feeds[len(took) % len(feeds)])
        took.append(time.perf_counter() - now)
    warm = sorted(took[len(took) // 5 :])  # the first fifth warms caches and clocks
    other = getattr(run, "other_bytes", lambda: 0)()
    return {
        "first_at": first_at,
        "p50_ms": warm[len(warm) // 2] * 1e3,
        "p90_ms": warm[len(warm) * 9 // 10] * 1e3,
        "inferences": len(warm),
        "peak_bytes": peak_bytes() + other,
    }


if __name__ == "__main__":
    found = run(*sys.argv[1:])
    if found:
        import json

        print(json.dumps(found), flush=True)
