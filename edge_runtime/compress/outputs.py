"""What a model answers to samples, on the engine that reads it, and an ONNX graph's inner tensors; bounded memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from edge_runtime.compress.artifact import Artifact
from edge_runtime.compress.samples import Samples
from edge_runtime.engine import EngineOptions, find_engine
from edge_runtime.errors import EngineError, InputError
from edge_runtime.tensors import dequantize, fit

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edge_runtime.tensors import Array, TensorSpec

BATCH = 16


def specs(artifact: Artifact) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs as the engine states them. Raises EngineError where no engine here loads the model."""
    with _open(artifact) as program:
        return program.inputs, program.outputs


def answers(artifact: Artifact, samples: Samples, batch: int = 1) -> dict[str, NDArray[np.float32]]:
    """All outputs in real numbers, (N, ...) by name, in the order of the model's outputs.

    `batch` above 1 is for models whose first axis is free. Raises InputError where an answer is not finite.
    """
    import numpy as np

    found: dict[str, list[Array]] = {}
    with _open(artifact) as program:
        places = program.inputs
        free = all(spec.shape and spec.shape[0] is None for spec in places)
        for feed in samples.batches(batch if free else 1):
            named = dict(zip([spec.name for spec in places], _in_order(feed, places), strict=True))
            for spec, array in zip(program.outputs, program.run(named).values(), strict=True):
                found.setdefault(spec.name, []).append(dequantize(array, spec))
    made = {key: np.concatenate(parts) for key, parts in found.items()}
    for key, array in made.items():
        if not np.isfinite(array).all():
            bad = int((~np.isfinite(array).reshape(len(array), -1).all(axis=1)).argmax())
            raise InputError(f"output {key!r}: the answer to item {bad} of {samples.name} is not finite")
    return made


def _in_order(feed: dict[str, Array], places: Sequence[TensorSpec]) -> list[Array]:
    """By name where the names agree; else by shape: a converter may rename inputs and turn NCHW into NHWC."""
    import numpy as np

    if set(feed) == {spec.name for spec in places}:
        arrays = [feed[spec.name] for spec in places]
    else:
        arrays = list(feed.values())
    turned = []
    for array, spec in zip(arrays, places, strict=True):
        wanted = spec.shape[1:]
        if len(wanted) == 3 and wanted != array.shape[1:] and wanted == (*array.shape[2:], array.shape[1]):
            array = np.ascontiguousarray(np.moveaxis(array, 1, -1))
        turned.append(fit(array, spec) if spec.dtype != array.dtype.name else array)
    return turned


def _open(artifact: Artifact) -> Any:
    """A program of the engine, in this process: the file is the user's own, and millions of answers are wanted."""
    from contextlib import closing

    name = "onnxruntime" if artifact.format == "onnx" else "litert"
    engine = find_engine(name)
    if reason := engine.missing():
        raise EngineError(f"{name} is needed: {reason}", hint="edge-runtime doctor")
    return closing(engine.load(artifact.content, EngineOptions(2)))


def tap(
    artifact: Artifact, samples: Samples, names: Sequence[str], batch: int = BATCH
) -> Iterator[dict[str, NDArray[np.float32]]]:
    """The tensors of an ONNX graph called `names` (its inputs too), batch by batch: none is kept.

    Graph optimizations that would remove them are off.
    """
    import onnx
    import onnxruntime as ort

    proto = onnx.load_from_string(artifact.content)
    given = {one.name for one in proto.graph.input}
    inner = [name for name in names if name not in given]
    if inner:
        del proto.graph.output[:]
        proto.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in inner)
    settings = ort.SessionOptions()
    settings.log_severity_level = 4
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")  # others may need the processor
    session = ort.InferenceSession(proto.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    free = all(not isinstance(one.shape[0], int) for one in session.get_inputs() if one.shape)
    for feed in samples.batches(batch if free else 1):
        found = dict(zip(inner, session.run(inner, feed), strict=True)) if inner else {}
        yield {name: found[name] if name in found else feed[name] for name in names}
