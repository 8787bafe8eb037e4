"""A model on its way through a recipe: what form it has, and its bytes.

    onnx     float weights; ordinary ONNX operators
    onnx_q   ONNX with QuantizeLinear/DequantizeLinear pairs (QDQ): weights, perhaps activations, are quantized
    tflite   a TFLite file

Bytes and not a graph object, so that a step cannot change the one before, and so that a step can be kept and resumed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edge_runtime.digest import sha256
from edge_runtime.errors import EngineError, InputError

if TYPE_CHECKING:
    import onnx_ir

FORMS = ("onnx", "onnx_q", "tflite")
MAX_BYTES = 2**31 - 1  # of a protobuf message, and of a flatbuffer


@dataclass(frozen=True)
class Artifact:
    form: str
    content: bytes

    @classmethod
    def of(cls, model: onnx_ir.Model, form: str) -> Artifact:
        """Raises InputError for a model too large for one file."""
        import onnx_ir as ir

        content = ir.to_proto(model).SerializeToString(deterministic=True)
        if len(content) > MAX_BYTES:
            raise InputError(f"the model takes {len(content)} bytes, an ONNX file holds at most {MAX_BYTES}")
        return cls(form, content)

    def model(self) -> onnx_ir.Model:
        """A fresh graph each time. For the ONNX forms only."""
        import onnx
        import onnx_ir as ir

        return ir.from_proto(onnx.load_from_string(self.content))

    @property
    def format(self) -> str:
        """What a bundle calls it: onnx or tflite."""
        return "tflite" if self.form == "tflite" else "onnx"

    @property
    def digest(self) -> str:
        return sha256(self.content).hexdigest()


def need_packages() -> None:
    """Raises EngineError where the packages of the workstation are missing."""
    try:
        import onnx  # noqa: F401
        import onnx_ir  # noqa: F401
    except ImportError as error:
        raise EngineError(f"{error.name} is not installed", hint="pip install 'edge-runtime[compress]'") from error


def load_artifact(path: Path) -> Artifact:
    """An .onnx or .tflite file, with the ONNX file's external data beside it read in.

    Raises InputError: not there, neither of the two, damaged, too large; a number in its weights that is not finite.
    """
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise InputError(f"{path}: found {size} bytes, wanted at most {MAX_BYTES}")
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}", hint="give an .onnx or .tflite file") from error
    return read_artifact(content, str(path), path.parent)


def read_artifact(content: bytes, where: str, beside: Path | None = None) -> Artifact:
    """The same from bytes; `beside`: the folder of external data."""
    if content[4:8] == b"TFL3":
        return Artifact("tflite", content)
    need_packages()
    import numpy as np
    import onnx
    from onnx import external_data_helper, numpy_helper

    try:
        proto = onnx.load_from_string(content)
        if beside is not None:
            external_data_helper.load_external_data_for_model(proto, str(beside))
        onnx.checker.check_model(proto)
    except Exception as error:  # protobuf's and the checker's own families
        said = (str(error).splitlines() or [type(error).__name__])[0][:300]
        raise InputError(f"{where}: found no valid ONNX or TFLite model: {said}") from error
    for one in proto.graph.initializer:
        array = numpy_helper.to_array(one)
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            count = int((~np.isfinite(array)).sum())
            raise InputError(f"{where}: weight {one.name!r}: found {count} of {array.size} numbers that are not finite")
    quantized = any(node.op_type in ("DequantizeLinear", "QLinearConv", "MatMulNBits") for node in proto.graph.node)
    return Artifact("onnx_q" if quantized else "onnx", proto.SerializeToString(deterministic=True))


def slim(artifact: Artifact) -> Artifact:
    """An ONNX file without what only passes and people read: shapes of inner tensors, descriptions, metadata."""
    import onnx

    proto = onnx.load_from_string(artifact.content)
    del proto.graph.value_info[:]
    del proto.metadata_props[:]
    del proto.graph.metadata_props[:]
    for node in proto.graph.node:
        node.ClearField("doc_string")
        del node.metadata_props[:]
    for one in proto.graph.initializer:
        one.ClearField("doc_string")
    return Artifact(artifact.form, proto.SerializeToString(deterministic=True))
