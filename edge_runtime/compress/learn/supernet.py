# mypy: disallow-subclassing-any=False
"""A supernet of the family `separable`: every architecture of a space is a slice of one set of weights.

The first channels of each layer and the first blocks are used (slimmable networks: Yu and others, 2019); each step
teaches the largest, the smallest and some at random, and the smaller ones also learn from the largest's answers
(the sandwich rule and inplace distillation: Yu and Huang, 2019; once-for-all networks: Cai and others, 2020). Strides,
shrinking and the head's maximum need no weights of their own. A slice's statistics of normalisation are counted anew
before it is judged.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from edge_runtime.compress.learn.blocks import same_padding
from edge_runtime.compress.learn.builders import Separable
from edge_runtime.compress.learn.loop import Fit, answers, fit, own_state
from edge_runtime.compress.learn.space import Space, from_plain
from edge_runtime.compress.learn.trial import School, judged
from edge_runtime.digest import sha256
from edge_runtime.errors import InputError, UsageError

CALIBRATION_BATCHES = 6


class Layer(nn.Module):
    """A convolution and its normalisation, of which the first channels can be used."""

    def __init__(self, inputs: int, outputs: int, kernel: int, each: bool = False) -> None:
        super().__init__()
        self.each = each
        self.weight = nn.Parameter(torch.empty(outputs, 1 if each else inputs, kernel, kernel))
        fan = kernel**2 * (1 if each else outputs)
        nn.init.normal_(self.weight, std=(2 / fan) ** 0.5)
        self.gain, self.shift = nn.Parameter(torch.ones(outputs)), nn.Parameter(torch.zeros(outputs))

    def forward(self, x: torch.Tensor, outputs: int, stride: int) -> torch.Tensor:
        weight = self.sliced(x.shape[1], outputs)
        kernel = weight.shape[2:]
        x = functional.pad(x, same_padding(tuple(x.shape[2:]), kernel, (stride, stride)))
        x = functional.conv2d(x, weight, None, stride, groups=outputs if self.each else 1)
        return functional.relu(
            functional.batch_norm(x, None, None, self.gain[:outputs], self.shift[:outputs], training=True)
        )

    def sliced(self, inputs: int, outputs: int) -> torch.Tensor:
        return self.weight[:outputs] if self.each else self.weight[:outputs, :inputs]


class SuperNet(nn.Module):
    """As large as the largest of each choice of the space."""

    def __init__(self, space: Space) -> None:
        super().__init__()
        if space.builder != "separable":
            raise UsageError(f"found a space of {space.builder}, wanted separable: no other family has a supernet")
        self.space, self.largest = space, extreme(space, max)
        one = self.largest
        self.stem = Layer(one.channels, one.stem, 3)
        widths = (one.stem, *one.widths)
        self.filters = nn.ModuleList(Layer(n, n, 3, each=True) for n in widths[:-1])
        self.mixers = nn.ModuleList(Layer(n, m, 1) for n, m in pairwise(widths))
        self.mean = nn.Parameter(torch.randn(one.classes, max(widths)) * 0.01)
        self.highest = nn.Parameter(torch.randn(one.classes, max(widths)) * 0.01)
        self.bias = nn.Parameter(torch.zeros(one.classes))

    def forward(self, x: torch.Tensor, one: Separable | None = None) -> torch.Tensor:
        """With the statistics of this batch."""
        one = one or self.largest
        x = functional.avg_pool2d(x, one.shrink) if one.shrink > 1 else x
        x = self.stem(x, one.stem, 2)
        for place, (outputs, stride) in enumerate(zip(one.widths, one.strides, strict=True)):
            x = self.filters[place](x, x.shape[1], stride)
            x = self.mixers[place](x, outputs, 1)
        channels = x.shape[1]
        said = x.mean(dim=(2, 3)) @ self.mean[:, :channels].T + self.bias
        return said + x.amax(dim=(2, 3)) @ self.highest[:, :channels].T if one.most else said

    def cut(self, one: Separable) -> Any:
        """The slice as a network of its own, which can be taught on; its statistics are not counted yet."""
        net = one.build()
        layers, channels = [(self.stem, one.channels, one.stem)], one.stem
        for place, outputs in enumerate(one.widths):
            layers += [(self.filters[place], channels, channels), (self.mixers[place], channels, outputs)]
            channels = outputs
        wanted = [module for module in net.modules() if isinstance(getattr(module, "conv", None), nn.Conv2d)]
        head = next(module for module in net.modules() if isinstance(module, nn.Linear))
        parts = [self.mean[:, :channels]] + ([self.highest[:, :channels]] if one.most else [])
        with torch.no_grad():
            for module, (layer, inputs, outputs) in zip(wanted, layers, strict=True):
                module.conv.weight.copy_(layer.sliced(inputs, outputs))
                module.norm.weight.copy_(layer.gain[:outputs])
                module.norm.bias.copy_(layer.shift[:outputs])
            head.weight.copy_(torch.cat(parts, dim=1))
            head.bias.copy_(self.bias)
        return net


def extreme(space: Space, pick: Any) -> Separable:
    """The architecture with the largest (or smallest) value of each choice."""
    code = []
    for name, values in space.choices.items():
        # more pixels cost more: the largest net shrinks least and strides least
        turned = name.partition(".")[0] in ("shrink", "strides")
        wanted = (min if pick is max else max)(values) if turned else pick(values)
        code.append(values.index(wanted))
    found: Separable = space.decode(tuple(code))
    return found


@dataclass(frozen=True)
class Shared:
    """A trained supernet: its space and weights, as what can be sent to workers."""

    space: Space
    weights: Mapping[str, Any] = field(hash=False, repr=False)

    @cached_property
    def digest(self) -> str:
        whole = sha256()
        for name, array in sorted(self.weights.items()):
            whole.update(name.encode() + np.ascontiguousarray(array).tobytes())
        return whole.hexdigest()[:12]

    @cached_property
    def net(self) -> SuperNet:
        made = SuperNet(self.space)
        made.load_state_dict({name: torch.from_numpy(array) for name, array in self.weights.items()})
        return made

    def save(self, path: Path) -> None:
        np.savez(path, **self.weights)


def load_shared(space: Space, path: Path) -> Shared:
    """Raises InputError where the file is of another space."""
    with np.load(path, allow_pickle=False) as stored:
        weights = {name: stored[name] for name in stored.files}
    wanted = {name: tuple(one.shape) for name, one in SuperNet(space).state_dict().items()}
    if {name: one.shape for name, one in weights.items()} != wanted:
        raise InputError(f"{path}: found the weights of another space", hint=f"rm {path}")
    return Shared(space, weights)


def teach(
    space: Space, school: School, settings: Fit, *, middle: int = 2, steps: int | None = None, **more: Any
) -> Shared:
    """Teach a supernet; `middle`: architectures drawn at random for each batch, beside the largest and the smallest.
    `more` goes to loop.fit: notice, keep."""
    with own_state(settings.seed, settings.threads):
        net = SuperNet(space)
    least, counts = extreme(space, min), [len(values) for values in space.choices.values()]
    labels = torch.from_numpy(np.asarray(school.lessons.labels).astype(np.int64))

    def loss(net: Any, inputs: tuple[Any, ...], index: Any) -> Any:
        (x,) = inputs
        whole = net(x)
        total = _loss(whole, labels[index], school.smoothing)
        drawn = [space.decode(tuple(int(torch.randint(n, (1,))) for n in counts)) for _ in range(middle)]
        soft = whole.detach()
        for one in (least, *drawn):
            total = total + _like(net(x, one), soft)
        return total / (2 + middle)

    made = fit(net, school.lessons, loss, settings, steps=steps, **more)
    return Shared(space, {name: value.detach().numpy() for name, value in made.state_dict().items()})


def _loss(logits: Any, labels: Any, smoothing: float) -> Any:
    if logits.shape[1] == 1:
        target = labels.float() * (1 - smoothing) + smoothing / 2
        return functional.binary_cross_entropy_with_logits(logits[:, 0], target)
    return functional.cross_entropy(logits, labels, label_smoothing=smoothing)


def _like(logits: Any, wanted: Any) -> Any:
    """As the largest answers."""
    if logits.shape[1] == 1:
        return functional.binary_cross_entropy_with_logits(logits, torch.sigmoid(wanted))
    return functional.cross_entropy(logits, functional.softmax(wanted, dim=1))


def slice_of(shared: Shared, one: Separable, school: School, seed: int) -> Any:
    """The network of one architecture, its statistics counted on some varied lessons."""
    net = shared.net.cut(one)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.reset_running_stats()
            module.momentum = None  # the plain mean of all batches
    dice = torch.Generator().manual_seed(seed)
    net.train()
    with torch.no_grad():
        for place, (_, inputs) in enumerate(school.lessons.batches(64, dice)):
            if place == CALIBRATION_BATCHES:
                break
            net(*inputs)
    return net.eval()


def run_shared(school: School, shared: Shared, trial: Mapping[str, Any]) -> dict[str, Any]:
    """As trial.run_trial, without training."""
    began = time.monotonic()
    net = slice_of(shared, from_plain(trial["architecture"]), school, trial["seed"])
    return judged(school, answers(net, school.val)) | {"seconds": round(time.monotonic() - began, 2)}
