"""The doors: any trained model to the form that recipes work on, by the exporters of its own ecosystem.

    .onnx .tflite          read as they are
    .pt2                   PyTorch's exported program (torch.export.save): a graph and weights, no code
    .keras                 Keras 3, in its safe mode: layers of its own only
    .edge                  a bundle: its ONNX variant that no pass has changed
    a PyTorch module, a Keras model, a scikit-learn estimator: from Python, by the functions here

Pickles (.pt, .pth, .pkl, .joblib) run code when they are opened and are refused: load them in a program of your own
and hand the object to `from_torch` or `from_sklearn`.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edge_runtime.bundle import load_bundle
from edge_runtime.compress.artifact import Artifact, load_artifact, read_artifact
from edge_runtime.errors import EngineError, InputError

OPSET = 18  # the lowest that PyTorch's exporter writes by itself
_PICKLES = (".pt", ".pth", ".pkl", ".pickle", ".joblib", ".ckpt", ".bin")


def load_model(path: Path) -> Artifact:
    """Raises InputError: no such file, a form that is not known, a model that its exporter refuses; EngineError where
    the exporter's package is missing."""
    ending = path.suffix.lower()
    if not path.is_file():
        raise InputError(f"{path}: found no file there, wanted a model", hint="give an .onnx, .tflite, .pt2 or .keras")
    if ending in _PICKLES:
        raise InputError(
            f"{path}: {ending} files are pickles, which run code when they are opened",
            hint="load it yourself, then edge_runtime.compress.export.from_torch(module, example) or from_sklearn",
        )
    if ending == ".pt2":
        with _exporter("torch", "onnxscript"):
            import torch

            program = torch.export.load(path)
            with _quiet():
                made = torch.onnx.export(program, (), dynamo=True, opset_version=OPSET)
        return _from_proto(made.model_proto, str(path))
    if ending == ".keras":
        with _exporter("keras"):
            os.environ.setdefault("KERAS_BACKEND", "torch")
            import keras

            model = keras.saving.load_model(path, compile=False, safe_mode=True)
        return from_keras(model)
    if ending == ".edge":
        return _from_bundle(path)
    return load_artifact(path)


def _from_bundle(path: Path) -> Artifact:
    """The first ONNX variant whose recipe is empty: the model as trained."""
    bundle = load_bundle(path)
    for one in bundle.variants:
        if one.format == "onnx" and not one.recipe:
            return read_artifact(bundle.read(one.file), f"{path}: {one.name}")
    names = ", ".join(f"{one.name} ({one.format}, {len(one.recipe)} passes)" for one in bundle.variants)
    raise InputError(f"{path}: found {names}, wanted an ONNX variant that no pass has changed", hint="give the file")


def from_torch(module: Any, example: Any) -> Artifact:
    """A PyTorch module (in eval mode from here on) and one example input, or a tuple of them, each with the batch
    first; the batch is free in the result. Raises InputError where it cannot be exported."""
    with _exporter("torch", "onnxscript"):
        import torch

        inputs = example if isinstance(example, tuple) else (example,)
        # one item would be taken for a fixed size
        doubled = tuple(torch.cat([one, one]) if one.shape[0] == 1 else one for one in inputs)
        batch = torch.export.Dim("batch")
        shapes = tuple({0: batch} for _ in doubled)
        with _quiet():
            program = torch.export.export(module.eval(), doubled, dynamic_shapes=shapes)
            made = torch.onnx.export(program, (), dynamo=True, opset_version=OPSET)
    return _from_proto(made.model_proto, type(module).__name__)


def from_keras(model: Any) -> Artifact:
    """A Keras 3 model on the PyTorch backend, whose exporter writes ONNX without TensorFlow. The batch is one, as that
    exporter fixes it. Raises InputError where it cannot be exported."""
    with _exporter("keras", "onnxscript"), tempfile.TemporaryDirectory(prefix="edge-runtime-") as folder:
        import numpy as np

        path = Path(folder, "model.onnx")
        with _quiet():
            # its exporter refuses a model that was loaded and never called
            model([np.zeros([size or 1 for size in one.shape], one.dtype) for one in model.inputs])
            model.export(str(path), format="onnx", verbose=False)
        return load_artifact(path)


def from_sklearn(estimator: Any, features: int) -> Artifact:
    """A fitted scikit-learn estimator that takes `features` numbers an item, by skl2onnx. One output: the probabilities
    of a classifier, the values of a regressor.

    Trees and nearest neighbours become operators of the domain ai.onnx.ml, which recipes refuse: networks, linear
    models and scalers are what can be compressed. Raises InputError.
    """
    with _exporter("skl2onnx"):
        from skl2onnx import to_onnx
        from skl2onnx.common.data_types import FloatTensorType

        options = {id(estimator): {"zipmap": False}} if hasattr(estimator, "predict_proba") else None
        kinds = [("features", FloatTensorType([None, features]))]
        with _quiet():
            proto = to_onnx(estimator, initial_types=kinds, options=options, target_opset={"": 17, "ai.onnx.ml": 3})
    floats = [one for one in proto.graph.output if one.type.tensor_type.elem_type == 1]
    if len(floats) != 1:
        raise InputError(f"{type(estimator).__name__}: found {len(floats)} outputs of real numbers, wanted one")
    del proto.graph.output[:]
    proto.graph.output.extend(floats)
    import onnx_ir as ir
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    model = ir.from_proto(proto)
    RemoveUnusedNodesPass()(model)  # what led to the label alone
    return _from_proto(ir.to_proto(model), type(estimator).__name__)


def _from_proto(proto: Any, where: str) -> Artifact:
    return read_artifact(proto.SerializeToString(deterministic=True), where)


@contextlib.contextmanager
def _exporter(*packages: str) -> Iterator[None]:
    """Missing packages, and whatever an exporter raises, as one clear error."""
    import importlib.util

    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise EngineError(f"{', '.join(missing)} not installed", hint=f"pip install {' '.join(missing)}")
    try:
        yield
    except (InputError, EngineError):
        raise
    except Exception as error:  # exporters raise what they like
        said = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        raise InputError(f"{packages[0]} cannot export the model: {type(error).__name__}: {said}") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Exporters talk on stdout, which is for data."""
    talker = logging.getLogger("torch.onnx")
    level = talker.level
    talker.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        talker.setLevel(level)
