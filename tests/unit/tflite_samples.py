"""ONNX graphs for the tests of the TFLite writer, and both engines' answers to them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper

from edge_runtime.compress.artifact import Artifact
from edge_runtime.compress.passes.static import Static
from edge_runtime.compress.prepare import prepare
from edge_runtime.compress.recipe import Context, Target
from edge_runtime.compress.samples import Samples
from edge_runtime.compress.tflite_write import to_tflite
from edge_runtime.engine import EngineOptions, find_engine

KINDS = {"float32": TensorProto.FLOAT, "int64": TensorProto.INT64, "uint8": TensorProto.UINT8, "bool": TensorProto.BOOL}


class Net:
    """Collects nodes; names of weights are made as they come."""

    def __init__(self, *shape: Any, dtype: str = "float32", seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.nodes: list[Any] = []
        self.tensors: list[Any] = []
        self.inputs = [helper.make_tensor_value_info("x", KINDS[dtype], shape)]
        self.last = "x"

    def also(self, name: str, *shape: Any, dtype: str = "float32") -> str:
        """Another input."""
        self.inputs.append(helper.make_tensor_value_info(name, KINDS[dtype], shape))
        return name

    def const(self, array: Any) -> str:
        name = f"c{len(self.tensors)}"
        self.tensors.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def random(self, *shape: int, scale: float = 1.0) -> str:
        return self.const((self.rng.standard_normal(shape) * scale).astype(np.float32))

    def add(self, kind: str, *inputs: str, outputs: int = 1, **attributes: Any) -> str:
        """A node on `inputs` (default: what came last); its first output."""
        names = [f"t{len(self.nodes)}_{place}" for place in range(outputs)]
        node = helper.make_node(kind, list(inputs) or [self.last], names, name=f"n{len(self.nodes)}", **attributes)
        self.nodes.append(node)
        self.last = names[0]
        return names[0]

    def conv(self, out: int, inside: int, kernel: int, source: str = "", bias: bool = True, **attributes: Any) -> str:
        group = attributes.get("group", 1)
        fan = inside // group * kernel * kernel
        weights = self.random(out, inside // group, kernel, kernel, scale=fan**-0.5)
        given = [source or self.last, weights, *([self.random(out, scale=0.1)] if bias else [])]
        return self.add("Conv", *given, **attributes)

    def model(self, *outputs: str, opset: int = 20) -> ir.Model:
        results = [helper.make_empty_tensor_value_info(name) for name in outputs or (self.last,)]
        graph = helper.make_graph(self.nodes, "g", self.inputs, results, self.tensors)
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=9)
        return ir.from_proto(_typed(proto))


def _typed(proto: Any) -> Any:
    import onnxruntime as ort

    settings = ort.SessionOptions()
    settings.log_severity_level = 4
    kinds = {"tensor(float)": 1, "tensor(int64)": 7, "tensor(bool)": 9, "tensor(int32)": 6, "tensor(uint8)": 2}
    session = ort.InferenceSession(proto.SerializeToString(), settings)
    for one, found in zip(proto.graph.output, session.get_outputs(), strict=True):
        shape = [size if isinstance(size, int) else "n" for size in found.shape]
        one.CopyFrom(helper.make_tensor_value_info(one.name, kinds[found.type], shape))
    return proto


def onnx_answers(model: ir.Model, feeds: dict[str, Any], plain: bool = False) -> list[Any]:
    """`plain`: operator by operator; otherwise onnxruntime quantizes activations beside weights that have 8 bits."""
    import onnxruntime as ort

    settings = ort.SessionOptions()
    if plain:
        settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    settings.log_severity_level = 4
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), settings)
    return list(session.run(None, feeds))


def lite_answers(content: bytes, feeds: dict[str, Any], xnnpack: bool = True) -> list[Any]:
    program = find_engine("litert").load(content, EngineOptions(threads=1)) if xnnpack else None
    if program:
        fitted = {spec.name: fitting(feeds[spec.name], spec.shape) for spec in program.inputs}
        found = program.run(fitted)
        return [found[spec.name] for spec in program.outputs]
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    plain = Interpreter(
        model_content=content, experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    )
    for one in plain.get_input_details():
        plain.resize_tensor_input(one["index"], fitting(feeds[one["name"]], tuple(one["shape"])).shape)
    plain.allocate_tensors()
    for one in plain.get_input_details():
        plain.set_tensor(one["index"], fitting(feeds[one["name"]], tuple(one["shape"])))
    plain.invoke()
    return [plain.get_tensor(one["index"]) for one in plain.get_output_details()]


def fitting(array: Any, shape: tuple[Any, ...]) -> Any:
    """Channels last where the file wants that."""
    sizes = [size if size else None for size in shape]
    if array.ndim == 4 and [n for n, s in zip(array.shape[1:], sizes[1:], strict=True) if n != s]:
        return np.ascontiguousarray(array.transpose(0, 2, 3, 1))
    return array


def feeds_of(model: ir.Model, batch: int = 1, seed: int = 1) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    made = {}
    for one in model.graph.inputs:
        shape = [size if isinstance(size, int) else batch for size in one.shape]
        if one.dtype == ir.DataType.INT64:
            made[one.name] = rng.integers(0, 2, shape)
            made[one.name][:, 0] = 1  # a mask that keeps something
        else:
            made[one.name] = rng.standard_normal(shape).astype(np.float32)
    return made


def check(model: ir.Model, atol: float = 1e-5, weights: str = "float", plain: bool = False) -> bytes:
    """Both engines, and TFLite's own kernels without XNNPACK, give the same, with two items where the batch is free.

    `atol`: how far from each other numbers may be, relative to the largest. Gives the file's bytes.
    """
    content = to_tflite(model, weights)
    for batch in (1, 2) if batch_is_free(content) else (1,):
        feeds = feeds_of(model, batch)
        wanted = onnx_answers(model, feeds, plain)
        for xnnpack in (True, False):
            found = lite_answers(content, feeds, xnnpack)
            for one, two in zip(wanted, found, strict=True):
                assert one.shape == two.shape and one.dtype == two.dtype and one.size
                assert np.abs(one.astype(np.float64) - two).max() <= atol * max(1, np.abs(one).max())
    return content


def prepared(net: Net) -> Artifact:
    return prepare(Artifact("onnx", ir.to_proto(net.model()).SerializeToString()))


def quantized(net: Net, **settings: Any) -> ir.Model:
    """By the project's own quantizer; 7 bits of weights, as onnxruntime saturates on x86-64 without VNNI."""
    artifact = prepared(net)
    feeds = feeds_of(artifact.model(), batch=32, seed=5)
    context = Context(artifact, Samples("made", 32, None, feeds), Target("x86_64"))
    return Static(rescue=False, **settings)(artifact, context).model()


def batch_is_free(content: bytes) -> bool:
    program = find_engine("litert").load(content, EngineOptions(threads=1))
    return any(spec.shape[:1] == (None,) for spec in program.inputs)
