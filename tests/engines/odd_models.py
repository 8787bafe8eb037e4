"""Models as real files have them and demonstrations do not: each as bytes, for every engine that can have it."""

from __future__ import annotations

import io
import json
import zipfile
from typing import Any

import flatbuffers
import numpy as np
from onnx import TensorProto, helper

from edge_runtime.compress.tflite_build import KINDS, Kind, LiteFile, options, schema

ONNX_KINDS = {
    "float32": TensorProto.FLOAT,
    "float16": TensorProto.FLOAT16,
    "float64": TensorProto.DOUBLE,
    "string": TensorProto.STRING,
    "bool": TensorProto.BOOL,
    **{f"{u}int{bits}": getattr(TensorProto, f"{u}int{bits}".upper()) for u in ("", "u") for bits in (8, 16, 32, 64)},
}
LITE_KINDS = KINDS | {"string": Kind.STRING, "resource": Kind.RESOURCE}
Shape = tuple[int | None, ...]


def onnx(nodes: list[Any], inputs: list[Any], outputs: list[Any], tensors: tuple[Any, ...] = ()) -> bytes:
    graph = helper.make_graph(nodes, "g", inputs, outputs, list(tensors))
    content: bytes = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8
    ).SerializeToString()
    return content


def value(name: str, dtype: str, shape: Shape) -> Any:
    sizes = [f"n{place}" if size is None else size for place, size in enumerate(shape)]
    return helper.make_tensor_value_info(name, ONNX_KINDS[dtype], sizes)


def lite_tensor(file: LiteFile, name: str, dtype: str, shape: Shape) -> int:
    number = file.tensor(name, tuple(1 if size is None else size for size in shape), "float32")
    file.tensors[number].type = LITE_KINDS[dtype]
    if None in shape:
        file.sign(number, tuple(-1 if size is None else size for size in shape))
    return number


def same(format_: str, dtype: str, shape: Shape, names: tuple[str, str] = ("x", "y")) -> bytes:
    """What goes in comes out."""
    if format_ == "onnx":
        node = helper.make_node("Identity", [names[0]], [names[1]])
        return onnx([node], [value(names[0], dtype, shape)], [value(names[1], dtype, shape)])
    file = LiteFile()
    x, y = (lite_tensor(file, name, dtype, shape) for name in names)
    size = [-1, *shape[1:]] if None in shape else shape
    file.operator("RESHAPE", [x, file.constant(np.array(size, np.int32))], [y], options("Reshape"))
    return file.finish([x], [y])


def two(format_: str) -> bytes:
    """a, b int32 [2] -> "sum" and "difference"."""
    if format_ == "onnx":
        nodes = [helper.make_node("Add", ["a", "b"], ["sum"]), helper.make_node("Sub", ["a", "b"], ["difference"])]
        ins, outs = ([value(n, "int32", (2,)) for n in names] for names in (("a", "b"), ("sum", "difference")))
        return onnx(nodes, ins, outs)
    file = LiteFile()
    a, b, total, rest = (lite_tensor(file, n, "int32", (2,)) for n in ("a", "b", "sum", "difference"))
    file.operator("ADD", [a, b], [total], options("Add"))
    file.operator("SUB", [a, b], [rest], options("Sub"))
    return file.finish([a, b], [total, rest])


def accumulator(format_: str, rows: int | None = 1) -> bytes:
    """x, h_in float32 [rows, 2] -> y = h_out = h_in + x."""
    if format_ == "onnx":
        nodes = [helper.make_node("Add", ["x", "h_in"], ["h_out"]), helper.make_node("Identity", ["h_out"], ["y"])]
        ins, outs = ([value(n, "float32", (rows, 2)) for n in names] for names in (("x", "h_in"), ("y", "h_out")))
        return onnx(nodes, ins, outs)
    file = LiteFile()
    x, h_in, y, h_out = (lite_tensor(file, n, "float32", (rows, 2)) for n in ("x", "h_in", "y", "h_out"))
    for out in (y, h_out):
        file.operator("ADD", [x, h_in], [out], options("Add"))
    return file.finish([x, h_in], [y, h_out])


