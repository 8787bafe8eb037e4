"""ONNX operators as PyTorch computes them. A rule takes the graph, the node and its inputs: tensors, None if absent.

The one file that imports torch as it is read: `torch_graph` reads it once it knows that torch is there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

from edge_runtime.compress.layers import attribute
from edge_runtime.errors import InputError

if TYPE_CHECKING:
    import onnx_ir as ir

Rule = Callable[..., Any]


def _numbers(tensor: Any) -> list[int]:
    return [int(one) for one in tensor.reshape(-1).tolist()]


def _window(node: ir.Node, x: Any, kernel: Any) -> tuple[Any, Any, Any, Any]:
    """Strides, dilations, zeros before and after each spatial axis."""
    from edge_runtime.compress.windows import padding

    rank = len(kernel)
    before, after = padding(node, tuple(x.shape[2:]), kernel)
    return attribute(node, "strides", (1,) * rank), attribute(node, "dilations", (1,) * rank), before, after


def _padded(x: Any, before: Any, after: Any, value: float = 0.0) -> Any:
    pads = [size for pair in zip(reversed(before), reversed(after), strict=True) for size in pair]
    return functional.pad(x, pads, value=value) if any(pads) else x


def conv(graph: Any, node: ir.Node, x: Any, weight: Any, bias: Any = None) -> Any:
    strides, dilations, before, after = _window(node, x, weight.shape[2:])
    if before != after:
        x, before = _padded(x, before, after), [0] * len(before)
    run = {1: functional.conv1d, 2: functional.conv2d, 3: functional.conv3d}[len(strides)]
    return run(x, weight, bias, strides, before, dilations, attribute(node, "group", 1))


def conv_transpose(graph: Any, node: ir.Node, x: Any, weight: Any, bias: Any = None) -> Any:
    strides, dilations, before, after = _window(node, x, weight.shape[2:])
    if before != after or attribute(node, "output_shape") or attribute(node, "auto_pad", "NOTSET") != "NOTSET":
        raise InputError(f"layer {node.name!r}: found uneven padding of a transposed convolution, wanted even padding")
    extra = attribute(node, "output_padding", (0,) * len(strides))
    kinds = {1: functional.conv_transpose1d, 2: functional.conv_transpose2d, 3: functional.conv_transpose3d}
    run, groups = kinds[len(strides)], attribute(node, "group", 1)
    return run(x, weight, bias, strides, before, extra, groups, dilations)


def max_pool(graph: Any, node: ir.Node, x: Any) -> Any:
    from edge_runtime.compress.windows import read_after

    kernel = attribute(node, "kernel_shape")
    strides, dilations, before, _ = _window(node, x, kernel)
    x = _padded(x, before, read_after(node, tuple(x.shape[2:]), kernel), float("-inf"))
    run = {1: functional.max_pool1d, 2: functional.max_pool2d, 3: functional.max_pool3d}[len(kernel)]
    return run(x, kernel, strides, 0, dilations)


def average_pool(graph: Any, node: ir.Node, x: Any) -> Any:
    from edge_runtime.compress.windows import read_after

    kernel = attribute(node, "kernel_shape")
    strides, dilations, before, after = _window(node, x, kernel)
    if any(one != 1 for one in dilations):
        raise InputError(f"layer {node.name!r}: found dilations of an average pool, wanted none")
    run = {1: functional.avg_pool1d, 2: functional.avg_pool2d, 3: functional.avg_pool3d}[len(kernel)]
    reach = read_after(node, tuple(x.shape[2:]), kernel)
    total = run(_padded(x, before, reach), kernel, strides)
    # zeros of the padding may count; those behind it, which ceil_mode lets the last window read, never do
    include = attribute(node, "count_include_pad", 0)
    free = after if include else [0] * len(kernel)
    if not any(read > size for read, size in zip(reach, free, strict=True)) and (include or not any(before)):
        return total
    ones = torch.ones_like(x[:1, :1])
    if include:
        counted = [min(pair) for pair in zip(after, reach, strict=True)]
        ones = _padded(ones, before, counted, 1.0)
        before, reach = [0] * len(kernel), [read - size for read, size in zip(reach, counted, strict=True)]
    return total / run(_padded(ones, before, reach), kernel, strides)


def gemm(graph: Any, node: ir.Node, a: Any, b: Any, c: Any = None) -> Any:
    a = a.T if attribute(node, "transA", 0) else a
    b = b.T if attribute(node, "transB", 0) else b
    made = (a @ b) * attribute(node, "alpha", 1.0)
    return made if c is None else made + c * attribute(node, "beta", 1.0)


def batch_norm(graph: Any, node: ir.Node, x: Any, scale: Any, bias: Any, mean: Any, var: Any) -> Any:
    return functional.batch_norm(x, mean, var, scale, bias, False, 0.0, attribute(node, "epsilon", 1e-5))


def layer_norm(graph: Any, node: ir.Node, x: Any, scale: Any, bias: Any = None) -> Any:
    axis = attribute(node, "axis", -1) % x.ndim
    shape = x.shape[axis:]
    whole = None if bias is None else bias.expand(shape)
    return functional.layer_norm(x, shape, scale.expand(shape), whole, attribute(node, "epsilon", 1e-5))


def clip(graph: Any, node: ir.Node, x: Any, low: Any = None, high: Any = None) -> Any:
    return torch.clamp(x, low, high) if low is not None or high is not None else x


def softmax(graph: Any, node: ir.Node, x: Any) -> Any:
    axis = attribute(node, "axis", -1)
    return torch.log_softmax(x, axis) if node.op_type == "LogSoftmax" else torch.softmax(x, axis)


def gelu(graph: Any, node: ir.Node, x: Any) -> Any:
    return functional.gelu(x, approximate=attribute(node, "approximate", "none"))


def reshape(graph: Any, node: ir.Node, x: Any, shape: Any) -> Any:
    sizes = _numbers(shape)
    if not attribute(node, "allowzero", 0):
        sizes = [x.shape[place] if size == 0 else size for place, size in enumerate(sizes)]
    if len(sizes) > 1 and sizes[0] == 1 and -1 not in sizes and x.shape[0] > 1:
        sizes[0] = x.shape[0]  # a graph of one item, given several
    return x.reshape(sizes)


def flatten(graph: Any, node: ir.Node, x: Any) -> Any:
    axis = attribute(node, "axis", 1) % (x.ndim + 1)
    return x.reshape(*((1,) if axis == 0 else (int(torch.Size(x.shape[:axis]).numel()),)), -1)


def squeeze(graph: Any, node: ir.Node, x: Any, axes: Any = None) -> Any:
    for axis in sorted((one % x.ndim for one in (_axes(node, axes) or _ones(x))), reverse=True):
        x = x.squeeze(axis)
    return x


def _ones(x: Any) -> list[int]:
    return [axis for axis, size in enumerate(x.shape) if size == 1]


def unsqueeze(graph: Any, node: ir.Node, x: Any, axes: Any = None) -> Any:
    given = _axes(node, axes) or []
    for axis in sorted(one % (x.ndim + len(given)) for one in given):
        x = x.unsqueeze(axis)
    return x


def _axes(node: ir.Node, axes: Any) -> list[int] | None:
    stated = attribute(node, "axes")
    return list(stated) if stated is not None else None if axes is None else _numbers(axes)


def transpose(graph: Any, node: ir.Node, x: Any) -> Any:
    return x.permute(attribute(node, "perm", tuple(reversed(range(x.ndim)))))


def concat(graph: Any, node: ir.Node, *given: Any) -> Any:
    return torch.cat(given, attribute(node, "axis"))


def split(graph: Any, node: ir.Node, x: Any, sizes: Any = None) -> Any:
    axis = attribute(node, "axis", 0)
    if sizes is not None:
        return torch.split(x, _numbers(sizes), axis)
    return torch.split(x, -(-x.shape[axis] // len(node.outputs)), axis)


def slice_(graph: Any, node: ir.Node, x: Any, starts: Any, ends: Any, axes: Any = None, steps: Any = None) -> Any:
    first, last = _numbers(starts), _numbers(ends)
    along = range(len(first)) if axes is None else _numbers(axes)
    step = [1] * len(first) if steps is None else _numbers(steps)
    index: list[Any] = [slice(None)] * x.ndim
    for axis, a, b, each in zip(along, first, last, step, strict=True):
        if each < 1:
            raise InputError(f"layer {node.name!r}: found a Slice that goes backwards, wanted one that goes forwards")
        index[axis] = slice(a, b, each)
    return x[tuple(index)]


def gather(graph: Any, node: ir.Node, x: Any, index: Any) -> Any:
    axis = attribute(node, "axis", 0) % x.ndim
    index = torch.where(index < 0, index + x.shape[axis], index)
    if x.ndim == 2 and axis == 0:
        return functional.embedding(index, x)
    picked = torch.index_select(x, axis, index.reshape(-1))
    return picked.reshape(*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])


def pad(graph: Any, node: ir.Node, x: Any, pads: Any, value: Any = None, axes: Any = None) -> Any:
    sizes = _numbers(pads)
    along = [one % x.ndim for one in _numbers(axes)] if axes is not None else list(range(x.ndim))
    before, after = [0] * x.ndim, [0] * x.ndim
    for place, axis in enumerate(along):
        before[axis], after[axis] = sizes[place], sizes[place + len(along)]
    mode = attribute(node, "mode", "constant")
    if mode == "constant":
        return _padded(x, before, after, 0.0 if value is None else float(value))
    if any((*before[:2], *after[:2])):
        raise InputError(f"layer {node.name!r}: found {mode} padding of channels, wanted it of the picture")
    flat = [size for pair in zip(reversed(before[2:]), reversed(after[2:]), strict=True) for size in pair]
    return functional.pad(x, flat, {"reflect": "reflect", "edge": "replicate"}[mode])


def reduce_(run: Callable[..., Any]) -> Rule:
    def rule(graph: Any, node: ir.Node, x: Any, axes: Any = None) -> Any:
        given = _axes(node, axes)
        if not given and attribute(node, "noop_with_empty_axes", 0):
            return x
        return run(x, tuple(given or range(x.ndim)), bool(attribute(node, "keepdims", 1)))

    return rule


def _root_sum(x: Any, axes: Any, keep: bool) -> Any:
    return x.pow(2).sum(axes, keep).sqrt()


def resize(graph: Any, node: ir.Node, x: Any, roi: Any = None, scales: Any = None, sizes: Any = None) -> Any:
    how = attribute(node, "mode", "nearest")
    place = attribute(node, "coordinate_transformation_mode", "half_pixel")
    rounded = attribute(node, "nearest_mode", "round_prefer_floor")
    if sizes is not None and sizes.numel():
        wanted = _numbers(sizes)[2:]
    else:
        wanted = [int(size * by) for size, by in zip(x.shape[2:], scales.tolist()[2:], strict=True)]
    if how == "nearest" and place == "asymmetric" and rounded == "floor":
        return functional.interpolate(x, wanted, mode="nearest")
    if how == "nearest" and place == "half_pixel":
        return functional.interpolate(x, wanted, mode="nearest-exact")
    if how == "linear" and x.ndim == 4 and place in ("half_pixel", "pytorch_half_pixel", "align_corners"):
        return functional.interpolate(x, wanted, mode="bilinear", align_corners=place == "align_corners")
    raise InputError(f"layer {node.name!r}: found Resize {how}, {place}, {rounded}, which cannot be trained here")


def cast(graph: Any, node: ir.Node, x: Any) -> Any:
    kinds = {1: "float32", 6: "int32", 7: "int64", 9: "bool", 10: "float16", 11: "float64"}
    return x.to(getattr(torch, kinds[int(attribute(node, "to"))]))


def shape_of(graph: Any, node: ir.Node, x: Any) -> Any:
    return torch.tensor(list(x.shape)[attribute(node, "start", 0) : attribute(node, "end", x.ndim)])


def expand(graph: Any, node: ir.Node, x: Any, shape: Any) -> Any:
    return x * torch.ones(_numbers(shape), dtype=x.dtype)


def constant_of_shape(graph: Any, node: ir.Node, shape: Any) -> Any:
    value = attribute(node, "value")
    filled = torch.zeros(1) if value is None else torch.from_numpy(value.numpy().copy())
    return filled.expand(_numbers(shape))


def plain(run: Callable[..., Any]) -> Rule:
    """An operator of tensors alone."""
    return lambda graph, node, *given: run(*given)


def fold(run: Callable[..., Any]) -> Rule:
    """Of any number of inputs, two at a time."""

    def rule(graph: Any, node: ir.Node, first: Any, *others: Any) -> Any:
        for one in others:
            first = run(first, one)
        return first

    return rule


def slope(run: Callable[..., Any], name: str, default: float) -> Rule:
    return lambda graph, node, x: run(x, attribute(node, name, default))


def prelu(graph: Any, node: ir.Node, x: Any, gain: Any) -> Any:
    return torch.where(x < 0, x * gain, x)


def divide(a: Any, b: Any) -> Any:
    return torch.div(a, b, rounding_mode=None if a.is_floating_point() else "trunc")


def hard_sigmoid(graph: Any, node: ir.Node, x: Any) -> Any:
    return torch.clamp(x * attribute(node, "alpha", 0.2) + attribute(node, "beta", 0.5), 0, 1)


def instance_norm(graph: Any, node: ir.Node, x: Any, scale: Any, bias: Any) -> Any:
    return functional.instance_norm(x, None, None, scale, bias, True, 0.0, attribute(node, "epsilon", 1e-5))


def _rules() -> dict[str, Rule]:
    unary: dict[str, Rule] = {
        **dict.fromkeys(("Identity", "Dropout"), lambda x, *_: x),
        "Relu": torch.relu,
        "Sigmoid": torch.sigmoid,
        "Tanh": torch.tanh,
        "Erf": torch.erf,
        "Exp": torch.exp,
        "Log": torch.log,
        "Sqrt": torch.sqrt,
        "Neg": torch.neg,
        "Abs": torch.abs,
        "Not": torch.logical_not,
        "Reciprocal": torch.reciprocal,
        "HardSwish": functional.hardswish,
        "Mish": functional.mish,
        "Softplus": functional.softplus,
        "Floor": torch.floor,
        "Ceil": torch.ceil,
        "Sin": torch.sin,
        "Cos": torch.cos,
        "Sub": torch.sub,
        "Pow": torch.pow,
        "MatMul": torch.matmul,
        "Div": divide,
        "Equal": torch.eq,
        "Greater": torch.gt,
        "Less": torch.lt,
        "And": torch.logical_and,
        "Or": torch.logical_or,
        "Where": torch.where,
        "Sign": torch.sign,
        "GlobalAveragePool": lambda x: x.mean(tuple(range(2, x.ndim)), keepdim=True),
        "GlobalMaxPool": lambda x: x.amax(tuple(range(2, x.ndim)), keepdim=True),
    }
    return {
        **{name: plain(run) for name, run in unary.items()},
        "Add": fold(torch.add),
        "Sum": fold(torch.add),
        "Mul": fold(torch.mul),
        "Max": fold(torch.maximum),
        "Min": fold(torch.minimum),
        "Conv": conv,
        "ConvTranspose": conv_transpose,
        "Gemm": gemm,
        "MaxPool": max_pool,
        "AveragePool": average_pool,
        "Clip": clip,
        "Gelu": gelu,
        "PRelu": prelu,
        "BatchNormalization": batch_norm,
        "LayerNormalization": layer_norm,
        "InstanceNormalization": instance_norm,
        "Softmax": softmax,
        "LogSoftmax": softmax,
        "Reshape": reshape,
        "Flatten": flatten,
        "Squeeze": squeeze,
        "Unsqueeze": unsqueeze,
        "Transpose": transpose,
        "Concat": concat,
        "Split": split,
        "Slice": slice_,
        "Gather": gather,
        "Pad": pad,
        "Resize": resize,
        "Cast": cast,
        "Shape": shape_of,
        "Expand": expand,
        "ConstantOfShape": constant_of_shape,
        "HardSigmoid": hard_sigmoid,
        "LeakyRelu": slope(functional.leaky_relu, "alpha", 0.01),
        "Elu": slope(functional.elu, "alpha", 1.0),
        "ReduceMean": reduce_(torch.mean),
        "ReduceSum": reduce_(torch.sum),
        "ReduceMax": reduce_(torch.amax),
        "ReduceMin": reduce_(torch.amin),
        "ReduceL2": reduce_(_root_sum),
    }


RULES = _rules()
