"""TFLite files: ai_edge_litert where it is installed, else tflite_runtime (the only one for 32-bit ARM)."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edge_runtime.attached import read_labels
from edge_runtime.errors import EngineError
from edge_runtime.footprint import predict_by_size
from edge_runtime.tensors import TensorSpec, as_text, distinct

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
    try:
        return LiteProgram(model, options)
    except (MemoryError, EngineError):
        raise
    except Exception as error:  # damaged models raise RuntimeError, ValueError, UnicodeDecodeError and TypeError
        raise EngineError(f"{version()} refuses the model: {_first_line(error)}") from error


# Operators that keep something between runs, or hide others that may.
_KEEPERS = (
    "RNN",
    "LSTM",
    "SVDF",
    "VAR",
    "TABLE",
    "CALL",
    "WHILE",
    "IF",
    "CUSTOM",
    "RANDOM",
    "MULTINOMIAL",
    "STABLEHLO",
)


class LiteProgram:
    """An interpreter, or one signature of it, which may be another subgraph with names of its own."""

    def __init__(self, model: bytes | str | Path, options: EngineOptions) -> None:
        self._source: dict[str, Any] = (
            {"model_content": model} if isinstance(model, bytes) else {"model_path": str(model)}
        )
        self._options = options
        self._interpreter, self._runner = self._made()
        self._in: list[Any]
        self._out: list[Any]
        signatures = self._interpreter.get_signature_list()
        self.signatures = tuple(map(str, signatures))
        self.labels = read_labels(model)
        if self._runner:
            inputs, outputs = self._runner.get_input_details(), self._runner.get_output_details()
            ins, outs = list(inputs.values()), list(outputs.values())
            self._in, self._out = list(inputs), list(outputs)
        else:
            ins, outs = self._interpreter.get_input_details(), self._interpreter.get_output_details()
            self._in, self._out = [one["index"] for one in ins], [one["index"] for one in outs]
        self.inputs = _specs(ins, "input", self._in if self._runner else None)
        self.outputs = _specs(outs, "output", self._out if self._runner else None)
        self._first_shapes = [tuple(int(size) for size in one["shape"]) for one in ins]
        self._shapes = list(self._first_shapes)
        self._keeps = _may_keep(self._interpreter)
        self._used = self._failed = False

    def _made(self) -> tuple[Any, Any]:
        """The interpreter, and the runner of the signature that was asked for."""
        interpreter = _interpreter_class()(**self._source, num_threads=self._options.threads)
        interpreter.allocate_tensors()
        wanted = self._options.signature
        if wanted is None:
            return interpreter, None
        found = list(interpreter.get_signature_list())
        if wanted not in found:
            raise EngineError(f"found the signatures {', '.join(found) or 'none'} in the model, wanted {wanted!r}")
        return interpreter, interpreter.get_signature_runner(wanted)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        try:
            if self._failed:  # after a failure an interpreter's tensors may be without memory
                self._again()
            self._used = self._failed = True
            arrays = [_given(feeds[spec.name], spec) for spec in self.inputs]
            found = self._run_signature(arrays) if self._runner else self._run_graph(arrays)
            self._failed = False
        except MemoryError:
            raise
        except Exception as error:
            raise EngineError(f"{version()}: {_first_line(error)}") from error
        return {spec.name: _plain(array, spec) for spec, array in zip(self.outputs, found, strict=True)}

    def _run_graph(self, arrays: list[Array]) -> list[Any]:
        interpreter = self._interpreter
        resized = False
        for place, array in enumerate(arrays):
            if self._shapes[place] != array.shape:
                interpreter.resize_tensor_input(self._in[place], array.shape)
                self._shapes[place] = array.shape
                resized = True
        if resized:
            interpreter.allocate_tensors()
        for index, array in zip(self._in, arrays, strict=True):
            interpreter.set_tensor(index, array)
        interpreter.invoke()
        return [interpreter.get_tensor(index) for index in self._out]

    def _run_signature(self, arrays: list[Array]) -> list[Any]:
        found = self._runner(**dict(zip(self._in, arrays, strict=True)))
        return [found[name] for name in self._out]

    def reset(self) -> None:
        """A fresh interpreter, where anything may have been kept: `reset_all_variables` forgets variable tensors, but
        not what READ_VARIABLE and ASSIGN_VARIABLE share (ai_edge_litert 2.3)."""
        if self._used and (self._keeps or self._failed):
            try:
                self._again()
            except (MemoryError, EngineError):
                raise
            except Exception as error:
                raise EngineError(f"{version()}: {_first_line(error)}") from error

    def _again(self) -> None:
        self._failed = True  # until there is another
        self._interpreter = self._runner = None  # two of them do not fit where one was planned for
        self._interpreter, self._runner = self._made()
        self._shapes = list(self._first_shapes)
        self._used = self._failed = False

    def close(self) -> None:
        self._interpreter = self._runner = None
        self._source = {}


def _may_keep(interpreter: Any) -> bool:
    try:
        names = [str(one["op_name"]) for one in interpreter._get_ops_details()]
    except Exception:  # not a public function
        return True
    return any(word in name for name in names for word in _KEEPERS)


def _given(array: Array, spec: TensorSpec) -> Array:
    if spec.dtype != "string":
        return array
    import numpy as np

    made = np.empty(array.size, object)
    made[:] = [str(one).encode("utf-8", "surrogateescape") for one in array.ravel().tolist()]
    return made.reshape(array.shape)


def _plain(found: Any, spec: TensorSpec) -> Array:
    import numpy as np

    array = np.asarray(found)  # scalars come as numpy's scalars
    return as_text(array) if spec.dtype == "string" else array


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


def _specs(details: list[dict[str, Any]], what: str, called: list[str] | None = None) -> tuple[TensorSpec, ...]:
    """`called`: the names that a signature gives them, where they are not the tensors' own."""
    import numpy as np

    specs: list[TensorSpec] = []
    for name, one in zip(distinct(called or [one["name"] for one in details], what), details, strict=True):
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
