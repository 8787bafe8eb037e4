"""The small student on coarse grids: the network of network.py, with weights that few bits can say.

On the grid (Jacob and others, 2018; learned steps: Esser and others, 2020) a layer's weights are whole multiples of one
step, and the loss may charge for the bits that an entropy coder would take (Oktay and others, 2020): the length of a
weight's code under a Laplace distribution with the layer's own width.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import cell_lessons
import numpy as np
import numpy.typing as npt
import torch
from dataset import Cells
from layers import Folded
from learn import Settings, targets
from network import CellNet, fold
from tiny_files import TinyLayer, TinyNet
from torch import nn
from torch.nn import functional

from edge_runtime.compress.learn.loop import Fit, fit

Floats = npt.NDArray[np.float32]
BIAS_GRID = 64  # a bias is a whole multiple of so many steps: of its four bytes mostly one says something


@dataclass(frozen=True)
class Student:
    """`lessons`: how the float network learns, and from then on the same lessons on the grid. `levels`: most steps to
    each side. `price`: of a stored byte, in loss."""

    lessons: Settings = field(default_factory=Settings)
    tune_epochs: int = 14
    batch: int = 64
    tune_rate: float = 2e-3
    tune_average: float = 0.999
    levels: int = 63
    price: float = 0.0


@dataclass(frozen=True)
class _Plain:
    weight: Floats
    bias: Floats
    stride: int
    depthwise: bool


def balanced(folded: Folded, pixels: npt.NDArray[np.uint8], share: float = 0.9999) -> tuple[list[_Plain], Floats]:
    """The same function with every activation between 0 and 1, and channels of like weights: a ReLU lets a channel's
    factor through, so weights before it are divided by what those behind it are multiplied with (Nagel and others,
    2019). Returns the convolutions and the dense row."""
    weights = [layer.weight.copy() for layer in folded.layers]
    biases = [layer.bias.copy() for layer in folded.layers]
    head = folded.head.copy()
    for _ in range(10):
        for place in range(len(weights) - 1):
            one, two = weights[place], weights[place + 1]
            before = np.abs(one).reshape(len(one), -1).max(1)
            wide = two if folded.layers[place + 1].depthwise else two.transpose(1, 0, 2, 3)
            after = np.abs(wide).reshape(len(wide), -1).max(1)
            gain = np.sqrt(np.maximum(after, 1e-4) / np.maximum(before, 1e-4))
            one *= gain[:, None, None, None]
            biases[place] *= gain
            wide /= gain[:, None, None, None]
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    done, top = [], 1.0
    for layer, weight, bias in zip(folded.layers, weights, biases, strict=True):
        x = functional.relu(_conv(x, torch.from_numpy(weight), torch.from_numpy(bias), layer.stride, layer.depthwise))
        here = float(np.quantile(x.numpy().ravel()[:: max(1, x.numel() // 2_000_000)], share))
        done.append(_Plain(weight * (top / here), bias / here, layer.stride, layer.depthwise))
        top = here
    return done, head * top


def _conv(x: Any, weight: Any, bias: Any, stride: int, depthwise: bool) -> Any:
    kernel = weight.shape[-1]
    x = functional.pad(x, (0, 1, 0, 1)) if stride == 2 else x
    padding = kernel // 2 if stride == 1 else 0
    return functional.conv2d(x, weight, bias, stride, padding, groups=len(weight) if depthwise else 1)


def _rounded(x: Any) -> Any:
    """Rounding whose slope is taken for 1 (the straight-through estimator)."""
    return x + (torch.round(x) - x).detach()


class GridNet(nn.Module):
    """The student as the 8-bit files reckon, with weights that can still be taught."""

    def __init__(self, plain: list[_Plain], head: Floats, head_bias: float, levels: int) -> None:
        super().__init__()
        self.stride = [one.stride for one in plain]
        self.depthwise = [one.depthwise for one in plain]
        self.levels = levels
        rows = [one.weight for one in plain] + [head]
        self.weights = nn.ParameterList([nn.Parameter(torch.from_numpy(one.astype(np.float32))) for one in rows])
        self.biases = nn.ParameterList([nn.Parameter(torch.from_numpy(one.bias.astype(np.float32))) for one in plain])
        self.head_bias = nn.Parameter(torch.tensor(float(head_bias)))
        # the step that a Gaussian of this width would want, or the largest weight's where that is finer
        starts = [min(float(np.abs(one).max()) / levels, 2.5 * float(one.std()) / levels * 1.5) for one in rows]
        self.steps = nn.Parameter(torch.log(torch.tensor(starts)))

    def level(self, place: int) -> Any:
        """Weights in steps, not rounded."""
        return torch.clamp(self.weights[place] / torch.exp(self.steps[place]), -self.levels, self.levels)

    def forward(self, x: Any) -> Any:
        for place, (stride, depthwise) in enumerate(zip(self.stride, self.depthwise, strict=True)):
            step = torch.exp(self.steps[place])
            weight = _rounded(self.level(place)) * step
            fine = step * (BIAS_GRID / 255)
            bias = _rounded(self.biases[place] / fine) * fine
            x = torch.clamp(_conv(x, weight, bias, stride, depthwise), 0, 1)
            x = _rounded(x * 255) / 255
        x = torch.cat([x.mean(dim=(2, 3)), x.amax(dim=(2, 3))], dim=1)
        head = _rounded(self.level(len(self.stride))) * torch.exp(self.steps[-1])
        return (x @ head + self.head_bias)[:, None]

    def bytes(self) -> Any:
        """What an entropy coder would take for the weights, as a smooth function of them."""
        total = 0.0
        for place in range(len(self.weights)):
            x = self.level(place)
            width = x.abs().mean().clamp(min=0.05)
            mass = _below((x + 0.5) / width) - _below((x - 0.5) / width)
            total = total - torch.log2(mass.clamp(min=1e-9)).sum() / 8
        return total


def _below(x: Any) -> Any:
    """Laplace's distribution function."""
    half = 0.5 * torch.exp(-x.abs())
    return torch.where(x < 0, half, 1 - half)


