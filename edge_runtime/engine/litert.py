"""TFLite files: ai_edge_litert where it is installed, else tflite_runtime (the only one for 32-bit ARM)."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edge_runtime.errors import EngineError
from edge_runtime.footprint import predict_by_size
from edge_runtime.tensors import TensorSpec

if TYPE_CHECKING:
    from pathlib import Path

    from edge_runtime.engine import EngineOptions
    from edge_runtime.tensors import Array

NAME = "litert"
FORMATS: tuple[str, ...] = ("tflite",)
# Measured on x86-64: cells together take as long as cells alone.
BATCH = 1


def missing() -> str | None:
    try:
        _interpreter_class()
    except Exception as error:
        return error.message if isinstance(error, EngineError) else f"{type(error).__name__}: {error}"
    return None


def version() -> str:
    """Which of the two packages, and its version."""
    package = sys.modules[_interpreter_class().__module__.partition(".")[0]]
    return f"{package.__name__} {getattr(package, '__version__', '')}"


def ram_bytes(model_bytes: int, arch: str) -> int:
    return predict_by_size(NAME, arch, model_bytes)


def load(model: bytes | str | Path, options: EngineOptions) -> LiteProgram:
    """Raises EngineError with the first line of the interpreter's own words."""
    interpreter_class = _interpreter_class()
    source = {"model_content": model} if isinstance(model, bytes) else {"model_path": str(model)}
    try:
        interpreter = interpreter_class(**source, num_threads=options.threads)
        interpreter.allocate_tensors()
    except MemoryError:
        raise
    except Exception as error:
        raise EngineError(f"{version()} refuses the model: {_first_line(error)}") from error
    return LiteProgram(interpreter)


class LiteProgram:
    def __init__(self, interpreter: Any) -> None:
        self._interpreter = interpreter
        inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
        self.inputs = _specs(inputs, "input")
        self.outputs = _specs(outputs, "output")
        self._in = {spec.name: one["index"] for spec, one in zip(self.inputs, inputs, strict=True)}
        self._out = {spec.name: one["index"] for spec, one in zip(self.outputs, outputs, strict=True)}
        self._shapes = {one["index"]: tuple(int(size) for size in one["shape"]) for one in inputs}

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        interpreter = self._interpreter
        try:
            resized = False
            for name, array in feeds.items():
                if self._shapes[self._in[name]] != array.shape:
                    interpreter.resize_tensor_input(self._in[name], array.shape)
                    self._shapes[self._in[name]] = array.shape
                    resized = True
            if resized:
                interpreter.allocate_tensors()
            for name, array in feeds.items():
                interpreter.set_tensor(self._in[name], array)
            interpreter.invoke()
            return {name: interpreter.get_tensor(index) for name, index in self._out.items()}
        except MemoryError:
            raise
        except Exception as error:
            raise EngineError(f"{version()}: {_first_line(error)}") from error

    def close(self) -> None:
        self._interpreter = None


def _interpreter_class() -> Any:
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as first:
        try:
            from tflite_runtime.interpreter import Interpreter
        except ImportError as second:
            raise EngineError(
                f"no TFLite interpreter: {first}; {second}", hint="pip install 'edge-runtime[litert]'"
            ) from second
    return Interpreter


def _specs(details: list[dict[str, Any]], what: str) -> tuple[TensorSpec, ...]:
    import numpy as np

    specs: list[TensorSpec] = []
    names: set[str] = set()
    for position, one in enumerate(details):
        # names may be blank or repeated in real files; then the position tells them apart
        name = one["name"] or f"{what}{position}"
        name = f"{name}#{position}" if name in names else name
        names.add(name)
        kind = np.dtype(one["dtype"])
        dtype = "string" if kind.kind in "OSU" else kind.name
        signature = one.get("shape_signature", one["shape"])
        shape = tuple(None if size < 0 else int(size) for size in signature)
        scales = one.get("quantization_parameters", {}).get("scales", ())
        quantized = dtype in ("int8", "uint8", "int16") and len(scales) == 1
        scale, zero_point = (float(one["quantization"][0]), int(one["quantization"][1])) if quantized else (None, None)
        specs.append(TensorSpec(name, shape, dtype, scale, zero_point))
    return tuple(specs)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0][:400] if lines else type(error).__name__
