"""The network: a small depthwise-separable CNN from a 64 x 64 RGB cell to one raw logit of "infected".

It is built from four kinds of operation only (convolution, ReLU, average and maximum over the picture, one dense
row), so that the 8-bit files can be written operation by operation with the same numbers in ONNX and TFLite.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from layers import Floats, Folded, Layer
from torch import nn
from torch.nn import functional


@dataclass(frozen=True)
class Shape:
    """`stem` is the channels of the first 3x3 convolution (stride 2); each block is (channels, stride)."""

    stem: int = 16
    blocks: tuple[tuple[int, int], ...] = ((32, 2), (48, 1), (64, 2), (64, 1))
    dropout: float = 0.1


class Conv(nn.Module):
    """Convolution, batch normalisation, ReLU.

    Stride 2 pads only below and to the right: that is TensorFlow's SAME, and the one way that TFLite can do it.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, groups: int = 1) -> None:
        super().__init__()
        self.stride, self.kernel = stride, kernel
        padding = kernel // 2 if stride == 1 else 0
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.stride == 2:
            x = functional.pad(x, (0, 1, 0, 1))
        return functional.relu(self.norm(self.conv(x)))


class CellNet(nn.Module):
    """float32 (B,3,64,64), pixels / 255, to float32 (B,1).

    Average and maximum over the last map stand side by side: a ring of a few pixels drowns in an average.
    """

    def __init__(self, shape: Shape = Shape()) -> None:
        super().__init__()
        self.shape = shape
        layers, channels = [Conv(3, shape.stem, 3, 2)], shape.stem
        for outputs, stride in shape.blocks:
            layers += [Conv(channels, channels, 3, stride, groups=channels), Conv(channels, outputs, 1, 1)]
            channels = outputs
        self.body = nn.Sequential(*layers)
        self.head = nn.Linear(2 * channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.body(x)
        x = torch.cat([x.mean(dim=(2, 3)), x.amax(dim=(2, 3))], dim=1)
        return self.head(functional.dropout(x, self.shape.dropout, self.training))


def fold(net: CellNet) -> Folded:
    """Batch normalisation is a scale and a shift with fixed numbers once training is over: put it into the weights."""
    layers = []
    for module in net.body:
        norm, weight = module.norm, module.conv.weight.detach()
        gain = norm.weight.detach() / torch.sqrt(norm.running_var + norm.eps)
        bias = norm.bias.detach() - norm.running_mean * gain
        layers.append(
            Layer((weight * gain[:, None, None, None]).numpy(), bias.numpy(), module.stride, module.conv.groups > 1)
        )
    return Folded(tuple(layers), net.head.weight.detach().numpy()[0], float(net.head.bias.detach()[0]))


@torch.inference_mode()
def logits(net: CellNet, pixels: npt.NDArray[np.uint8], batch: int = 256) -> Floats:
    """uint8 (N,64,64,3) to float32 (N,)."""
    net.eval()
    parts = []
    for start in range(0, len(pixels), batch):
        x = torch.from_numpy(np.ascontiguousarray(pixels[start : start + batch])).permute(0, 3, 1, 2).float() / 255
        parts.append(net(x)[:, 0].numpy())
    return np.concatenate(parts)