def train_grid(start: CellNet, cells: Cells, teacher: Floats, settings: Student, notice: Any = None) -> GridNet:
    """From the trained float network on; `teacher`: probabilities (N,) of `cells`."""
    folded = fold(start)
    some = np.random.default_rng(3).choice(len(cells), min(512, len(cells)), replace=False)
    plain, head = balanced(folded, cells.pixels[some])
    net = GridNet(plain, head, folded.head_bias, settings.levels)
    wanted = torch.from_numpy(targets(cells, settings.lessons, teacher))

    def priced(net: Any, inputs: tuple[Any, ...], index: Any) -> Any:
        plain = functional.binary_cross_entropy_with_logits(net(*inputs)[:, 0], wanted[index])
        return plain + settings.price * net.bytes() if settings.price else plain

    seed, average = settings.lessons.seed, settings.tune_average
    how = Fit(settings.tune_epochs, settings.batch, settings.tune_rate, 0.0, 0.1, average, 5.0, seed)
    found: GridNet = fit(net, cell_lessons.to_learn(cells, settings.lessons), priced, how, notice=notice)
    return found


@torch.no_grad()
def integers(net: GridNet) -> TinyNet:
    """What the files are written from."""
    layers = []
    for place, (stride, depthwise) in enumerate(zip(net.stride, net.depthwise, strict=True)):
        step = float(torch.exp(net.steps[place]))
        weight = torch.round(net.level(place)).numpy().astype(np.int8)
        bias = np.rint(net.biases[place].numpy() * (255 / step / BIAS_GRID)).astype(np.int32) * BIAS_GRID
        layers.append(TinyLayer(weight, step, bias, stride, depthwise))
    head = torch.round(net.level(len(layers))).numpy().astype(np.int8)
    return TinyNet(tuple(layers), 1 / 255, head, float(torch.exp(net.steps[-1])), float(net.head_bias))
