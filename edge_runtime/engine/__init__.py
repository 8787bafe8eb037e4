"""Engines, found by name and imported when asked for.

An engine is a module of this folder named as its users name it. To add one: a file here with the members of `Engine`,
its name in `ENGINES`, and it is under the contract test.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from functools import cache
from typing import TYPE_CHECKING, NamedTuple, Protocol, cast

from edge_runtime.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from edge_runtime.tensors import Array, TensorSpec

ENGINES = ("onnxruntime", "litert", "null")
PROBE_TIMEOUT_S = 120
MAX_THREADS = 64


class EngineOptions(NamedTuple):
    """`threads`: of one inference. `signature`: which of a TFLite file's, by its name; None is the file's own order."""

    threads: int = 1
    signature: str | None = None


def check_threads(threads: int) -> None:
    """Raises UsageError for a number that no small device has; thousands make an engine hang."""
    if not 1 <= threads <= MAX_THREADS:
        raise UsageError(f"threads: found {threads}, wanted 1 to {MAX_THREADS}")


class Program(Protocol):
    """A loaded model. Arrays go in as `inputs` say (see tensors.fit) and come out as `outputs` say; batch first.

    What comes out is a numpy array always (0-d for a scalar), strings in one of dtype object. Names are distinct and
    not blank, whatever the file has. `labels` and `signatures` are () where the file has none.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    labels: tuple[str, ...]
    signatures: tuple[str, ...]

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]: ...

    def reset(self) -> None:
        """Forget what earlier runs left in the model: the next run is as the first."""
        ...

    def close(self) -> None: ...


class Engine(Protocol):
    """A module. `NAME` is the file's; `FORMATS` are the variant formats that it loads; `BATCH` is how many inputs of a
    small model it is worth giving it together."""

    NAME: str
    FORMATS: tuple[str, ...]
    BATCH: int

    def missing(self) -> str | None:
        """None where it can be used, else why not. Imports the engine: call it in a child process."""
        ...

    def version(self) -> str: ...

    def ram_bytes(self, model_bytes: int, arch: str) -> int:
        """An estimate of the peak of a process that runs a model of this size."""
        ...

    def load(self, model: bytes | str | Path, options: EngineOptions) -> Program:
        """Raises EngineError when the engine is missing or refuses the model."""
        ...


class Probe(NamedTuple):
    """What a child process found of an engine: `reason` is None where it works."""

    name: str
    version: str | None
    reason: str | None


def find_engine(name: str) -> Engine:
    """The engine's module. Raises UsageError for a name that there is not."""
    if name not in ENGINES:
        raise UsageError(f"engine: found {name!r}, wanted one of {', '.join(ENGINES)}")
    return cast(Engine, importlib.import_module(f"edge_runtime.engine.{name}"))


@cache
def probe(name: str) -> Probe:
    """Import an engine in a child process: an import can die of SIGILL on a CPU that it was not built for
    (microsoft/onnxruntime#23957), and that must be a fact and not a crash."""
    import json
    import signal
    import subprocess

    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    code = f"import sys; sys.path.append({root!r}); from edge_runtime.engine import probe_main; probe_main({name!r})"
    try:
        done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, timeout=PROBE_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        return Probe(name, None, f"import took longer than {PROBE_TIMEOUT_S} s")
    if done.returncode < 0:
        return Probe(name, None, f"import died of {signal.Signals(-done.returncode).name}")
    if done.returncode:
        words = done.stderr.decode(errors="replace").strip().splitlines()
        return Probe(name, None, f"import ended with exit code {done.returncode}: {words[-1] if words else ''}")
    said = json.loads(done.stdout.splitlines()[-1])
    return Probe(name, said["version"], said["reason"])


def probe_main(name: str) -> None:
    import json

    engine = find_engine(name)
    reason = engine.missing()
    print(json.dumps({"version": engine.version() if reason is None else None, "reason": reason}))


def format_of(model: Path) -> str:
    """The format of a model file by the ending of its name. Raises UsageError for one that no engine reads."""
    formats = {".onnx": "onnx", ".ort": "onnx", ".tflite": "tflite", ".null": "null"}
    if model.suffix.lower() not in formats:
        raise UsageError(f"{model}: found the ending {model.suffix!r}, wanted one of {', '.join(formats)}")
    return formats[model.suffix.lower()]


def engine_for(model: Path, engine: str | None) -> str:
    """The engine for a single model file: the one named, else the one that reads its format. Whether it works here is
    found when it loads the model in its child: asking before would pay for its import twice. Raises UsageError."""
    format_ = format_of(model)
    found = engine or next(name for name in ENGINES if format_ in find_engine(name).FORMATS)
    if format_ not in find_engine(found).FORMATS:
        raise UsageError(f"{model}: engine {found} reads {', '.join(find_engine(found).FORMATS)}, found {format_}")
    return found
