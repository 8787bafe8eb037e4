"""Dynamic 8 bits for LiteRT: no operator of it quantizes as a step of its own, but its fully connected layers do so by
themselves where weights are stored in integers beside float activations."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnx_ir as ir


def as_weights(model: ir.Model) -> bool:
    """Turn each chain that passes/dynamic.py writes (quantize, multiply integers, scale) back into a product with
    weights that are stored in integers. In place; False where there is none."""
    chains = [node for node in model.graph if node.op_type == "MatMulInteger"]
    for node in chains:
        _unchain(model, node)
    for node in [node for node in model.graph if node.op_type == "DynamicQuantizeLinear"]:
        if not any(value.uses() for value in node.outputs):
            model.graph.remove(node, safe=True)
    return bool(chains)


def _unchain(model: ir.Model, product: ir.Node) -> None:
    import onnx_ir as ir

    quantize = product.inputs[0].producer() if product.inputs[0] is not None else None
    given, weight = quantize.inputs[0] if quantize else None, product.inputs[1]
    cast = _only_user(product)
    scaled = _only_user(cast)
    scales = next(one.producer() for one in scaled.inputs if one is not None and one is not cast.outputs[0])
    assert given is not None and weight is not None and scales is not None  # the pass wrote it so
    scale = next(one for one in scales.inputs if one is not None and one.const_value is not None)
    shape, rank = scale.const_value, len(weight.const_value.shape) if weight.const_value is not None else 2
    axis = {"axis": rank - 1} if shape is not None and len(shape.shape) else {}
    real = ir.node("DequantizeLinear", [weight, scale], attributes=axis, name=f"{product.name}_weights")
    real.outputs[0].name = f"{product.name}_real_weights"
    plain = ir.node("MatMul", [given, real.outputs[0]], name=f"{product.name}_float")
    old, new = scaled.outputs[0], plain.outputs[0]
    new.shape, new.type = old.shape, old.type
    model.graph.insert_before(product, [real, plain])
    name, is_output = old.name, old.is_graph_output()
    for use in list(old.uses()):
        use.node.replace_input_with(use.idx, new)
    if is_output:
        model.graph.outputs[next(place for place, one in enumerate(model.graph.outputs) if one is old)] = new
    model.graph.remove([scaled, scales, cast, product], safe=True)
    new.name = name


def _only_user(node: ir.Node) -> ir.Node:
    (use,) = node.outputs[0].uses()
    return use.node
