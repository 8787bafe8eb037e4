"""Write quantization into an ONNX graph as pairs of QuantizeLinear and DequantizeLinear, where engines fuse them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edge_runtime.compress.layers import Layer, array_of
from edge_runtime.compress.qplan import Plan, data_inputs
from edge_runtime.compress.ranges import Scale
from edge_runtime.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir
    from numpy.typing import NDArray

    from edge_runtime.tensors import Array


@dataclass
class Writer:
    """Adds nodes and arrays to a model; keeps names unique."""

    model: ir.Model
    taken: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        graph = self.model.graph
        self.taken.update(str(one.name) for node in graph for one in node.outputs)
        self.taken.update(str(node.name) for node in graph)
        self.taken.update(str(one.name) for one in graph.inputs)
        self.taken.update(graph.initializers)

    def name(self, wanted: str) -> str:
        unique, number = wanted, 0
        while unique in self.taken:
            number += 1
            unique = f"{wanted}_{number}"
        self.taken.add(unique)
        return unique

    def array(self, name: str, array: Array | ir.TensorProtocol) -> ir.Value:
        import onnx_ir as ir

        unique = self.name(name)
        tensor = ir.tensor(array, name=unique)
        value = ir.Value(
            name=unique, const_value=tensor, shape=ir.Shape(tensor.numpy().shape), type=ir.TensorType(tensor.dtype)
        )
        self.model.graph.register_initializer(value)
        return value

    def node(self, kind: str, inputs: list[ir.Value], out: str, attributes: Mapping[str, int] | None = None) -> ir.Node:
        """A node whose one answer is called `out`, not yet in the graph."""
        import onnx_ir as ir

        made = [ir.AttrInt64(key, value) for key, value in (attributes or {}).items()]
        name = self.name(out)
        return ir.Node("", kind, inputs, made, outputs=[ir.Value(name=name)], name=self.name(f"{name}_{kind}"))

    def before(self, place: ir.Node | None, nodes: list[ir.Node]) -> None:
        """In front of a node of the graph; of all, where there is none."""
        first = place if place is not None else next(iter(self.model.graph), None)
        if first is None:
            self.model.graph.extend(nodes)
        else:
            self.model.graph.insert_before(first, nodes)

    def weight(self, layer: Layer, levels: NDArray[np.int8], scales: NDArray[np.float32]) -> None:
        """int8 levels of the weight's own shape and a scale for each output channel (or one): in place of the float
        weight of this layer alone."""
        import numpy as np

        stem = str(layer.weight.name)
        inputs = [self.array(f"{stem}_int8", levels), self.array(f"{stem}_scale", scales)]
        if layer.kind == "dense":  # onnxruntime fuses a Gemm only where the zero point is written out
            inputs.append(self.array(f"{stem}_zero", np.zeros(scales.shape, np.int8)))
        axis = {"axis": layer.axis} if scales.ndim else {}
        made = self.node("DequantizeLinear", inputs, f"{stem}_dq", axis)
        self.before(layer.node, [made])
        layer.node.replace_input_with(1, made.outputs[0])

    def bias(self, layer: Layer, scales: NDArray[np.float32]) -> None:
        """The bias as int32 on the scale of the sums, one for each output channel."""
        import numpy as np

        assert layer.bias is not None
        bias = array_of(layer.bias).astype(np.float64).reshape(-1)
        if len(bias) != scales.size and scales.size > 1:
            bias = np.broadcast_to(bias, scales.shape)
        levels = np.clip(np.round(bias / scales), -(2**31) + 1, 2**31 - 1).astype(np.int32)
        stem = str(layer.bias.name)
        inputs = [self.array(f"{stem}_int32", levels), self.array(f"{stem}_scale", scales.astype(np.float32))]
        made = self.node("DequantizeLinear", inputs, f"{stem}_dq", {"axis": 0} if scales.ndim else {})
        self.before(layer.node, [made])
        layer.node.replace_input_with(2, made.outputs[0])

    def activation(self, value: ir.Value, scale: Scale, whole: bool, readers: set[ir.Node]) -> None:
        """`whole`: everything that reads the tensor reads the integers (a quantized node made it); else `readers`."""
        import numpy as np

        kind = np.uint8 if scale.bits == 8 else np.int16
        stem = str(value.name)
        numbers = [
            self.array(f"{stem}_s", np.array(scale.scale, np.float32)),
            self.array(f"{stem}_z", np.array(scale.zero, kind)),
        ]
        uses = [one for one in value.uses() if whole or one.node in readers]
        output = value.is_graph_output() and whole
        maker = value.producer()
        first = self.node("QuantizeLinear", [value, *numbers], f"{stem}_q")
        second = self.node("DequantizeLinear", [first.outputs[0], *numbers], f"{stem}_dq")
        answer = second.outputs[0]
        answer.shape, answer.type = value.shape, value.type
        if maker is None:
            self.before(None, [first, second])
        else:
            self.model.graph.insert_after(maker, [first, second])
        for use in uses:
            use.node.replace_input_with(use.idx, answer)
        if output:
            value.name, answer.name = self.name(f"{stem}_float"), stem
            outputs = self.model.graph.outputs
            outputs[next(place for place, one in enumerate(outputs) if one is value)] = answer

    def finish(self) -> None:
        """Drops arrays that nothing reads any more."""
        graph = self.model.graph
        outputs = set(graph.outputs)
        for name, value in list(graph.initializers.items()):
            if not value.uses() and value not in outputs:
                del graph.initializers[name]


def activations(writer: Writer, found: Plan, scales: Mapping[ir.Value, Scale]) -> None:
    """A pair on every tensor of the plan; `scales` by group. The order is that of the graph: deterministic bytes."""
    made = found.made_by()
    readers: dict[ir.Value, set[ir.Node]] = {}
    for node in found.ends:
        for value in data_inputs(node, found):
            readers.setdefault(value, set()).add(node)
    wanted = [*writer.model.graph.inputs, *(one for node in writer.model.graph for one in node.outputs)]
    for value in wanted:
        if value not in found.parents:
            continue
        scale = scales.get(found.group(value))
        if scale is None:
            raise InputError(f"tensor {value.name!r}: found no range for it, wanted one from calibration")
        writer.activation(value, scale, value in made, readers.get(value, set()))