def variable_tensor() -> bytes:
    """TFLite: y = the sum of every x so far, in a tensor that is_variable."""
    file = LiteFile()
    x = lite_tensor(file, "x", "float32", (1, 1))
    weights = [
        file.constant(np.float32([[1]])),
        file.constant(np.float32([[1]]), own=1),
        file.constant(np.float32([0])),
    ]
    h, y = (lite_tensor(file, n, "float32", (1, 1)) for n in "hy")
    file.tensors[h].isVariable = True
    file.operator("RNN", [x, *weights, h], [y], options("RNN"))
    return file.finish([x], [y])


def resource_variable() -> bytes:
    """The same with VAR_HANDLE, READ_VARIABLE and ASSIGN_VARIABLE, begun once by a subgraph: as TensorFlow 2 does."""
    file, begin = LiteFile(), LiteFile()
    x, old, y = (lite_tensor(file, n, "float32", (1, 1)) for n in ("x", "old", "y"))
    zero = begin.constant(np.float32([[0]]))
    for one, number in ((begin, zero), (file, y)):
        handle = lite_tensor(one, "v", "resource", (1,))
        if one is file:
            one.operator("CALL_ONCE", [], [y], options("CallOnce", initSubgraphIndex=1))
            one.operators[-1].outputs = np.array([], np.int32)
        one.operator("VAR_HANDLE", [], [handle], options("VarHandle", container="", sharedName="sum"))
        if one is file:
            one.operator("READ_VARIABLE", [handle], [old], options("ReadVariable"))
            one.operator("ADD", [old, x], [y], options("Add"))
        one.operator("ASSIGN_VARIABLE", [handle, number], [number], options("AssignVariable"))
        one.operators[-1].outputs = np.array([], np.int32)
    return joined(file.finish([x], [y]), begin.finish([], []))


def joined(*files: bytes) -> bytes:
    """One model with the subgraph of each file, in their order."""
    model, *others = map(_unpacked, files)
    for one in others:
        for tensor in one.subgraphs[0].tensors:
            tensor.buffer += len(model.buffers) if tensor.buffer else 0
        for operator in one.subgraphs[0].operators:
            operator.opcodeIndex += len(model.operatorCodes)
        model.buffers += one.buffers
        model.operatorCodes += one.operatorCodes
        model.subgraphs += one.subgraphs
    return _packed(model)


def _unpacked(content: bytes) -> Any:
    return schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))


def _packed(model: Any) -> bytes:
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def counting() -> bytes:
    """The null engine's model with a state."""
    one = [{"name": "x", "shape": [1, 1], "dtype": "float32"}]
    return json.dumps({"inputs": one, "outputs": [one[0] | {"name": "y"}], "fill": 1, "counts": True}).encode()


def with_signatures(content: bytes, signatures: dict[str, tuple[dict[str, int], dict[str, int]]]) -> bytes:
    """A TFLite model with other signatures: key -> (input name -> tensor, output name -> tensor)."""
    model = _unpacked(content)
    model.signatureDefs = []
    for key, sides in signatures.items():
        made = schema.SignatureDefT()
        made.signatureKey, made.subgraphIndex = key, 0
        made.inputs, made.outputs = ([_entry(*pair) for pair in side.items()] for side in sides)
        model.signatureDefs.append(made)
    return _packed(model)


def _entry(name: str, tensor: int) -> Any:
    made = schema.TensorMapT()
    made.name, made.tensorIndex = name, tensor
    return made


def with_files(content: bytes, files: dict[str, str]) -> bytes:
    """A model with a ZIP behind it, as TFLite's metadata library leaves it."""
    stream = io.BytesIO(content)
    with zipfile.ZipFile(stream, "a") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return stream.getvalue()
