"""A folded network as plain numbers, in float and in 8 bit: what the files are written from. Needs numpy alone."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Layer:
    """One convolution with its normalisation folded in, followed by ReLU. weight (O,I/groups,k,k), bias (O,)."""

    weight: Floats
    bias: Floats
    stride: int
    depthwise: bool


@dataclass(frozen=True)
class Folded:
    """What the files are written from: the convolutions in order, and the dense row (2C,) with its bias."""

    layers: tuple[Layer, ...]
    head: Floats
    head_bias: float

    @property
    def parameters(self) -> int:
        return sum(layer.weight.size + layer.bias.size for layer in self.layers) + self.head.size + 1


@dataclass(frozen=True)
class IntLayer:
    """weight int8 (O,I/groups,k,k) by `scales` float32 (O,); bias int32 (O,); output = uint8 * output_scale."""

    weight: npt.NDArray[np.int8]
    scales: Floats
    bias: npt.NDArray[np.int32]
    input_scale: float
    output_scale: float
    stride: int
    depthwise: bool


@dataclass(frozen=True)
class IntNet:
    layers: tuple[IntLayer, ...]
    head: Floats
    head_bias: float
