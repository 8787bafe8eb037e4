"""The shape of every tensor of an ONNX graph for one item, found by running it, and a changed graph made whole."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from edge_runtime.compress.artifact import Artifact
from edge_runtime.errors import InputError

if TYPE_CHECKING:
    import onnx_ir as ir

Shapes = dict[str, tuple[int, ...]]


def find_shapes(artifact: Artifact) -> Shapes:
    """Shapes of all inputs and computed tensors, the batch being 1; by a run on zeros, so nothing stays unknown.

    Raises InputError where onnxruntime cannot load or run the graph.
    """
    import numpy as np
    import onnx
    import onnxruntime as ort

    proto = onnx.load_from_string(artifact.content)
    # a tensor's name alone is enough for onnxruntime to hand it out
    names = [name for node in proto.graph.node for name in node.output if name]
    del proto.graph.output[:]
    proto.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in names)
    settings = ort.SessionOptions()
    settings.log_severity_level = 4
    settings.intra_op_num_threads = 1
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = ort.InferenceSession(proto.SerializeToString(), settings, providers=["CPUExecutionProvider"])
        feed = {one.name: np.zeros([_size(size) for size in one.shape], _dtype(one)) for one in session.get_inputs()}
        answers = session.run(names, feed)
    except Exception as error:  # onnxruntime's own family
        raise InputError(f"onnxruntime refuses the model: {(str(error).splitlines() or ['?'])[0][:300]}") from error
    found = {name: tuple(array.shape) for name, array in feed.items()}
    return found | {name: tuple(np.shape(array)) for name, array in zip(names, answers, strict=True)}


def _size(size: Any) -> int:
    return size if isinstance(size, int) and size > 0 else 1


def _dtype(one: Any) -> Any:
    plain = one.type.removeprefix("tensor(").removesuffix(")")
    return {"float": "float32", "double": "float64"}.get(plain, plain)


def settle(model: ir.Model, form: str = "onnx") -> Artifact:
    """The bytes of a graph that a pass has changed: nothing left over that no node reads, shapes found anew; checked
    by onnx, loaded and run once by onnxruntime.

    Raises InputError saying what does not hold.
    """
    import onnx
    import onnx_ir as ir

    for name, value in list(model.graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del model.graph.initializers[name]
    model.graph.sort()
    proto = ir.to_proto(model)
    del proto.graph.value_info[:]
    try:
        shaped = onnx.shape_inference.infer_shapes(proto, data_prop=True, strict_mode=True)
        onnx.checker.check_model(shaped)
    except Exception as error:  # the checker's and the inference's own families
        raise InputError(f"the changed graph is not valid: {(str(error).splitlines() or ['?'])[0][:300]}") from error
    made = Artifact(form, shaped.SerializeToString(deterministic=True))
    find_shapes(made)
    return made
