"""One model into one peer's format. Runs in an environment with that peer's converter:

    python convert.py TARGET MODEL PRECISION WORK        (targets: the functions at the end; torch first of all)

Each conversion is a process of its own: a converter that crashes costs its own row. Everything starts from one
float network: for malaria the shipped ONNX file, for mobilenet the weights that train.py wrote. Calibration images
are of the train split, the images of the comparison of the test split.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

os.environ["ORT_DISABLE_TELEMETRY"] = "1"
SIZES = {"malaria": 64, "mobilenet": 96}
SHIPPED = {"fp32.onnx": "fp32", "int8.onnx": "int8", "fp32.tflite": "fp32-lite", "int8.tflite": "int8-lite"}


def calibration(model: str, work: Path) -> Iterator[np.ndarray]:
    """float32 (1,3,S,S), pixels / 255."""
    size = SIZES[model]
    pixels = np.fromfile(work / "images" / f"{model}-calibration.u8", np.uint8).reshape(-1, size, size, 3)
    for one in np.random.default_rng(3).permutation(pixels):  # they lie by class and patient
        yield np.ascontiguousarray(one.transpose(2, 0, 1), np.float32)[None] / np.float32(255)


def module(model: str, work: Path) -> Any:
    """The float network in PyTorch, and an example input."""
    import torch
    from network import Malaria, MobileNetV2

    folder = work / "models" / model
    if model == "malaria":
        net: Any = Malaria(folder / "fp32.onnx")
    else:
        net = MobileNetV2()
        net.load_state_dict(torch.load(folder / "trained.pt", weights_only=True))
    size = SIZES[model]
    return net.eval(), (torch.rand(1, 3, size, size),)


def onnx(model: str, precision: str, work: Path) -> None:
    """fp32 exported by torch; int8 by onnxruntime's quantiser: U8 activations, S8 weights by channel, 7 bits of them.

    With 8 bits, CPUs without VNNI add pairs of products in 16 bits, saturate, and give other answers.
    """
    folder = work / "models" / model
    if precision == "fp32":
        import torch

        net, example = module(model, work)
        torch.onnx.export(
            net, example, str(folder / "fp32.onnx"), input_names=["image"], output_names=["logits"],
            opset_version=18, dynamo=True, external_data=False,
        )  # fmt: skip
        return
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.images = calibration(model, work)

        def get_next(self) -> Any:
            one = next(self.images, None)
            return None if one is None else {"image": one}

    ready = folder / "fp32-ready.onnx"
    quant_pre_process(str(folder / "fp32.onnx"), str(ready))
    quantize_static(
        str(ready), str(folder / "int8.onnx"), Reader(), quant_format=QuantFormat.QDQ, per_channel=True,
        reduce_range=True, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8,
    )  # fmt: skip
    ready.unlink()


def tflite(model: str, precision: str, work: Path) -> None:
    """fp32 by litert-torch with channels last; int8 by ai-edge-quantizer's static recipe, ranges from end to end."""
    folder = work / "models" / model
    if precision == "fp32":
        import litert_torch

        net, example = module(model, work)
        net = litert_torch.to_channel_last_io(net, args=[0])
        litert_torch.convert(net, (example[0].permute(0, 2, 3, 1),)).export(str(folder / "fp32.tflite"))
        return
    from ai_edge_litert.interpreter import Interpreter
    from ai_edge_quantizer import quantizer, recipe

    worker = quantizer.Quantizer(str(folder / "fp32.tflite"), recipe.static_wi8_ai8())
    signature, about = next(iter(Interpreter(str(folder / "fp32.tflite")).get_signature_list().items()))
    ranges: dict[str, dict[str, np.ndarray]] = {}
    for image in calibration(model, work):
        # Over many images the tool keeps a moving average of the ranges, which clips; so image by image.
        feed = {about["inputs"][0]: image.transpose(0, 2, 3, 1).copy()}
        for tensor, found in worker.calibrate({signature: [feed]}, num_threads=2).items():
            known = ranges.setdefault(tensor, dict(found))
            known["min"] = np.minimum(known["min"], found["min"])
            known["max"] = np.maximum(known["max"], found["max"])
    worker.quantize(ranges).export_model(folder / "int8.tflite", overwrite=True)


