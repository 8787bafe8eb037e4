"""Networks for scripts/check_memory: those of prediction_models.py, larger ones to fit to, trained ones to check on.

DEVELOPMENT is what the prediction is fitted to; FINAL and the trained ones are for the figure that is told.
"""

from __future__ import annotations

from pathlib import Path

import prediction_models as nets
from prediction_models import DEVELOPMENT as SMALL
from prediction_models import FINAL, Build, write_models


def tables(net: nets.OnnxNet, rows: int, width: int, count: int) -> str:
    """Constants that no kernel packs, as embeddings are."""
    x = net.input(1, rows, width)
    for _ in range(count):
        x = net.act(net.add(x, net.random(1, rows, width)), "relu")
    return x


LARGE: dict[str, tuple[Build, str]] = {
    "MobileNetV2 1.4, 128": (lambda n: nets.mobilenet_v2(n, 1.4, 128), "onnx"),
    "ResNet 48-384, 96": (lambda n: nets.resnet(n, 96, (48, 96, 192, 384), 2, 7), "onnx"),
    "VGG wide, 96": (lambda n: nets.vgg(n, 96, (48, 96, 160), 512), "onnx"),
    "SqueezeNet 1.1, 320": (lambda n: nets.squeezenet(n, 320), "onnx"),
    "autoencoder 2048": (lambda n: nets.autoencoder(n, 2048, 768, 64), "onnx"),
    "transformer 128 x 384": (lambda n: nets.transformer(n, 128, 384, 6, 6), "onnx"),
    "U-Net 16, 192": (lambda n: nets.unet(n, 192, 16), "onnx"),
    "tables 512 x 1024": (lambda n: tables(n, 512, 1024, 12), "onnx"),
    "MobileNetV1 1.0, 128, int8": (lambda n: nets.mobilenet_v1(n, 1.0, 128), "onnx-int8"),
    "ResNet 48-384, 96, int8": (lambda n: nets.resnet(n, 96, (48, 96, 192, 384), 2, 7), "onnx-int8"),
    "VGG wide, 96, int8": (lambda n: nets.vgg(n, 96, (48, 96, 160), 512), "onnx-int8"),
    "MobileNetV1 1.0, 192, lite": (lambda n: nets.mobilenet_v1(n, 1.0, 192), "lite"),
    "ResNet 48-384, 96, lite": (lambda n: nets.resnet(n, 96, (48, 96, 192, 384), 2, 7), "lite"),
    "VGG wide, 96, lite": (lambda n: nets.vgg(n, 96, (48, 96, 160), 512), "lite"),
    "MobileNetV2 1.4, 128, lite int8": (lambda n: nets.mobilenet_v2(n, 1.4, 128), "lite-int8"),
    "ResNet 48-384, 96, lite int8": (lambda n: nets.resnet(n, 96, (48, 96, 192, 384), 2, 7), "lite-int8"),
}
TRAINED = ("ai4i", "bearing", "minilm", "mobilenetv2", "resnet18", "squeezenet")


def development(folder: Path) -> dict[str, Path]:
    """With the TFLite forms of networks that its own writer does not know."""
    made = write_models(folder, SMALL | LARGE, malaria=False)
    for name in ("transformer 128 x 384", "U-Net 16, 192", "autoencoder 2048", "vibration 1024", "tables 512 x 1024"):
        made |= _lite(name, made[name], folder)
    return made


def final(folder: Path, trained: Path | None) -> dict[str, Path]:
    """`trained`: a folder with NAME.onnx as models/zoo/train.py writes them, and NAME-compressed beside it where there
    is one. What is not there is left out."""
    made = write_models(folder, FINAL, malaria=True)
    for name in ("transformer 64 x 128", "U-Net, 128", "autoencoder 640"):
        made |= _lite(name, made[name], folder)
    for name in TRAINED if trained else ():
        assert trained is not None
        path = trained / f"{name}.onnx"
        if path.is_file():
            made |= {f"{name}, trained": path} | _lite(f"{name}, trained", path, folder)
        for kind in ("static_w8a8", "weights_w8"):
            for ending in (".onnx", "-lite.tflite"):
                path = trained / f"{name}-compressed" / f"{kind}{ending}"
                if path.is_file():
                    made[f"{name}, {kind}{'-lite' if ending != '.onnx' else ''}"] = path
    return made


def _lite(name: str, path: Path, folder: Path) -> dict[str, Path]:
    from edge_runtime.compress.artifact import load_artifact
    from edge_runtime.compress.prepare import prepare
    from edge_runtime.compress.tflite_write import to_tflite

    out = folder / f"{path.stem}-lite.tflite"
    out.write_bytes(to_tflite(prepare(load_artifact(path)).model()))
    return {f"{name}, lite": out}
