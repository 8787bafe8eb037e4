"""Rounding inside a network that is being trained: forward as the integers will be, backward as if nothing were rounded
(straight-through estimator; Bengio et al., 2013).

Steps are learnt with the gradient of LSQ (Esser et al., 2020), as their logarithm, so that a rate means a share of the
step whatever its size (Jain et al., 2020). Ternary weights have the threshold of TWN (Li et al., 2016) and a learnt
scale (as TTQ, Zhu et al., 2017, but one for both signs: two would lie on no grid of integers).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from edge_runtime.compress.weight_only import Form, Levels, scales_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edge_runtime.compress.layers import Layer
    from edge_runtime.compress.ranges import Scale

THRESHOLD = 0.7  # of the mean size of a channel's weights; TWN's optimum for weights spread evenly or normally


class _Round(torch.autograd.Function):  # type: ignore[misc]
    """x, step -> the nearest of low..high steps. The step has the shape of x, or is one number."""

    @staticmethod
    def forward(ctx: Any, x: Any, step: Any, low: float, high: float) -> Any:
        exact = x / step
        levels = exact.round().clamp_(low, high)
        ctx.save_for_backward(exact, levels)
        ctx.bounds, ctx.alone = (low, high), step.numel() == 1
        return levels * step

    @staticmethod
    def backward(ctx: Any, slope: Any) -> Any:
        exact, levels = ctx.saved_tensors
        low, high = ctx.bounds
        inside = (exact >= low) & (exact <= high)
        of_step = None
        if ctx.needs_input_grad[1]:
            of_step = slope * (levels - exact * inside)
            of_step = of_step.sum() if ctx.alone else of_step
        return slope * inside, of_step, None, None


def rounded(x: Any, step: Any, low: float, high: float) -> Any:
    """`x` on the nearest of the levels low..high times `step`; gradients for both."""
    return _Round.apply(x, step, low, high)


def _gently(step: Any, by: float) -> Any:
    """The same number, its gradient times `by`."""
    return step * by + (step - step * by).detach()


@dataclass(frozen=True)
class Bits:
    """How a layer's weights are stored: `form` says levels and blocks; `ternary`: by threshold, not by rounding;
    `top`: largest level, where that is less than the form holds; `grid` above 0: scales are whole powers of the
    `grid`-th root of 2, so that a file has few different ones."""

    form: Form
    ternary: bool = False
    top: int = 0
    grid: int = 0

    @property
    def most(self) -> int:
        return self.top or self.form.top


class WeightRounder(nn.Module):  # type: ignore[misc]
    """The weights of one layer. `log` (outputs, groups): logarithm of each scale against where it began."""

    def __init__(self, layer: Layer, matrix: NDArray[np.float32], bits: Bits) -> None:
        super().__init__()
        began = scales_of(layer, matrix, bits.form)
        self.bits, self.axis = bits, layer.axis
        self.register_buffer("spread", torch.from_numpy(began.spread))
        groups = began.scales.shape[1]
        if bits.ternary:
            start = self._ternary_scales(torch.from_numpy(matrix.copy()), groups)
        else:
            start = torch.from_numpy(began.scales * (bits.form.top / bits.most))
        self.register_buffer("start", start)
        self.log = nn.Parameter(torch.zeros_like(start))
        self.gentle = 1 / math.sqrt(matrix.shape[1] / groups * bits.most)

    def scales(self) -> Any:
        """float32 (outputs, groups)."""
        exact = self.start * torch.exp(self.log)
        if not self.bits.grid:
            return exact
        near = torch.exp2((torch.log2(exact.detach()) * self.bits.grid).round() / self.bits.grid)
        return near * (exact / exact.detach())  # the second factor is 1, and carries the gradient

    def forward(self, weight: Any) -> Any:
        """Of the weight's own shape; the straight way back to it."""
        matrix = self._matrix(weight)
        step = _gently(self.scales(), self.gentle)[:, self.spread]
        if self.bits.ternary:
            real = step * self._signs(matrix) + (matrix - matrix.detach())
        else:
            real = rounded(matrix, step, -self.bits.most, self.bits.most)
        return self._shaped(real, weight)

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def levels(self, weight: Any) -> Levels:
        """The integers, from which files are written."""
        import numpy as np

        matrix, scales = self._matrix(weight.detach()), self.scales()
        if self.bits.ternary:
            found = self._signs(matrix)
        else:
            found = (matrix / scales[:, self.spread]).round().clamp(-self.bits.most, self.bits.most)
        plain = (found + 0.0).numpy()  # no negative zero
        return Levels(plain, scales.numpy().copy(), np.zeros(scales.shape, np.float32), self.spread.numpy())

    def _matrix(self, weight: Any) -> Any:
        turned = weight.movedim(self.axis, 0)
        return turned.reshape(turned.shape[0], -1)

    def _shaped(self, matrix: Any, like: Any) -> Any:
        shape = list(like.shape)
        turned = [shape.pop(self.axis), *shape]
        return matrix.reshape(turned).movedim(0, self.axis)

    def _mean(self, sizes: Any, groups: int) -> Any:
        """(outputs, groups): of what belongs to each."""
        whole = torch.zeros(len(sizes), groups)
        each = torch.bincount(self.spread, minlength=groups)
        return whole.index_add(1, self.spread, sizes) / each

    def _signs(self, matrix: Any) -> Any:
        size = matrix.detach().abs()
        least = THRESHOLD * self._mean(size, self.start.shape[1])
        return matrix.detach().sign() * (size > least[:, self.spread])

    def _ternary_scales(self, matrix: Any, groups: int) -> Any:
        """The mean size of the weights above the threshold."""
        size = matrix.abs()
        kept = (size > (THRESHOLD * self._mean(size, groups))[:, self.spread]).float()
        share = self._mean(kept, groups)
        scales = self._mean(size * kept, groups) / share.clamp_min(1e-12)
        return torch.where(share > 0, scales, scales.max().clamp_min(1e-12))