def pte(model: str, precision: str, work: Path) -> None:
    """ExecuTorch's XNNPACK backend; int8 by its own quantiser, by channel, static."""
    import torch
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower

    net, example = module(model, work)
    program = torch.export.export(net, example)
    if precision == "int8":
        from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
            XNNPACKQuantizer,
            get_symmetric_quantization_config,
        )
        from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

        settings = XNNPACKQuantizer().set_global(get_symmetric_quantization_config(is_per_channel=True))
        ready = prepare_pt2e(program.module(), settings)
        for image in calibration(model, work):
            ready(torch.from_numpy(image))
        program = torch.export.export(convert_pt2e(ready), example)
    lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()]).to_executorch()
    (work / "models" / model / f"{precision}.pte").write_bytes(lowered.buffer)


def ncnn(model: str, precision: str, work: Path) -> None:
    """pnnx from the ONNX file, weights kept in 32 bits. Its program is called by itself: the package imports torch."""
    import importlib.util
    import shutil
    import subprocess
    import tempfile

    package = importlib.util.find_spec("pnnx")
    assert package and package.origin
    folder, size = work / "models" / model, SIZES[model]
    with tempfile.TemporaryDirectory() as scratch:  # it writes eight files beside its input
        shutil.copy(folder / "fp32.onnx", Path(scratch, "net.onnx"))
        command = [str(Path(package.origin).with_name("pnnx")), "net.onnx", f"inputshape=[1,3,{size},{size}]", "fp16=0"]
        subprocess.run(command, cwd=scratch, check=True)
        shutil.move(Path(scratch, "net.ncnn.param"), folder / "fp32.ncnn.param")
        shutil.move(Path(scratch, "net.ncnn.bin"), folder / "fp32.ncnn.bin")


def mnn(model: str, precision: str, work: Path) -> None:
    """The wheel's converter. Its command line installs and calls a logger on the network, so its module is called.

    int8 is of the weights alone: the offline tool for activations fails in 3.6.1 (an argument error, then a crash).
    """
    import _tools

    folder = work / "models" / model
    words = ["mnnconvert", "-f", "ONNX", "--modelFile", str(folder / "fp32.onnx"), "--bizCode", "none"]
    words += ["--MNNModel", str(folder / f"{precision}.mnn")]
    _tools.mnnconvert(words + (["--weightQuantBits", "8"] if precision == "int8" else []))


def openvino(model: str, precision: str, work: Path) -> None:
    """fp32 read from ONNX; int8 by NNCF's static quantiser."""
    import openvino

    folder = work / "models" / model
    net = openvino.Core().read_model(str(folder / "fp32.onnx"))
    net.reshape([1, 3, SIZES[model], SIZES[model]])
    if precision == "int8":
        import nncf

        # 7 bits of weights, as for onnxruntime and for the same reason; the default spares only the first layer
        settings = nncf.AdvancedQuantizationParameters(overflow_fix=nncf.OverflowFix.ENABLE)
        net = nncf.quantize(net, nncf.Dataset(list(calibration(model, work))), advanced_parameters=settings)
    openvino.save_model(net, str(folder / f"{precision}.xml"), compress_to_fp16=False)


def shipped(model: str, precision: str, work: Path) -> None:
    """The files of the malaria bundle, as they are."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from edge_runtime.bundle import load_bundle

    bundle = load_bundle("malaria")
    (work / "models" / model).mkdir(parents=True, exist_ok=True)
    for file, variant in SHIPPED.items():
        (work / "models" / model / file).write_bytes(bundle.read(bundle.variant(variant).file))


TARGETS = {one.__name__: one for one in (onnx, tflite, pte, ncnn, mnn, openvino, shipped)}

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    TARGETS[sys.argv[1]](sys.argv[2], sys.argv[3], Path(sys.argv[4]).resolve())
