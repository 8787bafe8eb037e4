"""Weight-only quantization in operators that onnxruntime works out once, when it loads the model.

It keeps a DequantizeLinear beside a convolution out of its folding of constants, for the sake of integer kernels, and
then dequantizes the weights at every inference: 2.7 times as slow as float for small integers that were meant to change
nothing but the file. A Cast and a Mul say the same numbers, and are folded. Where MatMul takes the weights, onnxruntime
has a kernel that reads them as they are, and they stay.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_runtime.compress.artifact import Artifact
from edge_runtime.compress.layers import add_array, array_of, attribute

if TYPE_CHECKING:
    import onnx_ir as ir

_INTEGERS = ("QuantizeLinear", "DynamicQuantizeLinear", "MatMulInteger", "ConvInteger")


def unpack(artifact: Artifact) -> Artifact:
    """The same numbers; the artifact itself where activations are quantized too, or nothing is to be done."""
    model = artifact.model()
    kinds = {node.op_type for node in model.graph}
    if "DequantizeLinear" not in kinds or kinds & set(_INTEGERS):
        return artifact
    changed = False
    for node in list(model.graph):
        if node.op_type == "DequantizeLinear" and _folds(node):
            _replace(model, node)
            changed = True
    return Artifact.of(model, artifact.form) if changed else artifact


def _folds(node: ir.Node) -> bool:
    weight, scale = node.inputs[0], node.inputs[1]
    if weight is None or scale is None or weight.const_value is None or scale.const_value is None:
        return False
    if weight.dtype is None or not weight.dtype.name.startswith(("INT", "UINT")):
        return False
    users = {user.op_type for user, _ in node.outputs[0].uses()}
    axis, block = attribute(node, "axis", 1), attribute(node, "block_size", 0)
    return "MatMul" not in users and (not block or weight.const_value.shape[axis] % block == 0)


def _replace(model: ir.Model, node: ir.Node) -> None:
    import numpy as np
    import onnx_ir as ir

    weight, scale, out = node.inputs[0], node.inputs[1], node.outputs[0]
    assert weight is not None and scale is not None and weight.const_value is not None
    shape = list(weight.const_value.shape.numpy())
    axis, block = attribute(node, "axis", 1) % len(shape), attribute(node, "block_size", 0)
    scales = array_of(scale)
    if block:
        inner = [*shape[:axis], shape[axis] // block, block, *shape[axis + 1 :]]
        spread = list(np.expand_dims(scales, axis + 1).shape)
    else:
        inner, spread = shape, [1] * len(shape)
        if scales.ndim:
            spread[axis] = len(scales)
    name = str(out.name)
    made: list[ir.Node] = []

    def step(kind: str, *inputs: ir.Value, attributes: dict[str, int] | None = None) -> ir.Value:
        one = ir.node(kind, inputs, attributes=attributes or {}, name=f"{name}_{kind}_{len(made)}")
        one.outputs[0].name = f"{name}_{len(made)}"
        made.append(one)
        return one.outputs[0]

    def sizes(wanted: list[int]) -> ir.Value:
        return add_array(model, f"{name}_shape", np.array(wanted, np.int64))

    number = int(ir.DataType.FLOAT)
    value = step("Cast", weight, attributes={"to": number})
    if block:
        value = step("Reshape", value, sizes(inner))
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    if zero is not None and np.any(array_of(zero)):
        offset = add_array(model, f"{name}_zero", array_of(zero).astype(np.float32).reshape(spread))
        value = step("Sub", value, offset)
    value = step("Mul", value, add_array(model, f"{name}_scale", scales.astype(np.float32).reshape(spread)))
    if block:
        value = step("Reshape", value, sizes(shape))
    model.graph.insert_before(node, made)
    ir.convenience.replace_all_uses_with(out, value)
    model.graph.remove(node, safe=True)
    for one in (scale, zero):
        if one is not None and one.name is not None and not one.uses():
            model.graph.initializers.pop(one.name, None)