class ActivationRounder(nn.Module):  # type: ignore[misc]
    """Activations as 8 bits. `learnt`: the step is a parameter, the zero point stays where it began. Else the range
    follows, while training, a running average of the least and largest value of a batch; `still`: it stays."""

    def __init__(self, scale: Scale, learnt: bool, still: bool = False, keep: float = 0.99) -> None:
        super().__init__()
        self.learnt, self.still, self.keep = learnt and not still, still, keep
        self.register_buffer("start", torch.tensor(scale.scale, dtype=torch.float32))
        self.register_buffer("zero", torch.tensor(scale.zero))
        self.register_buffer("range", torch.tensor([scale.low, scale.high], dtype=torch.float32))
        self.log = nn.Parameter(torch.zeros(())) if self.learnt else None

    def step(self) -> Any:
        if self.learnt:
            return self.start * torch.exp(self.log)
        return self.start if self.still else ((self.range[1] - self.range[0]) / 255).clamp_min(1e-12)

    def offset(self) -> int:
        if self.learnt or self.still:
            return int(self.zero)
        return int(torch.clamp(torch.round(-self.range[0] / self.step()), 0, 255))

    def forward(self, x: Any) -> Any:
        if self.training and not self.learnt and not self.still:
            with torch.no_grad():
                now = torch.stack([x.detach().amin().clamp_max(0), x.detach().amax().clamp_min(0)])
                self.range.mul_(self.keep).add_(now, alpha=1 - self.keep)
        zero = self.offset()
        step = self.step()
        if self.learnt:
            step = _gently(step, 1 / math.sqrt(x.numel() / max(1, len(x)) * 255))
        return rounded(x, step, -zero, 255 - zero)

    def scale(self) -> Scale:
        """As files have it."""
        from edge_runtime.compress.ranges import Scale

        return Scale(float(self.step().detach()), self.offset())
