"""What windows of convolutions and pools read, as ONNX has it: padding, and numbers past the end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edge_runtime.compress.layers import attribute

if TYPE_CHECKING:
    import onnx_ir as ir


def padding(node: ir.Node, sizes: Sequence[int], kernel: Sequence[int]) -> tuple[list[int], list[int]]:
    """Zeros before and after, by spatial axis; `auto_pad` worked out."""
    rank, how = len(kernel), attribute(node, "auto_pad", "NOTSET")
    if how in ("SAME_UPPER", "SAME_LOWER"):
        strides = attribute(node, "strides", (1,) * rank)
        dilations = attribute(node, "dilations", (1,) * rank)
        whole = [
            max((-(-size // step) - 1) * step + (k - 1) * d + 1 - size, 0)
            for size, step, k, d in zip(sizes, strides, kernel, dilations, strict=True)
        ]
        small, large = [one // 2 for one in whole], [one - one // 2 for one in whole]
        return (small, large) if how == "SAME_UPPER" else (large, small)
    pads = list(attribute(node, "pads", (0,) * 2 * rank)) if how == "NOTSET" else [0] * 2 * rank
    return pads[:rank], pads[rank:]


def read_after(node: ir.Node, sizes: Sequence[int], kernel: Sequence[int]) -> list[int]:
    """Numbers behind each spatial axis that the last window of a pool reads: with ceil_mode more than the padding,
    and fewer where the windows do not come out even; below 0 where they end before the axis does."""
    rank, whole = len(kernel), attribute(node, "ceil_mode", 0)
    strides, dilations = attribute(node, "strides", (1,) * rank), attribute(node, "dilations", (1,) * rank)
    made = []
    for size, step, k, d, low, high in zip(
        sizes, strides, kernel, dilations, *padding(node, sizes, kernel), strict=True
    ):
        wide = (k - 1) * d + 1
        left = size + low + high - wide
        last = (-(-left // step) if whole else left // step) * step
        if whole and last >= size + low:  # a window that begins behind the axis is no window
            last -= step
        made.append(last + wide - size - low)
    return made


def reads_past_padding(node: ir.Node, sizes: Sequence[int]) -> bool:
    """Whether the last windows of a pool reach behind the padding, too."""
    kernel = attribute(node, "kernel_shape")
    _, after = padding(node, sizes, kernel)
    return any(read > pad for read, pad in zip(read_after(node, sizes, kernel), after, strict=True))
