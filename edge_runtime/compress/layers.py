"""The layers of an ONNX graph that carry weights, seen alike: a matrix of output channels by what each one sums."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edge_runtime.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir
    from numpy.typing import NDArray

    from edge_runtime.tensors import Array

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


@dataclass(frozen=True)
class Layer:
    """`kind`: conv, depthwise, dense. `axis`: which of the weight's axes counts output channels (for a transposed
    convolution with groups, within a group)."""

    node: ir.Node
    kind: str
    weight: ir.Value
    bias: ir.Value | None
    axis: int

    @property
    def name(self) -> str:
        return self.node.name or self.node.outputs[0].name or "?"

    def matrix(self) -> NDArray[np.float32]:
        """float32 (output channels, inputs of each), for reading only: order of the inputs as in the weight."""
        import numpy as np

        weight = np.moveaxis(array_of(self.weight), self.axis, 0)
        return np.array(weight, np.float32, order="C").reshape(len(weight), -1)

    def set_matrix(self, matrix: NDArray[np.float32]) -> None:
        """The reverse of `matrix`, of the same shape."""
        import numpy as np

        set_array(self.weight, self.shaped(np.asarray(matrix, np.float32)))

    def shaped(self, matrix: Array) -> Array:
        """A matrix as `matrix` gives it, of any type, in the shape and order of the weight."""
        import numpy as np

        shape = array_of(self.weight).shape
        turned = (shape[self.axis], *shape[: self.axis], *shape[self.axis + 1 :])
        return np.ascontiguousarray(np.moveaxis(np.asarray(matrix).reshape(turned), 0, self.axis))


def array_of(value: ir.Value) -> Array:
    """The constant that a value holds. Raises InputError where it holds none."""
    if value.const_value is None:
        raise InputError(f"tensor {value.name!r}: found no constant, wanted weights")
    return value.const_value.numpy()


def set_array(value: ir.Value, array: Array) -> None:
    """Replace an initializer's content; shape and type follow."""
    import onnx_ir as ir

    value.const_value = ir.tensor(array, name=value.name)
    value.shape = ir.Shape(array.shape)
    value.dtype = value.const_value.dtype


def add_array(model: ir.Model, name: str, array: Array) -> ir.Value:
    """A new initializer, its name made unique."""
    import onnx_ir as ir

    taken = {one.name for node in model.graph for one in node.outputs} | {one.name for one in model.graph.inputs}
    taken |= set(model.graph.initializers)
    unique, number = name, 0
    while unique in taken:
        number += 1
        unique = f"{name}_{number}"
    value = ir.Value(name=unique, const_value=ir.tensor(array, name=unique))
    value.shape = ir.Shape(array.shape)
    value.dtype = value.const_value.dtype  # type: ignore[union-attr]
    model.graph.register_initializer(value)
    return value


def attribute(node: ir.Node, name: str, default: Any = None) -> Any:
    """An attribute's plain value: int, float, str, tuple of them; `default` where it is not given."""
    found = node.attributes.get(name)
    if found is None:
        return default
    return tuple(found.value) if isinstance(found.value, list | tuple) else found.value


def weighted(model: ir.Model) -> list[Layer]:
    """In the order of the graph; layers whose weights are computed are passed over. A weight that two layers share is
    listed twice: who changes it changes both."""
    made = []
    for node in model.graph:
        if node.op_type not in WEIGHTED or node.domain not in ("", "ai.onnx") or len(node.inputs) < 2:
            continue
        weight = node.inputs[1]
        if weight is None or weight.const_value is None or weight.const_value.size == 0:
            continue
        rank = len(weight.shape or ())
        bias = node.inputs[2] if len(node.inputs) > 2 and node.op_type != "MatMul" else None
        if node.op_type in ("Conv", "ConvTranspose"):
            group = attribute(node, "group", 1)
            alone = node.op_type == "Conv" and group > 1 and weight.const_value.shape[1] == 1
            axis = 0 if node.op_type == "Conv" else 1
            made.append(Layer(node, "depthwise" if alone else "conv", weight, bias, axis))
        elif rank == 2:
            turned = node.op_type == "Gemm" and attribute(node, "transB", 0)
            made.append(Layer(node, "dense", weight, bias, 0 if turned else 1))
    return made


def need_layers(model: ir.Model, names: Sequence[str]) -> None:
    """Raises InputError naming the first that is no weighted layer of the model."""
    known = [layer.name for layer in weighted(model)]
    for name in names:
        if name not in known:
            raise InputError(f"found no layer {name!r} with weights, the model has {', '.join(known)}")
