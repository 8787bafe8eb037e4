"""ONNX and ORT files on onnxruntime's CPU provider."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edge_runtime.errors import EngineError
from edge_runtime.footprint import predict_by_size
from edge_runtime.tensors import TensorSpec, distinct

if TYPE_CHECKING:
    from pathlib import Path

    from edge_runtime.engine import EngineOptions
    from edge_runtime.tensors import Array

NAME = "onnxruntime"
FORMATS: tuple[str, ...] = ("onnx",)
# Cells a call: measured on x86-64, eight together take three quarters of eight alone, more gain nothing.
BATCH = 8
_TYPES = {
    "float": "float32",
    "float16": "float16",
    "double": "float64",
    "bfloat16": "bfloat16",
    "string": "string",
    **{f"{sign}int{bits}": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
    "bool": "bool",
}


def missing() -> str | None:
    try:
        _module()
    except Exception as error:  # a broken wheel raises more than ImportError
        return error.message if isinstance(error, EngineError) else f"{type(error).__name__}: {error}"
    return None


def version() -> str:
    return str(_module().__version__)


def ram_bytes(model_bytes: int, arch: str) -> int:
    return predict_by_size(NAME, arch, model_bytes)


def load(model: bytes | str | Path, options: EngineOptions) -> OnnxProgram:
    """Raises EngineError with the first line of onnxruntime's own words."""
    ort = _module()
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = options.threads
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 4
    # Threads that spin between two cells burn a battery for microseconds.
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if options.signature is not None:
        raise EngineError(f"found signature {options.signature!r}, and ONNX files have none: only TFLite files do")
    if isinstance(model, bytes):
        # Weights may be kept in other files: of a model without a place of its own, in any of the present folder.
        settings.add_session_config_entry("session.model_external_initializers_file_folder_path", os.devnull)
    source = model if isinstance(model, bytes) else str(model)
    try:
        return OnnxProgram(ort.InferenceSession(source, settings, providers=["CPUExecutionProvider"]))
    except EngineError:
        raise
    except MemoryError:
        raise
    except Exception as error:  # damaged models raise UnicodeDecodeError besides onnxruntime's own family
        raise EngineError(f"onnxruntime {version()} refuses the model: {_first_line(error)}") from error


class OnnxProgram:
    labels: tuple[str, ...] = ()
    signatures: tuple[str, ...] = ()

    def __init__(self, session: Any) -> None:
        self._session = session
        # The session keeps the file's bytes, to begin again on other providers; there are none here.
        session.disable_fallback()
        session._model_bytes = None
        self.inputs = _specs(session.get_inputs(), "input")
        self.outputs = _specs(session.get_outputs(), "output")
        self._names = [one.name for one in session.get_outputs()]  # the file's: one may stand twice

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        try:
            found = self._session.run(self._names, dict(feeds))
        except MemoryError:
            raise
        except Exception as error:
            raise EngineError(f"onnxruntime: {_first_line(error)}") from error
        return {spec.name: array for spec, array in zip(self.outputs, found, strict=True)}

    def reset(self) -> None:
        """Nothing to do: an ONNX graph keeps nothing from one run to the next."""

    def close(self) -> None:
        self._session = None


def _module() -> Any:
    # Linux wheels start a telemetry thread at import and queue events to be sent; this, before the import, is the
    # only full opt-out (disable_telemetry_events() comes after the first event).
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    try:
        import onnxruntime
    except ImportError as error:
        raise EngineError(f"onnxruntime cannot be imported: {error}", hint="pip install onnxruntime") from error
    return onnxruntime


def _specs(found: list[Any], what: str) -> tuple[TensorSpec, ...]:
    names = distinct([one.name for one in found], what)
    return tuple(_spec(one, name, what) for one, name in zip(found, names, strict=True))


def _spec(one: Any, name: str, what: str) -> TensorSpec:
    kind = one.type.removeprefix("tensor(").removesuffix(")")
    if kind not in _TYPES:
        holder = one.type.partition("(")[0]
        wanted = {"seq": "a sequence", "map": "a map", "optional": "an optional"}.get(holder, "another type")
        hint = "skl2onnx: options={'zipmap': False}" if "map(" in one.type else None
        raise EngineError(f"{what} {name!r}: found {wanted}, {one.type}, wanted a plain tensor of numbers", hint=hint)
    shape = tuple(size if isinstance(size, int) and size >= 0 else None for size in one.shape)
    return TensorSpec(name, shape, _TYPES[kind])


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:400] if lines else type(error).__name__
