"""A float ONNX graph to one with integers: weights, biases and activations. What is decided elsewhere (ranges, levels,
corrections) comes in as Options; nothing is measured here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edge_runtime.compress.artifact import Artifact
from edge_runtime.compress.calibrate import Seen
from edge_runtime.compress.layers import Layer, array_of, set_array
from edge_runtime.compress.qdq import Writer, activations
from edge_runtime.compress.qplan import FIXED, Plan, plan
from edge_runtime.compress.ranges import Scale, choose, scale_of
from edge_runtime.compress.weights import to_levels, weight_scales
from edge_runtime.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir
    from numpy.typing import NDArray

OPSET_16_BITS = 21  # QuantizeLinear to int16 is of this opset


@dataclass(frozen=True)
class Options:
    """`weight_bits`: 8 or 7; depthwise layers have always 8, their kernels add into 32 bits. `levels`, `scales`: by
    name of a layer, in place of rounding to the nearest. `shift`: added to the bias of a layer, float64 (channels,)."""

    method: str = "minmax"
    percentile: float = 99.99
    per_channel: bool = True
    weight_bits: int = 8
    weight_search: bool = False
    activation_bits: int = 8
    keep: tuple[str, ...] = ()
    levels: Mapping[str, NDArray[np.int8]] = field(default_factory=dict)
    scales: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    shift: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)

    def top(self, layer: Layer) -> int:
        return 64 if self.weight_bits == 7 and layer.kind != "depthwise" else 127


def tensors_to_watch(artifact: Artifact) -> tuple[str, ...]:
    """Tensors whose ranges `quantize` wants, whatever the options. Raises InputError: nothing to quantize."""
    model = artifact.model()
    found = plan(model)
    if not found.layers:
        raise InputError(
            "found no layer that can be quantized, wanted a Conv, Gemm or MatMul with constant weights",
            hint="edge-runtime inspect MODEL",
        )
    order = [*model.graph.inputs, *(one for node in model.graph for one in node.outputs)]
    return tuple(str(one.name) for one in order if one in found.parents)


def quantize(artifact: Artifact, seen: Mapping[str, Seen], options: Options) -> Artifact:
    """Form `onnx` to `onnx_q`. `seen`: of all tensors_to_watch."""
    model = model_of(artifact, OPSET_16_BITS if options.activation_bits == 16 else 0)
    found = plan(model, options.keep)
    return write(model, found, group_scales(found, seen, options), options)


def write(model: ir.Model, found: Plan, scales: Mapping[ir.Value, Scale], options: Options) -> Artifact:
    """`model` is changed: what the plan found becomes integers. `scales` by group."""
    writer = Writer(model)
    for node, layer in found.layers.items():
        given = node.inputs[0]
        assert given is not None
        quantize_layer(writer, layer, scales[found.group(given)], options)
    activations(writer, found, scales)
    writer.finish()
    return Artifact.of(model, "onnx_q")


def model_of(artifact: Artifact, opset: int) -> ir.Model:
    """The graph, of this opset at least. Raises InputError for an operator that cannot be brought to it."""
    import onnx
    import onnx_ir as ir

    proto = onnx.load_from_string(artifact.content)
    found = next(one.version for one in proto.opset_import if one.domain in ("", "ai.onnx"))
    if found < opset:
        try:
            proto = onnx.version_converter.convert_version(proto, opset)
        except Exception as error:  # the converter's own family, by operator
            raise InputError(
                f"opset {found} cannot be brought to {opset}: {(str(error).splitlines() or ['?'])[0][:200]}",
                hint=f"export the model again with opset {opset}",
            ) from error
        proto.ir_version = max(proto.ir_version, 10)
    return ir.from_proto(proto)


def group_scales(found: Plan, seen: Mapping[str, Seen], options: Options) -> dict[ir.Value, Scale]:
    made = {}
    maker = found.made_by()
    for head, values in found.members().items():
        low, high = 0.0, 0.0
        for value in values:
            if value.name not in seen:
                continue
            node = maker.get(value)
            if node is not None and node.op_type in FIXED and len(values) == 1:
                bounds = FIXED[node.op_type]
                made[head] = Scale(bounds[1] / 256, 0) if options.activation_bits == 8 else scale_of(*bounds, 16)
                break
            some = choose(seen[str(value.name)], options.method, options.percentile, options.activation_bits)
            low, high = min(low, some[0]), max(high, some[1])
        else:
            made[head] = scale_of(low, high, options.activation_bits)
    return made


def quantize_layer(writer: Writer, layer: Layer, given: Scale, options: Options) -> None:
    import numpy as np

    name, matrix = layer.name, layer.matrix()
    top = options.top(layer)
    scales = options.scales.get(name)
    if scales is None:
        scales = weight_scales(matrix, top, options.per_channel, options.weight_search)
    if layer.bias is not None:
        bias = array_of(layer.bias)
        if name in options.shift:
            bias = (bias + options.shift[name]).astype(np.float32)
            alone = len(layer.bias.uses()) == 1
            if alone:
                set_array(layer.bias, bias)
        # a scale so small that the bias does not fit in 32 bits would be a channel of almost nothing but its bias
        least = np.abs(bias).reshape(-1).max() if scales.ndim == 0 else np.abs(bias).reshape(-1)
        floor = (least / (2**30 * given.scale)).astype(np.float32)
        if name not in options.levels:
            scales = np.maximum(scales, floor)
        sums = scales.astype(np.float64) * given.scale
        writer.bias(layer, np.asarray(sums.astype(np.float32)))
    levels = options.levels.get(name)
    if levels is None:
        levels = to_levels(matrix, scales, top)
    writer.weight(layer, layer.shaped(levels), np.asarray(scales, np.float32))
