"""The networks as PyTorch modules, for the converters that start from there. Runs in the converters' environment."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional

# MobileNetV2 (Sandler and others, 2018), width 1.0: expansion, channels, repeats, stride of the first
BLOCKS = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


def _conv(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(outputs)]


class Inverted(nn.Module):
    """Widen, filter every channel by itself, narrow; added to the input where the shapes allow it."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        layers = [*_conv(inputs, wide), nn.ReLU6()] if expansion > 1 else []
        layers += [*_conv(wide, wide, 3, stride, wide), nn.ReLU6(), *_conv(wide, outputs)]
        self.body, self.add = nn.Sequential(*layers), stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x) if self.add else self.body(x)


class MobileNetV2(nn.Module):
    """float32 (B,3,96,96), pixels / 255, to float32 (B,2): uninfected, infected."""

    def __init__(self) -> None:
        super().__init__()
        layers, channels = [*_conv(3, 32, 3, 2), nn.ReLU6()], 32
        for expansion, outputs, repeats, stride in BLOCKS:
            for place in range(repeats):
                layers.append(Inverted(channels, outputs, stride if place == 0 else 1, expansion))
                channels = outputs
        self.body = nn.Sequential(*layers, *_conv(channels, 1280), nn.ReLU6())
        self.head = nn.Linear(1280, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.adaptive_avg_pool2d(self.body(x), 1).flatten(1)
        return self.head(functional.dropout(x, 0.2, self.training))


class Malaria(nn.Module):
    """The shipped malaria network again, from the weights in its ONNX file: convolutions, two poolings, a dense row."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        import onnx
        from onnx import numpy_helper

        graph = onnx.load(str(path)).graph
        values = {one.name: torch.from_numpy(np.array(numpy_helper.to_array(one))) for one in graph.initializer}
        self.layers, self.pads = nn.ModuleList(), []
        for node in (one for one in graph.node if one.op_type == "Conv"):
            about = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
            weight, bias = values[node.input[1]], values[node.input[2]]
            inputs = weight.shape[1] * about["group"]
            layer = nn.Conv2d(inputs, len(weight), about["kernel_shape"], about["strides"], groups=about["group"])
            layer.weight, layer.bias = nn.Parameter(weight), nn.Parameter(bias)
            self.layers.append(layer)
            top, left, bottom, right = about["pads"]
            self.pads.append((left, right, top, bottom))
        self.head = nn.Linear(len(values["head"]), 1)
        self.head.weight, self.head.bias = (
            nn.Parameter(values["head"].T.contiguous()),
            nn.Parameter(values["head_bias"]),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for pads, layer in zip(self.pads, self.layers, strict=True):
            x = functional.relu(layer(functional.pad(x, pads) if any(pads) else x))
        pooled = [functional.adaptive_avg_pool2d(x, 1), x.amax((2, 3), keepdim=True)]
        return self.head(torch.cat(pooled, 1).flatten(1))
