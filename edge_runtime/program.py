"""Any single ONNX or TFLite file on named numpy arrays, through the same engines and the same guard."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from edge_runtime.child import memory_status
from edge_runtime.engine import check_threads, engine_for, find_engine
from edge_runtime.errors import BudgetError, EngineError, InputError, UsageError
from edge_runtime.guard import TIME_LIMIT_S, Child, Limits, check_time_limit
from edge_runtime.profile import load_profile
from edge_runtime.server_file import load_file, reset
from edge_runtime.tensors import TensorSpec, as_text, fit_all
from edge_runtime.units import format_bytes

if TYPE_CHECKING:
    from edge_runtime.profile import DeviceProfile
    from edge_runtime.tensors import Array


class GuardedProgram:
    """A model in a guarded child. `run` takes and gives numpy arrays by name; close it, or use it in `with`."""

    def __init__(
        self,
        model: Path,
        engine: str,
        threads: int,
        limits: Limits,
        predicted_bytes: int,
        *,
        state: Mapping[str, str] | None = None,
        signature: str | None = None,
    ) -> None:
        self.engine = engine
        spec = {"model": str(model.resolve()), "engine": engine, "threads": threads, "predicted_bytes": predicted_bytes}
        spec |= {"state": dict(state or {}), "signature": signature}
        self._child = Child("edge_runtime.server_file:serve_file", spec, limits)
        try:
            about = self._child.ready()
        except BaseException:
            self._child.close()
            raise
        self.engine_version: str = about["engine_version"]
        self.inputs = tuple(TensorSpec.from_json(one) for one in about["inputs"])
        self.outputs = tuple(TensorSpec.from_json(one) for one in about["outputs"])
        self.labels: tuple[str, ...] = tuple(about["labels"])
        self.signatures: tuple[str, ...] = tuple(about["signatures"])

    @property
    def peak_ram_bytes(self) -> int:
        return self._child.peak_bytes

    @property
    def resident_ram_bytes(self) -> int:
        return self._child.resident_bytes

    def run(self, feeds: Mapping[str, object]) -> dict[str, Array]:
        """Arrays by input name, cast and quantized where the tensors say so; the raw outputs by name.

        Raises InputError where an array does not fit, BudgetError over the memory limit, EngineError for the engine's
        own and over the time limit.
        """
        return self._child.call("run", {}, _fitted(feeds, self))[1]

    def reset(self, start: Mapping[str, object] | None = None) -> None:
        """Forget what earlier runs left: state that outputs feed to inputs, and variables inside a TFLite model.

        `start`: arrays that the state begins with, by input name, instead of zeros. Raises as run does.
        """
        self._child.call("reset", {}, as_arrays(start or {}))

    def close(self) -> None:
        self._child.close()

    def __enter__(self) -> GuardedProgram:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class BareProgram:
    """The same in this process: nothing between caller and engine but the fitting of the inputs, and no net below."""

    def __init__(
        self,
        model: Path,
        engine: str,
        threads: int,
        *,
        state: Mapping[str, str] | None = None,
        signature: str | None = None,
    ) -> None:
        self.engine = engine
        self._program = load_file(
            {"model": str(model), "engine": engine, "threads": threads, "state": state, "signature": signature}
        )
        self.engine_version = find_engine(engine).version()
        self.inputs, self.outputs = self._program.inputs, self._program.outputs
        self.labels, self.signatures = self._program.labels, self._program.signatures

    @property
    def peak_ram_bytes(self) -> int:
        """Of this whole process."""
        return memory_status().get("VmHWM", 0)

    def run(self, feeds: Mapping[str, object]) -> dict[str, Array]:
        """As GuardedProgram.run, but for its limits."""
        return self._program.run(_fitted(feeds, self))

    def reset(self, start: Mapping[str, object] | None = None) -> None:
        """As GuardedProgram.reset."""
        reset(self._program, start or {})

    def close(self) -> None:
        self._program.close()

    def __enter__(self) -> BareProgram:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _fitted(feeds: Mapping[str, object], program: GuardedProgram | BareProgram) -> dict[str, Array]:
    """As fit_all; where inputs are missing that look like state, the hint says how to let outputs feed them."""
    try:
        return fit_all(feeds, program.inputs)
    except InputError as error:
        missing = {spec.name for spec in program.inputs} - set(feeds)
        if missing and error.hint is None:
            from edge_runtime.recurrent import likely_state

            pairs = {a: b for a, b in likely_state(program.inputs, program.outputs).items() if a in missing}
            error.hint = f"open_program(..., state={pairs})" if pairs else None
        raise


def as_arrays(arrays: Mapping[str, object]) -> dict[str, Array]:
    """Array-likes as they cross to the child, where the tensors that they are for are known. Raises InputError."""
    import numpy as np

    made = {}
    for name, one in arrays.items():
        try:
            array = np.asarray(one)
        except (ValueError, TypeError, OverflowError) as error:
            raise InputError(f"state {name!r}: found {str(error)[:200]}, wanted an array") from error
        made[name] = as_text(array) if array.dtype.kind in "OSU" else array
        if made[name].dtype == object and not all(isinstance(text, str) for text in made[name].ravel().tolist()):
            raise InputError(f"state {name!r}: found {array.dtype}, wanted numbers or strings")
    return made


def open_program(
    path: str | os.PathLike[str],
    engine: str | None = None,
    device: DeviceProfile | str | None = None,
    *,
    threads: int = 1,
    guard: bool = True,
    state: Mapping[str, str] | None = None,
    signature: str | None = None,
    time_limit_s: float = TIME_LIMIT_S,
) -> GuardedProgram | BareProgram:
    """Load a .onnx, .ort or .tflite file in a guarded child.

    `guard`: False loads it into this process instead, for models of a millisecond with large inputs, where the way to
    a child and back counts; there is no limit on memory or time then, and an engine that dies takes the caller with it.

    `state`: {input: output}, for a model that is one step of a recurrent network: at each run the input is fed what the
    output gave at the run before, and neither is seen any more; `reset` starts anew. `signature`: one of a TFLite
    file's own by its name (`program.signatures` has them). `time_limit_s`: a load or a run that takes
    longer is stopped.

    `engine`: by name, else the first that reads the format and works here. `device`: whose memory budget the child
    is held to; None is no limit. Raises EngineError, BudgetError (also before loading, when the estimate does not
    fit), UsageError for a format that no engine reads and for state that the model does not have.
    """
    model = Path(path)
    check_threads(threads)
    check_time_limit(time_limit_s)
    if not os.path.isfile(model):
        raise EngineError(f"{model}: found no file there, wanted an ONNX or TFLite model")
    profile = load_profile(device) if isinstance(device, str) else device
    name = engine_for(model, engine)
    if not guard:
        if profile:
            raise UsageError(f"{model}: found device {profile.name} and no guard: only a guarded child can be limited")
        return BareProgram(model, name, threads, state=state, signature=signature)
    predicted = find_engine(name).ram_bytes(model.stat().st_size, profile.arch if profile else "")
    limits = Limits(profile.budget.ram_bytes if profile else None, time_limit_s)
    if limits.ram_bytes is not None and predicted > limits.ram_bytes:
        raise BudgetError(
            f"{model}: memory: needs {format_bytes(predicted)} (estimated), "
            f"the device allows {format_bytes(limits.ram_bytes)}",
            predicted_bytes=predicted,
            allowed_bytes=limits.ram_bytes,
        )
    return GuardedProgram(model, name, threads, limits, predicted, state=state, signature=signature)
