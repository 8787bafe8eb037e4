"""The picture networks as published, made small only in their last layer: two classes.

Every builder gives a torch module from float32 (N,3,S,S), pixels / 255, to logits float32 (N,2): uninfected, infected.
They are written out here, and not taken from a library of networks, so that the only thing to install is PyTorch.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional

CLASSES = 2

INVERTED = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
"""MobileNetV2 1.0 (Sandler and others, 2018), table 2: expansion, channels, repeats, stride of the first."""

FIRES = ((16, 64), (16, 64), None, (32, 128), (32, 128), None, (48, 192), (48, 192), (64, 256), (64, 256))
"""SqueezeNet 1.1 (Iandola and others, 2016): squeezed channels, channels of each half of the output; None is a pool."""

VGG = (64, 64, None, 128, 128, None, 256, 256, 256, None, 512, 512, 512, None, 512, 512, 512, None)
"""VGG-16 (Simonyan and Zisserman, 2014), column D: channels of 3x3 convolutions; None is a pool."""


def _norm_conv(inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(outputs)]


class Basic(nn.Module):
    """Two 3x3 convolutions added to their input, which a 1x1 convolution fits where the shapes differ."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*_norm_conv(inputs, outputs, 3, stride), nn.ReLU(), *_norm_conv(outputs, outputs, 3))
        same = stride == 1 and inputs == outputs
        self.short = nn.Sequential() if same else nn.Sequential(*_norm_conv(inputs, outputs, 1, stride))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.relu(self.body(x) + self.short(x))


class Inverted(nn.Module):
    """Widen, filter every channel by itself, narrow; added to the input where the shapes allow it."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        layers = [*_norm_conv(inputs, wide), nn.ReLU6()] if expansion > 1 else []
        layers += [*_norm_conv(wide, wide, 3, stride, wide), nn.ReLU6(), *_norm_conv(wide, outputs)]
        self.body, self.add = nn.Sequential(*layers), stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.body(x) if self.add else self.body(x)


class Fire(nn.Module):
    """Squeeze to few channels, then 1x1 and 3x3 convolutions side by side."""

    def __init__(self, inputs: int, few: int, half: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, few, 1)
        self.small, self.large = nn.Conv2d(few, half, 1), nn.Conv2d(few, half, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = functional.relu(self.squeeze(x))
        return torch.cat([functional.relu(self.small(x)), functional.relu(self.large(x))], 1)


class Average(nn.Module):
    """Mean over the picture: (N,C,H,W) to (N,C)."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.adaptive_avg_pool2d(x, 1).flatten(1)


class Grid(nn.Module):
    """(N,C,H,W) to (N,C*4): the last map of 64 x 64 pictures is 2 x 2; those of smaller ones are stretched."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x if tuple(x.shape[2:]) == (2, 2) else functional.adaptive_avg_pool2d(x, 2)).flatten(1)


def resnet18() -> nn.Module:
    """ResNet-18 (He and others, 2015)."""
    layers: list[nn.Module] = [*_norm_conv(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    channels = 64
    for outputs, stride in ((64, 1), (128, 2), (256, 2), (512, 2)):
        layers += [Basic(channels, outputs, stride), Basic(outputs, outputs, 1)]
        channels = outputs
    return _started(nn.Sequential(*layers, Average(), nn.Linear(channels, CLASSES)))


def mobilenetv2() -> nn.Module:
    layers, channels = [*_norm_conv(3, 32, 3, 2), nn.ReLU6()], 32
    for expansion, outputs, repeats, stride in INVERTED:
        for place in range(repeats):
            layers.append(Inverted(channels, outputs, stride if place == 0 else 1, expansion))
            channels = outputs
    layers += [*_norm_conv(channels, 1280), nn.ReLU6(), Average(), nn.Dropout(0.2), nn.Linear(1280, CLASSES)]
    return _started(nn.Sequential(*layers))


def squeezenet() -> nn.Module:
    """No normalisation anywhere, as published. The pools need no rounding up: maps of 64 x 64 pictures are odd."""
    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, 2), nn.ReLU(), nn.MaxPool2d(3, 2)]
    channels = 64
    for fire in FIRES:
        layers.append(nn.MaxPool2d(3, 2) if fire is None else Fire(channels, *fire))
        channels = channels if fire is None else 2 * fire[1]
    layers += [nn.Dropout(0.3), nn.Conv2d(channels, CLASSES, 1), Average()]
    return _started(nn.Sequential(*layers))


def vgg() -> nn.Module:
    """VGG-16's convolutions with normalisation, and dense layers of 512 instead of 4096."""
    layers: list[nn.Module] = []
    channels = 3
    for outputs in VGG:
        layers += [nn.MaxPool2d(2)] if outputs is None else [*_norm_conv(channels, outputs, 3), nn.ReLU()]
        channels = outputs or channels
    for inputs in (4 * channels, 512):
        layers += [Grid()] if inputs != 512 else []
        layers += [nn.Linear(inputs, 512), nn.ReLU(), nn.Dropout(0.5)]
    return _started(nn.Sequential(*layers, nn.Linear(512, CLASSES)))


def _started(net: nn.Module) -> nn.Module:
    """He's starting weights for layers before a ReLU; the last layer starts small, so the first steps are calm."""
    layers = [one for one in net.modules() if isinstance(one, nn.Conv2d | nn.Linear)]
    for layer in layers:
        nn.init.kaiming_normal_(layer.weight, mode="fan_out" if isinstance(layer, nn.Conv2d) else "fan_in")
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)
    nn.init.normal_(layers[-1].weight, std=0.01)
    return net


BUILDERS: dict[str, Callable[[], nn.Module]] = {
    "resnet18": resnet18,
    "mobilenetv2": mobilenetv2,
    "squeezenet": squeezenet,
    "vgg": vgg,
}


def parameters(net: nn.Module) -> int:
    """How many numbers training moves."""
    return sum(one.numel() for one in net.parameters())
