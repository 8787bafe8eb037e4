"""ONNX to TFLite, operator by operator, with the same numbers in both.

Why not onnx2tf or litert-torch: they need TensorFlow or torch (a gigabyte and more), and they quantize anew. Here a
quantized graph keeps its scales and zero points (uint8 z becomes int8 z - 128), so that onnxruntime and LiteRT agree
on decisions and one calibration serves both.

Axes: images become channels last, so an input [N, C, H, W] that convolutions or pools read is [N, H, W, C] in the
file; every other input and all outputs keep ONNX's order. A free batch stays free where the operators allow it.
"""

from __future__ import annotations

import onnx_ir as ir

from edge_runtime.compress import tflite_ops, tflite_pools, tflite_products, tflite_shapes
from edge_runtime.compress.tflite_build import KINDS, LiteFile
from edge_runtime.compress.tflite_fuse import fuse
from edge_runtime.compress.tflite_read import Graph, Node, read_nodes, run_for_sizes
from edge_runtime.compress.tflite_values import BatchIsFixed, Unsupported, Value, Writer, quant_of
from edge_runtime.errors import InputError, UsageError

_HANDLERS = tflite_ops.HANDLERS | tflite_pools.HANDLERS | tflite_products.HANDLERS | tflite_shapes.HANDLERS
_FOLDED = ("Constant", "ConstantOfShape", "Shape", "Size", "Range")  # constants once the sizes are known
_DTYPES = ("float32", "int32", "int64", "bool", "uint8", "int8")
_IMAGE_READERS = (
    *("Conv", "ConvTranspose", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Resize"),
    *("DepthToSpace", "SpaceToDepth"),
)
_ALIKE = (
    *("QuantizeLinear", "DequantizeLinear", "Identity", "Dropout", "BatchNormalization", "Relu", "Clip", "Pad"),
    *("Add", "Sub", "Mul", "Div", "Cast", "Sigmoid", "Slice"),
)


def to_tflite(model: ir.Model, weights: str = "float") -> bytes:
    """The TFLite file of a graph: float32, QDQ, or with weights alone stored smaller.

    `weights`: what becomes of weights that are stored smaller beside float activations. "float": the engine makes
    them float32 when it loads the file; "dynamic": it computes in 8 bits and quantizes activations as it runs.
    Raises InputError that lists every node which cannot be written, or says what else is wrong with the model.
    """
    if weights not in ("float", "dynamic"):
        raise UsageError(f"weights: found {weights!r}, wanted float or dynamic")
    problems, content = _write(model, weights)
    if problems:
        raise InputError(
            f"{len(problems)} of the model's layers cannot be written as TFLite:\n  " + "\n  ".join(problems),
            hint="keep this model as onnx, or export it without these operators",
        )
    return content


def find_unsupported(model: ir.Model) -> list[str]:
    """What to_tflite would refuse, one line a layer; empty where it would write the file.

    Raises InputError for a model that onnxruntime itself cannot run.
    """
    return _write(model, "float", pack=False)[0]


def _write(model: ir.Model, weights: str, pack: bool = True) -> tuple[list[str], bytes]:
    graph = read_nodes(model)
    known = {*_HANDLERS, *_FOLDED}
    unknown = [f"{node}: not an operator that can be written" for node in graph.nodes if node.kind not in known]
    if unknown:
        return [*unknown, f"supported are {', '.join(sorted(known))}"], b""
    run_for_sizes(graph, model)
    fuse(graph)
    try:
        return _attempt(graph, weights, bool(graph.doubles), pack)
    except BatchIsFixed:
        return _attempt(graph, weights, False, pack)


def _attempt(graph: Graph, weights: str, free_batch: bool, pack: bool) -> tuple[list[str], bytes]:
    w = Writer(graph, weights, free_batch)
    problems = [
        f"input or output {name!r}: found {graph.dtypes[name]}, wanted one of {', '.join(_DTYPES)}"
        for name in (*graph.inputs, *graph.outputs)
        if graph.dtypes[name] not in _DTYPES
    ]
    if problems:
        return problems, b""
    inputs = [_input(w, name) for name in graph.inputs]
    for node in graph.nodes:
        try:
            if node.kind not in _HANDLERS:
                raise Unsupported("found one that depends on the inputs' values, wanted constants alone")
            _HANDLERS[node.kind](w, node)
        except BatchIsFixed:
            raise
        except Exception as error:  # a form of it that nobody thought of: the others are looked at all the same
            words = str(error) if isinstance(error, Unsupported) else f"cannot be written: {error!r}"
            problems.append(f"{node}: {words}")
            _stand_in(w, node)
    if problems or not pack:
        return problems, b""
    outputs = [_output(w, name, taken) for taken, name in _distinct(w, graph)]
    _name_ends(w.file, graph, inputs, outputs)
    _sign_batch(w, graph, inputs, outputs)
    return [], w.file.finish(inputs, outputs)


def _stand_in(w: Writer, node: Node) -> None:
    """Outputs for a node that cannot be written, so that the nodes behind it can be looked at, too."""
    for name in filter(None, node.outputs):
        made = w.new(name)
        made.forms[made.plain] = w.tensor(name, made.shape, made.dtype if made.dtype in KINDS else "float32")


def _input(w: Writer, name: str) -> int:
    value, order = w.new(name), None
    users = w.graph.users.get(name, [])
    if value.dtype in ("uint8", "int8") and users and all(one.kind == "DequantizeLinear" for one in users):
        value.quant, value.dtype = quant_of(w.graph, users[0]), "float32"
    if value.rank == 4 and _is_image(w.graph, name):
        order = value.last
    order = value.plain if order is None else order
    dtype = value.quant.dtype if value.quant else value.dtype
    value.forms[order] = w.tensor(name, value.sizes(order), dtype, value.quant)
    return value.forms[order]


def _is_image(graph: Graph, name: str, depth: int = 12) -> bool:
    """Whether what reads the tensor first of all wants channels last."""
    users = graph.users.get(name, [])
    if any(one.kind in _IMAGE_READERS for one in users):
        return True
    alike = [one for one in users if one.kind in _ALIKE and len(graph.shapes[one.outputs[0]]) == 4]
    return depth > 0 and any(_is_image(graph, one.outputs[0], depth - 1) for one in alike)


def _distinct(w: Writer, graph: Graph) -> list[tuple[set[int], str]]:
    """Each output, beside the tensors that may not stand for it: inputs, and earlier outputs as they are made."""
    taken = {w.values[name].forms[order] for name in graph.inputs for order in w.values[name].forms}
    return [(taken, name) for name in graph.outputs]


def _output(w: Writer, name: str, taken: set[int]) -> int:
    """The output as float32 (or its own whole numbers) in ONNX's order; a tensor of its own."""
    value = w.value(name)
    number = w.real(value) if w.graph.dtypes[name] in ("float32",) or not value.quant else w.form(value)
    if number in taken or value.const:
        plain = Value(name, value.shape, value.dtype, value.follows)
        number = w.reshape(number, value.shape, value.free(value.plain), plain)
    taken.add(number)
    return number


def _name_ends(file: LiteFile, graph: Graph, inputs: list[int], outputs: list[int]) -> None:
    """Inputs and outputs have the names that they have in ONNX, and no other tensor has them."""
    wanted = dict(zip((*inputs, *outputs), (*graph.inputs, *graph.outputs), strict=True))
    for number, tensor in enumerate(file.tensors):
        if number not in wanted and tensor.name in wanted.values():
            tensor.name = f"{tensor.name}/inner{number}"
    for number, name in wanted.items():
        file.tensors[number].name = name


def _sign_batch(w: Writer, graph: Graph, inputs: list[int], outputs: list[int]) -> None:
    """Free sizes are -1 in the signature."""
    if not w.free_batch:
        return
    for number, name in zip((*inputs, *outputs), (*graph.inputs, *graph.outputs), strict=True):
        value = w.values[name]
        known = (*value.forms.items(), *value.reals.items())
        order = next((one for one, made in known if made == number), value.plain)
        w.file.sign(number, value.free(order))
