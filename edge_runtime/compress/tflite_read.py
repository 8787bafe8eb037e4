"""An ONNX graph made plain for the TFLite writer: nodes, constants, and every tensor's size as a run gives it.

onnxruntime runs the model once on zeros with batch 1 (and once with batch 2 where the batch is free) and its
intermediate tensors say all sizes and the value of everything that does not depend on the inputs. That folds the
Shape-Gather-Concat chains that torch writes, which symbolic shape inference often cannot.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import onnx_ir as ir

from edge_runtime.errors import InputError

if TYPE_CHECKING:
    from edge_runtime.tensors import Array

# What a constant's value may not be folded through: it is how compressed weights are stored.
_KEPT = ("DequantizeLinear", "Cast")
_SIZES = ("Shape", "Size")


class Packed(NamedTuple):
    """real = scales * (steps - zeros) along `axis`; `block`: that many steps along `axis` share a scale (0: all)."""

    steps: Array  # int8, int16 or int32
    scales: Array  # float32, one dimension, or as many as steps where there are blocks
    zeros: Array  # int64, as scales
    axis: int = 0
    bits: int = 8
    block: int = 0


@dataclass(frozen=True)
class Const:
    """`array` as the graph computes with it; `packed` or `half` where it is stored smaller."""

    array: Array
    packed: Packed | None = None
    half: bool = False
    bits: int = 0  # 4 where int8 holds what the file stores as int4 or uint4


@dataclass
class Node:
    kind: str
    name: str
    inputs: list[str]  # "" for one that is left out
    outputs: list[str]
    attributes: dict[str, Any]
    act: str = ""  # fused activation

    def __str__(self) -> str:
        return f"layer {self.name!r}: {self.kind}"


@dataclass
class Graph:
    nodes: list[Node]
    inputs: list[str]
    outputs: list[str]
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)  # with batch 1
    doubles: dict[str, tuple[int, ...]] = field(default_factory=dict)  # with batch 2; empty where it is fixed
    dtypes: dict[str, str] = field(default_factory=dict)
    constants: dict[str, Const] = field(default_factory=dict)
    unsteady: set[str] = field(default_factory=set)  # constants that are others for batch 2
    users: dict[str, list[Node]] = field(default_factory=dict)

    def recount(self) -> None:
        self.users = {}
        for node in self.nodes:
            for name in node.inputs:
                self.users.setdefault(name, []).append(node)

    def sole_user(self, name: str) -> Node | None:
        users = self.users.get(name, [])
        return users[0] if len(users) == 1 and name not in self.outputs else None

    def follows(self, name: str) -> tuple[int, ...]:
        """The axes of a tensor that grow with the batch."""
        pair = zip(self.shapes[name], self.doubles.get(name, self.shapes[name]), strict=True)
        return tuple(axis for axis, (one, two) in enumerate(pair) if one != two)


def read_nodes(model: ir.Model) -> Graph:
    """The nodes and initializers, without sizes."""
    graph = model.graph
    nodes = []
    for place, node in enumerate(graph):
        outputs = [one.name or "" for one in node.outputs]
        name = node.name or next((one for one in outputs if one), f"number {place}")
        attributes = {key: _plain(one) for key, one in node.attributes.items()}
        kind = node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"
        inputs = ["" if one is None else str(one.name) for one in node.inputs]
        nodes.append(Node(kind, name, inputs, outputs, attributes))
    inputs = [str(one.name) for one in graph.inputs if one.name not in graph.initializers]
    made = Graph(nodes, inputs, [str(one.name) for one in graph.outputs])
    for name, value in graph.initializers.items():
        if value.const_value is None:
            raise InputError(f"model: the initializer {name!r} has no value")
        made.constants[name] = _stored(value.const_value)
    made.recount()
    return made


def _plain(attribute: Any) -> Any:
    value = attribute.value
    return value.numpy() if isinstance(value, ir.TensorProtocol) else value


def _stored(tensor: Any) -> Const:
    array = tensor.numpy()
    if tensor.dtype in (ir.DataType.INT4, ir.DataType.UINT4):
        return Const(array.astype(np.int8), bits=4)
    return Const(array)


def run_for_sizes(graph: Graph, model: ir.Model) -> None:
    """Fill in sizes, dtypes and constants. Raises InputError for a model that onnxruntime refuses."""
    free = _free_batch(model)
    found = _run(model, 1)
    graph.shapes = {name: array.shape for name, array in found.items()}
    graph.dtypes = {name: array.dtype.name for name, array in found.items()}
    for name, const in graph.constants.items():
        graph.shapes[name], graph.dtypes[name] = const.array.shape, const.array.dtype.name
    twice = _run(model, 2) if free else {}
    graph.doubles = {name: array.shape for name, array in twice.items()}
    graph.nodes = [node for node in graph.nodes if not _fold(node, graph, found, twice)]
    graph.recount()


def _fold(node: Node, graph: Graph, found: Mapping[str, Array], twice: Mapping[str, Array]) -> bool:
    """Whether the node's outputs are constants (they are then among the graph's)."""
    names = [name for name in node.inputs if name]
    if node.kind not in _SIZES and not all(name in graph.constants for name in names):
        return False
    source = graph.constants[names[0]] if names and names[0] in graph.constants else None
    for name in filter(None, node.outputs):
        array, packed, half = found[name], None, False
        if source and node.kind == "DequantizeLinear":
            packed = _packed(node, [graph.constants[one] for one in names])
        elif source and node.kind == "Cast":
            half = source.array.dtype == np.float16 and array.dtype == np.float32
        elif source and node.kind in ("Identity", "Dropout"):
            packed, half = source.packed, source.half
        elif source and node.kind == "Transpose" and source.packed:
            packed = _turned(source.packed, node.attributes.get("perm"))
        graph.constants[name] = Const(array, packed, half)
        if twice and not np.array_equal(array, twice[name]):
            graph.unsteady.add(name)
    return True


def _packed(node: Node, given: list[Const]) -> Packed | None:
    """What a DequantizeLinear of an initializer stores; None where it is nothing that TFLite could store: float8 then
    becomes float32."""
    if given[0].array.dtype.kind not in "iu":
        return None
    steps, scales = given[0].array, given[1].array.astype(np.float32)
    zeros = given[2].array.astype(np.int64) if len(given) > 2 else np.zeros(scales.shape, np.int64)
    bits = given[0].bits or steps.dtype.itemsize * 8
    if steps.dtype == np.uint8 or (bits == 4 and steps.max(initial=0) > 7):  # unsigned
        half = 8 if bits == 4 else 128
        steps, zeros = (steps.astype(np.int16) - half).astype(np.int8), zeros - half
    axis = int(node.attributes.get("axis", 1)) % max(1, steps.ndim)
    block = int(node.attributes.get("block_size", 0))
    if scales.ndim < 2 and not block:
        return Packed(steps, scales.reshape(-1), zeros.reshape(-1), axis, bits)
    return Packed(steps, scales, zeros, axis, bits, block)


def _turned(packed: Packed, order: Any) -> Packed | None:
    order = list(order) if order else list(range(packed.steps.ndim))[::-1]
    if packed.block:
        scales, zeros = packed.scales.transpose(order), packed.zeros.transpose(order)
        return Packed(packed.steps.transpose(order), scales, zeros, order.index(packed.axis), packed.bits, packed.block)
    return packed._replace(steps=packed.steps.transpose(order), axis=order.index(packed.axis))


def _free_batch(model: ir.Model) -> bool:
    """Whether the batch is free. Raises InputError where another size is."""
    free = False
    for one in model.graph.inputs:
        if one.name in model.graph.initializers:
            continue
        if one.shape is None or any(not isinstance(size, int) for size in list(one.shape)[1:]):
            raise InputError(
                f"input {one.name!r}: found the shape {one.shape}, wanted fixed sizes after the first (the batch)",
                hint="export the model with fixed sizes",
            )
        free |= len(one.shape) > 0 and not isinstance(one.shape[0], int)
    return free


def _run(model: ir.Model, batch: int) -> dict[str, Array]:
    """Every tensor of one run on zeros."""
    import onnxruntime as ort

    proto = ir.to_proto(model)
    given = Counter(one.name for one in proto.graph.output)
    names = [name for node in proto.graph.node for name in node.output if name and name not in given]
    for name in names:
        proto.graph.output.add().name = name
    settings = ort.SessionOptions()
    settings.log_severity_level = 4
    settings.intra_op_num_threads = 1
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = ort.InferenceSession(proto.SerializeToString(), settings, providers=["CPUExecutionProvider"])
        feeds = {}
        for one in session.get_inputs():
            kind = {"float": "float32", "double": "float64"}.get(one.type[7:-1], one.type[7:-1])
            feeds[one.name] = np.zeros([size if isinstance(size, int) else batch for size in one.shape], kind)
        outputs = [one.name for one in session.get_outputs()]
        values = session.run(outputs, feeds)
    except Exception as error:  # onnxruntime's own family has no common parent
        raise InputError(f"onnxruntime cannot run the model: {str(error).splitlines()[0][:300]}") from error
    return feeds | dict(zip(outputs, (np.asarray(value) for value in values), strict=True))
