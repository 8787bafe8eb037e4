"""Any single ONNX or TFLite file on named numpy arrays, through the same engines and the same guard."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from edge_runtime.child import memory_status
from edge_runtime.engine import EngineOptions, check_threads, engine_for, find_engine
from edge_runtime.errors import BudgetError, EngineError, UsageError
from edge_runtime.guard import Child, Limits
from edge_runtime.profile import load_profile
from edge_runtime.tensors import TensorSpec, fit_all
from edge_runtime.units import format_bytes

if TYPE_CHECKING:
    from edge_runtime.profile import DeviceProfile
    from edge_runtime.tensors import Array


class GuardedProgram:
    """A model in a guarded child. `run` takes and gives numpy arrays by name; close it, or use it in `with`."""

    def __init__(self, model: Path, engine: str, threads: int, limits: Limits, predicted_bytes: int) -> None:
        self.engine = engine
        spec = {"model": str(model.resolve()), "engine": engine, "threads": threads, "predicted_bytes": predicted_bytes}
        self._child = Child("edge_runtime.server_file:serve_file", spec, limits)
        try:
            about = self._child.ready()
        except BaseException:
            self._child.close()
            raise
        self.engine_version: str = about["engine_version"]
        self.inputs = tuple(TensorSpec.from_json(one) for one in about["inputs"])
        self.outputs = tuple(TensorSpec.from_json(one) for one in about["outputs"])

    @property
    def peak_ram_bytes(self) -> int:
        return self._child.peak_bytes

    @property
    def resident_ram_bytes(self) -> int:
        return self._child.resident_bytes

    def run(self, feeds: Mapping[str, object]) -> dict[str, Array]:
        """Arrays by input name, cast and quantized where the tensors say so; the raw outputs by name.

        Raises InputError where an array does not fit, BudgetError over the limit, EngineError for the engine's own.
        """
        return self._child.call("run", {}, fit_all(feeds, self.inputs))[1]

    def close(self) -> None:
        self._child.close()

    def __enter__(self) -> GuardedProgram:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class BareProgram:
    """The same in this process: nothing between caller and engine but the fitting of the inputs, and no net below."""

    def __init__(self, model: Path, engine: str, threads: int) -> None:
        module = find_engine(engine)
        self.engine = engine
        self._program = module.load(model, EngineOptions(threads))
        self.engine_version = module.version()
        self.inputs, self.outputs = self._program.inputs, self._program.outputs

    @property
    def peak_ram_bytes(self) -> int:
        """Of this whole process."""
        return memory_status().get("VmHWM", 0)

    def run(self, feeds: Mapping[str, object]) -> dict[str, Array]:
        """As GuardedProgram.run, but for its BudgetError."""
        return self._program.run(fit_all(feeds, self.inputs))

    def close(self) -> None:
        self._program.close()

    def __enter__(self) -> BareProgram:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def open_program(
    path: str | os.PathLike[str],
    engine: str | None = None,
    device: DeviceProfile | str | None = None,
    *,
    threads: int = 1,
    guard: bool = True,
) -> GuardedProgram | BareProgram:
    """Load a .onnx, .ort or .tflite file in a guarded child.

    `guard`: False loads it into this process instead, for models of a millisecond with large inputs, where the way to
    a child and back counts; there is no memory limit then, and an engine that dies takes the caller with it.

    `engine`: by name, else the first that reads the format and works here. `device`: whose memory budget the child
    is held to; None is no limit. Raises EngineError, BudgetError (also before loading, when the estimate does not
    fit), UsageError for a format that no engine reads.
    """
    model = Path(path)
    check_threads(threads)
    if not model.is_file():
        raise EngineError(f"{model}: found no file there, wanted an ONNX or TFLite model")
    profile = load_profile(device) if isinstance(device, str) else device
    name = engine_for(model, engine)
    if not guard:
        if profile:
            raise UsageError(f"{model}: found device {profile.name} and no guard: only a guarded child can be limited")
        return BareProgram(model, name, threads)
    predicted = find_engine(name).ram_bytes(model.stat().st_size, profile.arch if profile else "")
    limits = Limits(profile.budget.ram_bytes) if profile else Limits()
    if limits.ram_bytes is not None and predicted > limits.ram_bytes:
        raise BudgetError(
            f"{model}: memory: needs {format_bytes(predicted)} (estimated), "
            f"the device allows {format_bytes(limits.ram_bytes)}",
            predicted_bytes=predicted,
            allowed_bytes=limits.ram_bytes,
        )
    return GuardedProgram(model, name, threads, limits, predicted)
