"""ONNX, ORT and TFLite files: damaged bytes; graphs that are whole and lie; graphs that want everything."""

from __future__ import annotations

import json
from collections.abc import Iterator
from random import Random
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper, numpy_helper

from edge_runtime.compress.tflite_build import LiteFile, options, schema
from tests.conftest import null_model, onnx_model, tflite_model
from tests.engines import odd_models as odd
from tests.hostile.bundles import lie
from tests.hostile.damage import NUMBERS, spoil

Case = tuple[str, tuple[str, bytes]]  # name, (engine, model)
_HUGE = (0, -1, 1, 2, 2**16, 2**20, 2**31 - 1, 2**31, 2**40, 2**62, -(2**31), -(2**63))


def onnx_cases(seeds: range) -> Iterator[Case]:
    for name, content in {**onnx_models(), "ort": ort_model()}.items():
        for seed in seeds[: len(seeds) // 4]:
            how, made = spoil(Random(f"onnx {name} {seed}"), content)
            yield f"{name} {seed} {how}", ("onnxruntime", made)
    for seed in seeds:
        yield f"graph {seed}", ("onnxruntime", lying_onnx(Random(f"onnx graph {seed}")))
    yield from ((name, ("onnxruntime", content)) for name, content in greedy_onnx().items())
    yield "endless loop", ("onnxruntime", endless_onnx())


def tflite_cases(seeds: range) -> Iterator[Case]:
    for name, content in tflite_models().items():
        for seed in seeds[: len(seeds) // 4]:
            how, made = spoil(Random(f"tflite {name} {seed}"), content)
            yield f"{name} {seed} {how}", ("litert", made)
    for seed in (*seeds, 137):  # the last ended its process with SIGSEGV (ai_edge_litert 2.3)
        if graph := lying_tflite(Random(f"tflite graph {seed}")):
            yield f"graph {seed}", ("litert", graph)
    yield "endless loop", ("litert", endless_tflite())


def null_cases(seeds: range) -> Iterator[Case]:
    for seed in seeds[: len(seeds) // 2]:
        random = Random(f"null {seed}")
        how, lied = lie(random, json.loads(null_model()))
        text = json.dumps(lied).encode("utf-8", "surrogatepass")
        yield f"{seed} {how}", ("null", spoil(random, text)[1] if seed % 3 == 0 else text)


# ---------------------------------------------------------------- ONNX


def onnx_models() -> dict[str, bytes]:
    random = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(random.standard_normal(shape).astype(np.float32), name)
        for name, shape in (("W", (1, 16, 3)), ("R", (1, 16, 4)), ("k", (4, 3, 3, 3)))
    ]
    value = helper.make_tensor_value_info
    lstm = odd.onnx(
        [helper.make_node("LSTM", ["x", "W", "R"], ["y", "h", "c"], hidden_size=4)],
        [value("x", TensorProto.FLOAT, [5, 1, 3])],
        [value("y", TensorProto.FLOAT, None), value("h", TensorProto.FLOAT, None)],
        tuple(weights[:2]),
    )
    conv = odd.onnx(
        [helper.make_node("Conv", ["x", "k"], ["y"], pads=[1, 1, 1, 1]), helper.make_node("Relu", ["y"], ["z"])],
        [value("x", TensorProto.FLOAT, [1, 3, 8, 8])],
        [value("z", TensorProto.FLOAT, None)],
        tuple(weights[2:]),
    )
    return {"means": onnx_model(), "lstm": lstm, "conv": conv, "strings": odd.same("onnx", "string", (None,))}


def ort_model() -> bytes:
    """As onnxruntime writes it in a format of its own."""
    import tempfile

    import onnxruntime as ort

    with tempfile.NamedTemporaryFile(suffix=".ort") as file:
        settings = ort.SessionOptions()
        settings.log_severity_level = 4
        settings.optimized_model_filepath = file.name
        settings.add_session_config_entry("session.save_model_format", "ORT")
        ort.InferenceSession(onnx_models()["conv"], settings, providers=["CPUExecutionProvider"])
        return file.read()


_OPERATORS = (
    *("Conv", "Gemm", "MatMul", "Reshape", "Expand", "Tile", "Pad", "Slice", "Gather", "ScatterND", "Resize", "TopK"),
    *("ConstantOfShape", "Range", "Concat", "Split", "Transpose", "MaxPool", "AveragePool", "LSTM", "Einsum", "OneHot"),
    *("CumSum", "NonZero", "Squeeze", "Unsqueeze", "BatchNormalization", "ConvTranspose", "DepthToSpace", "Cast", "If"),
    *(
        "QuantizeLinear",
        "DequantizeLinear",
        "GatherND",
        "Loop",
        "Scan",
        "StringNormalizer",
        "TfIdfVectorizer",
        "NoSuch",
    ),
)
_ATTRIBUTES = (
    "axis",
    "axes",
    "kernel_shape",
    "pads",
    "strides",
    "dilations",
    "group",
    "perm",
    "equation",
    "to",
    "mode",
)


def lying_onnx(random: Random) -> bytes:
    """One operator with inputs, attributes and stored tensors that may be anything."""
    tensors = [_tensor(random, f"w{place}") for place in range(random.randrange(4))]
    names = ["x", *(one.name for one in tensors), "", "nowhere"]
    nodes = []
    for place in range(random.randrange(1, 4)):
        given = [random.choice(names) for _ in range(random.randrange(1, 5))]
        node = helper.make_node(random.choice(_OPERATORS), given, [f"y{place}"])
        node.attribute.extend(_attribute(random) for _ in range(random.randrange(3)))
        nodes.append(node)
        names.append(f"y{place}")
    shape = [random.choice((1, 2, 3, "n", *_HUGE)) for _ in range(random.randrange(5))]
    value = helper.make_tensor_value_info("x", random.choice((1, 1, 6, 7, 9, 10, 8)), shape)
    out = helper.make_tensor_value_info(random.choice(names), random.choice((1, 7)), None)
    graph = helper.make_graph(nodes, "g", [value], [out], tensors)
    versions = [helper.make_opsetid(random.choice(("", "", "", "x")), random.choice((17, 17, 17, 1, 0, 99, 2**62)))]
    model = helper.make_model(graph, opset_imports=versions, ir_version=random.choice((8, 8, 8, 0, 2**31)))
    content: bytes = model.SerializeToString()
    return content


def _tensor(random: Random, name: str) -> Any:
    made = TensorProto(name=name, data_type=random.choice((1, 1, 7, 7, 6, 2, 8, 16, 99)))
    sizes = (1, 2, 3, 1, 2, 3, *_HUGE)
    made.dims.extend(random.choice(sizes) for _ in range(random.choice((0, 1, 1, 2, 4, 4, 200))))
    if made.data_type == TensorProto.INT64 and random.random() < 0.7:
        del made.dims[:]
        made.dims.append(3)
        made.raw_data = np.array([random.choice(_HUGE) for _ in range(3)], np.int64).tobytes()
    else:
        made.raw_data = random.randbytes(random.choice((0, 4, 16, 108, 400)))
    return made


def _attribute(random: Random) -> Any:
    name = random.choice(_ATTRIBUTES)
    kind = random.randrange(4)
    if kind == 0:
        return helper.make_attribute(name, random.choice(_HUGE))
    if kind == 1:
        made = helper.make_attribute(name, [random.choice(_HUGE) for _ in range(random.randrange(1, 6))])
        made.type = AttributeProto.INTS
        return made
    return helper.make_attribute(name, random.choice(("ij,jk->ik", "x" * 999, "\u202e"))) if kind == 2 else _graph(name)


def _graph(name: str) -> Any:
    inner = helper.make_graph([], "inner", [], [helper.make_tensor_value_info("x", 1, None)])
    return helper.make_attribute(name, inner)


def endless_onnx() -> bytes:
    """A loop of 2**62 rounds."""
    info = helper.make_tensor_value_info
    nodes = [helper.make_node("Identity", ["going"], ["on"]), helper.make_node("Add", ["sum", "sum"], ["more"])]
    body = helper.make_graph(
        nodes,
        "body",
        [
            info("round", TensorProto.INT64, []),
            info("going", TensorProto.BOOL, []),
            info("sum", TensorProto.FLOAT, [1]),
        ],
        [info("on", TensorProto.BOOL, []), info("more", TensorProto.FLOAT, [1])],
    )
    rounds = numpy_helper.from_array(np.array(2**62, np.int64), "rounds")
    yes = numpy_helper.from_array(np.array(True), "yes")
    loop = helper.make_node("Loop", ["rounds", "yes", "x"], ["y"], body=body)
    x, y = (info(name, TensorProto.FLOAT, [1]) for name in "xy")
    return odd.onnx([loop], [x], [y], (rounds, yes))


def greedy_onnx() -> dict[str, bytes]:
    """Small files that want all the memory there is, and a few other thoughts."""
    info = helper.make_tensor_value_info
    x, y = info("x", TensorProto.FLOAT, [1]), info("y", TensorProto.FLOAT, None)
    made = {}
    for name, sizes in {"2 GiB": [1 << 29], "4 TiB": [1 << 40], "overflow": [1 << 40] * 4}.items():
        shape = numpy_helper.from_array(np.array(sizes, np.int64), "shape")
        made[f"wants {name}"] = odd.onnx([helper.make_node("Expand", ["x", "shape"], ["y"])], [x], [y], (shape,))
        one = helper.make_node("ConstantOfShape", ["shape"], ["y"])
        made[f"wants {name} at once"] = odd.onnx([one], [x], [y], (shape,))
    nodes = [helper.make_node("Concat", [f"t{n}", f"t{n}"], [f"t{n + 1}"], axis=0) for n in range(40)]
    made["doubles 40 times"] = odd.onnx(
        nodes, [info("t0", TensorProto.FLOAT, [1])], [info("t40", TensorProto.FLOAT, None)]
    )
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [], [y])
    for _ in range(9):
        yes = helper.make_node("Constant", [], ["b"], value=helper.make_tensor("b", TensorProto.BOOL, [], [True]))
        branch = helper.make_node("If", ["b"], ["y"], then_branch=graph, else_branch=graph)
        graph = helper.make_graph([yes, branch], "g", [], [y])
    graph.input.append(x)
    opsets = [helper.make_opsetid("", 17)]
    made["branches in branches"] = helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    cycle = [helper.make_node("Add", ["a", "x"], ["b"]), helper.make_node("Add", ["b", "x"], ["a"])]
    made["a circle"] = odd.onnx(cycle, [x], [info("a", TensorProto.FLOAT, [1])])
    names = onnx.load_from_string(onnx_model())
    made["names that are not UTF-8"] = names.SerializeToString().replace(b"means", b"me\xff\xfes")
    made["nested 100,000 deep"] = b"\x3a\xff\xff\x07" * 100_000
    made["3,000 nodes"] = odd.onnx(
        [helper.make_node("Neg", [f"n{n}" if n else "x"], [f"n{n + 1}"]) for n in range(3_000)],
        [x],
        [info("n3000", 1, [1])],
    )
    return made


# ---------------------------------------------------------------- TFLite


def tflite_models() -> dict[str, bytes]:
    file = LiteFile()
    x, y = file.tensor("x", (1, 8, 8, 3), "float32"), file.tensor("y", (1, 8, 8, 4), "float32")
    random = np.random.default_rng(0)
    k, b = (
        file.constant(random.standard_normal((4, 3, 3, 3)).astype(np.float32)),
        file.constant(np.zeros(4, np.float32)),
    )
    file.operator("CONV_2D", [x, k, b], [y], options("Conv2D", strideH=1, strideW=1, padding=0))
    return {
        "means": tflite_model(),
        "int8": tflite_model(int8=True),
        "conv": file.finish([x], [y]),
        "state": odd.resource_variable(),
        "labels": odd.with_files(odd.same("tflite", "float32", (2,)), {"labels.txt": "a\nb\n"}),
    }


def lying_tflite(random: Random) -> bytes | None:
    """A graph of numbers that point at each other, one to three of them changed; None where it cannot be written."""
    models = tflite_models()
    model = odd._unpacked(models[random.choice(sorted(models))])
    for _ in range(random.choice((1, 1, 2, 3))):
        try:
            _lie(random, model)
        except (IndexError, TypeError, AttributeError, ValueError):
            continue
    try:
        return odd._packed(model)
    except Exception:  # numbers that the format has no room for
        return None


def _lie(random: Random, model: Any) -> None:
    graph = random.choice(model.subgraphs)
    tensor, operator = random.choice(graph.tensors), random.choice(graph.operators)
    number = random.choice([int(one) for one in (*NUMBERS, 3, 4, 5, 99) if -(2**31) <= one < 2**31])
    what = random.randrange(16)
    if what < 3:
        shape = np.array(tensor.shape, np.int32)
        shape[random.randrange(len(shape))] = number
        tensor.shape = shape if what else np.array([2] * random.choice((0, 1, 9, 3000)), np.int32)
    elif what < 5:
        places = np.array(operator.inputs if what == 3 else operator.outputs, np.int32)
        places[random.randrange(len(places))] = random.choice((number, random.randrange(len(graph.tensors))))
        operator.inputs, operator.outputs = (places, operator.outputs) if what == 3 else (operator.inputs, places)
    elif what == 5:
        operator.opcodeIndex = number % 2**32
    elif what == 6:
        code = random.choice(model.operatorCodes)
        code.builtinCode = code.deprecatedBuiltinCode = random.randrange(127)
        code.version = random.choice((1, 1, 2, 99))
    elif what == 7:
        tensor.type = random.randrange(20)
    elif what == 8:
        tensor.buffer = random.choice((number % 2**32, random.randrange(len(model.buffers))))
    elif what == 9:
        buffer = random.choice(model.buffers)
        buffer.data = np.frombuffer(random.randbytes(random.choice((0, 1, 4, 16, 999))), np.uint8)
    elif what == 10:
        tensor.quantization = schema.QuantizationParametersT()
        tensor.quantization.scale = np.float32(random.choice(([], [0], [np.nan], [-1], [1e38], [1] * 99)))
        tensor.quantization.zeroPoint = np.int64(random.choice(([], [0], [2**62], [-(2**63)], [1] * 7)))
        tensor.quantization.quantizedDimension = number
    elif what == 11:
        graph.inputs, graph.outputs = random.choice(
            (
                ([], graph.outputs),
                (graph.inputs, []),
                ([0, 0], graph.outputs),
                (graph.inputs, [number]),
                ([number], [0]),
            )
        )
    elif what == 12:
        fields = [name for name, value in vars(operator.builtinOptions).items() if isinstance(value, int)]
        setattr(operator.builtinOptions, random.choice(fields), number)
    elif what == 13:
        tensor.isVariable, tensor.name = True, random.choice((b"\xff\xfe", b"", b"x" * 9999))
    elif what == 14:
        tensor.shapeSignature = np.array([number] * random.randrange(6), np.int32)
    else:
        graph.operators = graph.operators[::-1] * random.choice((0, 1, 2))


def endless_tflite() -> bytes:
    """WHILE true."""
    whole, condition, body = LiteFile(), LiteFile(), LiteFile()
    x, y = (whole.tensor(name, (1,), "float32") for name in "xy")
    whole.operator("WHILE", [x], [y], options("While", condSubgraphIndex=1, bodySubgraphIndex=2))
    a, yes, one = condition.tensor("a", (1,), "float32"), condition.tensor("yes", (1,), "bool"), np.float32([np.nan])
    condition.operator("NOT_EQUAL", [a, condition.constant(one)], [yes], options("NotEqual"))
    b, c = (body.tensor(name, (1,), "float32") for name in "bc")
    body.operator("ADD", [b, b], [c], options("Add"))
    return odd.joined(whole.finish([x], [y]), condition.finish([a], [yes]), body.finish([b], [c]))
