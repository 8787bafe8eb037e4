"""Bring any ONNX file into the one shape that passes work on: current opset, constants and normalisation folded.

Done by onnxruntime's own basic optimizer (constants, Conv+BatchNormalization, MatMul+Add, dead ends), which writes
operators of the ONNX standard only; what it leaves is what every engine gets to see.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from edge_runtime.compress.artifact import Artifact
from edge_runtime.compress.steps import write_whole
from edge_runtime.errors import InputError

OPSET = 17  # LayerNormalization is one operator from here on
NEWEST = 21  # blocks of 4-bit weights; onnxruntime 1.17 and later read it


def prepare(artifact: Artifact) -> Artifact:
    """The same model, canonical. A TFLite file is left as it is.

    Raises InputError: an opset too old to be converted, control flow, operators of other domains, an input whose sizes
    after the first are free.
    """
    if artifact.form != "onnx":
        return artifact
    import onnx

    proto = onnx.load_from_string(artifact.content)
    _refuse(proto)
    opset = next(one.version for one in proto.opset_import if one.domain in ("", "ai.onnx"))
    if not OPSET <= opset <= NEWEST:
        try:
            proto = onnx.version_converter.convert_version(proto, OPSET if opset < OPSET else NEWEST)
        except Exception as error:  # the converter's own family, by operator
            raise InputError(
                f"opset {opset} cannot be brought to {OPSET}: {str(error).splitlines()[0][:200]}",
                hint="export the model again with opset 17",
            ) from error
    proto.ir_version = min(proto.ir_version, 10)
    return Artifact("onnx", _tidy(optimized(proto.SerializeToString(deterministic=True))))


def optimized(content: bytes, level: str = "BASIC") -> bytes:
    """The graph as onnxruntime has it after its own optimizer: "BASIC" writes the ONNX standard only, "EXTENDED" what
    it runs. Raises InputError for a model that it refuses."""
    import onnxruntime as ort

    settings = ort.SessionOptions()
    settings.log_severity_level = 4
    settings.graph_optimization_level = getattr(ort.GraphOptimizationLevel, f"ORT_ENABLE_{level}")
    with tempfile.TemporaryDirectory(prefix="edge-runtime-") as folder:
        path = Path(folder, "model.onnx")
        settings.optimized_model_filepath = str(path)
        try:
            ort.InferenceSession(content, settings, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime's own family, UnicodeDecodeError of damaged names
            _write(Path(folder, "as_given.onnx"), content)
            raise InputError(f"onnxruntime refuses the model: {(str(error).splitlines() or ['?'])[0][:300]}") from error
        return path.read_bytes()


def _write(path: Path, content: bytes) -> None:
    """onnxruntime does not tell a full disk from a damaged model; this does. Raises InputError."""
    try:
        write_whole(path, content)
    except InputError as error:
        raise InputError(error.message, hint="free some room there, or set TMPDIR to another folder") from error


def _refuse(proto: object) -> None:
    import onnx

    assert isinstance(proto, onnx.ModelProto)
    nested = [node for node in proto.graph.node if any(one.type in (5, 10) for one in node.attribute)]
    if nested:
        names = ", ".join(f"{node.op_type} {node.name!r}" for node in nested[:5])
        raise InputError(f"found control flow ({names}), wanted a graph without If, Loop and Scan")
    foreign = sorted(
        {f"{node.domain}.{node.op_type}" for node in proto.graph.node if node.domain not in ("", "ai.onnx")}
    )
    if foreign:
        raise InputError(f"found operators {', '.join(foreign[:8])}, wanted those of the ONNX standard only")
    known = {one.name for one in proto.graph.initializer}
    for one in proto.graph.input:
        sizes = [size.dim_value if size.HasField("dim_value") else None for size in one.type.tensor_type.shape.dim]
        if one.name not in known and None in sizes[1:]:
            raise InputError(
                f"input {one.name!r}: found sizes {['free' if size is None else size for size in sizes]}, wanted fixed "
                "ones after the first (the batch)",
                hint="export the model again with a fixed size",
            )


def _tidy(content: bytes) -> bytes:
    """Names for nodes that have none, shapes of all tensors, no opset that nothing uses, deterministic bytes."""
    import onnx

    proto = onnx.load_from_string(content)
    constant = {one.name for one in proto.graph.initializer}  # old files list weights as inputs, too
    inputs = [one for one in proto.graph.input if one.name not in constant]
    del proto.graph.input[:]
    proto.graph.input.extend(inputs)
    used = {node.domain or "" for node in proto.graph.node}
    kept = [one for one in proto.opset_import if (one.domain if one.domain != "ai.onnx" else "") in used]
    del proto.opset_import[:]
    proto.opset_import.extend(kept)
    taken = {node.name for node in proto.graph.node}
    for number, node in enumerate(proto.graph.node):
        if not node.name:
            name = f"{node.op_type}_{number}"
            while name in taken:
                name += "_"
            node.name = name
            taken.add(name)
    proto = onnx.shape_inference.infer_shapes(proto, data_prop=True)
    _pools(proto)
    _plain_windows(proto)
    proto.doc_string, proto.graph.doc_string, proto.producer_name, proto.producer_version = "", "", "", ""
    del proto.graph.value_info[:]
    shaped = onnx.shape_inference.infer_shapes(proto, data_prop=True)
    return bytes(shaped.SerializeToString(deterministic=True))


def _pools(proto: Any) -> None:
    """A mean over all places, keeping the axes, is a GlobalAveragePool: engines have integer kernels for that alone.
    Where the axes are dropped a Flatten follows."""
    import onnx

    known = {one.name: onnx.numpy_helper.to_array(one) for one in proto.graph.initializer if one.data_type == 7}
    ranks = {
        one.name: len(one.type.tensor_type.shape.dim)
        for one in [*proto.graph.value_info, *proto.graph.input]
        if one.type.tensor_type.HasField("shape")
    }
    for place in reversed(range(len(proto.graph.node))):
        node = proto.graph.node[place]
        if node.op_type != "ReduceMean" or ranks.get(node.input[0]) != 4:
            continue
        said = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
        axes = known.get(node.input[1]) if len(node.input) > 1 else said.get("axes")
        if axes is None or sorted(int(one) % 4 for one in axes) != [2, 3]:
            continue
        keep, answer = said.get("keepdims", 1), node.output[0]
        pooled = answer if keep else f"{answer}_pooled"
        made = [onnx.helper.make_node("GlobalAveragePool", [node.input[0]], [pooled], name=node.name)]
        if not keep:
            made.append(onnx.helper.make_node("Flatten", [pooled], [answer], name=f"{node.name}_flat", axis=1))
        rest = list(proto.graph.node)
        del proto.graph.node[:]
        proto.graph.node.extend([*rest[:place], *made, *rest[place + 1 :]])
    read = {name for node in proto.graph.node for name in node.input} | {one.name for one in proto.graph.output}
    kept = [one for one in proto.graph.initializer if one.name in read]
    del proto.graph.initializer[:]
    proto.graph.initializer.extend(kept)


def _plain_windows(proto: Any) -> None:
    """Zeros that an average pool counts stand in a Pad of their own where ceil_mode lets its windows read past them:
    onnxruntime's integer kernel would count what is behind them as well, its float kernel does not."""
    import onnx
    import onnx_ir as ir

    from edge_runtime.compress.windows import padding, reads_past_padding

    known = {one.name: one.type.tensor_type.shape.dim for one in [*proto.graph.value_info, *proto.graph.input]}
    for place in reversed(range(len(proto.graph.node))):
        node = proto.graph.node[place]
        said = {one.name: one for one in node.attribute}
        if node.op_type != "AveragePool" or not {"ceil_mode", "count_include_pad"} <= set(said):
            continue
        sizes = [one.dim_value for one in known.get(node.input[0], ())][2:]
        seen = ir.Node("", node.op_type, [], [ir.from_proto(one) for one in node.attribute])
        if not said["count_include_pad"].i or not all(sizes) or not sizes or not reads_past_padding(seen, sizes):
            continue
        before, after = padding(seen, sizes, said["kernel_shape"].ints)
        for name in {"count_include_pad", "pads", "auto_pad"} & set(said):
            node.attribute.remove(said[name])
        if not any((*before, *after)):
            continue
        name, zeros = f"{node.output[0]}_padded", f"{node.output[0]}_pads"
        widths = np.array([0, 0, *before, 0, 0, *after], np.int64)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(widths, zeros))
        made = onnx.helper.make_node("Pad", [node.input[0], zeros], [name], name=f"{node.name}_pad")
        node.input[0] = name
        proto.graph.node.insert(place, made)
