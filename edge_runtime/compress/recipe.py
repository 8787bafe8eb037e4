"""A recipe: a list of passes, as JSON that travels with what it made.

    {"name": "static_w8a8", "passes": [{"pass": "static", "method": "mse"}, ...]}

A pass is a frozen dataclass: its fields are its settings, `reads` the forms that it takes and `writes` the form that it
leaves (None: the one that it got). So an order that cannot work is refused before any work.
"""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol, get_type_hints

from edge_runtime.compress.artifact import Artifact
from edge_runtime.compress.passes import PASSES
from edge_runtime.compress.samples import Samples
from edge_runtime.errors import InputError, UsageError

_ALREADY = {"onnx": "is in float", "onnx_q": "is not quantized yet", "tflite": "is in ONNX; TFLite files can be coded"}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")  # files are called by it
Progress = Callable[[int, int, str], None]  # done, total, what is being done


@dataclass(frozen=True)
class Target:
    """Where the result runs: settings of a pass may depend on it. `arch` as in device profiles, "" for anywhere."""

    arch: str = ""
    engines: tuple[str, ...] = ("onnxruntime", "litert")


@dataclass(frozen=True)
class Context:
    """What a pass may look at. `original` is the prepared model, float, before the first pass. `lessons`: the items for
    passes that learn, where they are others than those to calibrate on; run_recipe hands them to these passes.
    `checkpoint`: where such a pass may keep what it has learnt so far, for a run that is cut and goes on."""

    original: Artifact
    samples: Samples | None
    target: Target = Target()
    progress: Progress = lambda done, total, words: None
    facts: dict[str, Any] = field(default_factory=dict)
    lessons: Samples | None = None
    checkpoint: Path | None = None

    def note(self, key: str, value: Any) -> None:
        """A fact for the report of this step: anything that JSON can hold."""
        self.facts[key] = value

    def against(self, artifact: Artifact) -> Context:
        """For a step whose limit is on what it adds, and not on what steps before it have done to the answers."""
        return dataclasses.replace(self, original=artifact)

    def items(self, what: str) -> Samples:
        """Raises UsageError where `what` needs items and none were given."""
        if self.samples is None:
            raise UsageError(f"{what} needs items to calibrate with, none were given", hint="add --calibrate DATA")
        return self.samples


class Pass(Protocol):
    """One technique. `needs_items`: whether it calibrates, with these settings; checked on paper."""

    reads: ClassVar[tuple[str, ...]]
    writes: ClassVar[str | None]

    @property
    def needs_items(self) -> bool: ...

    def __call__(self, artifact: Artifact, context: Context) -> Artifact: ...


@dataclass(frozen=True)
class Recipe:
    name: str
    passes: tuple[Pass, ...]

    def to_json(self) -> dict[str, Any]:
        return {"name": self.name, "passes": [step_json(one) for one in self.passes]}

    def check(self, form: str, has_items: bool) -> str:
        """Follow the forms on paper; returns the last. Raises UsageError naming the step that cannot work."""
        for number, one in enumerate(self.passes, 1):
            name = pass_name(one)
            if form not in one.reads:
                raise UsageError(
                    f"recipe {self.name}, step {number} ({name}): found a model in the form {form}, wanted "
                    f"{' or '.join(one.reads)}"
                    + (": it must stand before what quantizes" if number > 1 else f": a model that {_ALREADY[form]}")
                )
            if one.needs_items and not has_items:
                raise UsageError(
                    f"recipe {self.name}, step {number} ({name}) needs items to calibrate with, none were given",
                    hint="add --calibrate DATA",
                )
            if name == "code" and number != len(self.passes):
                raise UsageError(f"recipe {self.name}, step {number} (code): it must be the last step")
            form = one.writes or form
        return form


def step_json(one: Pass) -> dict[str, Any]:
    """Every setting is written out, so that a later default does not change what a recipe means."""
    fields = dataclasses.fields(one)  # type: ignore[arg-type]  # a protocol cannot say that it is a dataclass
    settings = {each.name: getattr(one, each.name) for each in fields}
    return {"pass": pass_name(one)} | {key: list(v) if isinstance(v, tuple) else v for key, v in settings.items()}


def pass_name(one: Pass) -> str:
    where = f"{type(one).__module__.rpartition('.')[2]}:{type(one).__name__}"
    return next(name for name, place in PASSES.items() if place == where)


def find_pass(name: str) -> type[Any]:
    """Raises UsageError for a name that nothing has."""
    if name not in PASSES:
        near = difflib.get_close_matches(name, PASSES, 1)
        guess = f"; did you mean {near[0]}?" if near else ""
        raise UsageError(f"found the pass {name!r}, wanted one of {', '.join(PASSES)}{guess}")
    module, _, kind = PASSES[name].partition(":")
    found: type[Any] = getattr(importlib.import_module(f"edge_runtime.compress.passes.{module}"), kind)
    return found


def load_recipe(path: Path) -> Recipe:
    """Raises InputError for a file that cannot be read, UsageError for one that says what cannot be done."""
    try:
        plain = json.loads(path.read_text(), object_pairs_hook=_once)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}, wanted a recipe") from error
    except ValueError as error:
        raise InputError(f"{path}: not JSON: {error}") from error
    return read_recipe(plain, str(path))


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    plain = dict(pairs)
    if len(plain) != len(pairs):
        raise ValueError("a key stands twice")
    return plain


def read_recipe(plain: Any, where: str) -> Recipe:
    if not isinstance(plain, Mapping) or set(plain) != {"name", "passes"} or not isinstance(plain["passes"], list):
        found = sorted(plain) if isinstance(plain, Mapping) else type(plain).__name__
        raise UsageError(f'{where}: found {found}, wanted {{"name": ..., "passes": [{{"pass": ...}}, ...]}}')
    name = plain["name"]
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name == "original" or name.endswith("-lite"):
        raise UsageError(
            f"{where}: found the name {str(name)[:80]!r}, wanted up to 64 letters, digits, . _ - (a letter or "
            'digit first), not "original", and no "-lite" at the end'
        )
    if not plain["passes"]:
        raise UsageError(f"{where}: found no passes, wanted at least one", hint="edge-runtime compress --passes")
    return Recipe(
        plain["name"], tuple(_read_pass(one, f"{where}: step {n}") for n, one in enumerate(plain["passes"], 1))
    )


def _read_pass(plain: Any, where: str) -> Pass:
    if not isinstance(plain, Mapping) or not isinstance(plain.get("pass"), str):
        raise UsageError(f'{where}: found {str(plain)[:80]!r}, wanted {{"pass": NAME, its settings}}')
    try:
        kind = find_pass(plain["pass"])
    except UsageError as error:
        raise UsageError(f"{where}: {error.message}") from error
    wanted = get_type_hints(kind)
    fields = {one.name: wanted[one.name] for one in dataclasses.fields(kind)}
    settings = {}
    for key, value in plain.items():
        if key == "pass":
            continue
        if key not in fields:
            known = ", ".join(fields) or "none"
            raise UsageError(f"{where}: {plain['pass']}: found the setting {key!r}, it has {known}")
        settings[key] = _setting(value, fields[key], f"{where}: {plain['pass']}: {key}")
    try:
        made: Pass = kind(**settings)
    except ValueError as error:
        raise UsageError(f"{where}: {plain['pass']}: {error}") from error
    except TypeError as error:
        raise UsageError(f"{where}: {plain['pass']}: a setting is missing: {error}") from error
    return made


def _setting(value: Any, wanted: Any, where: str) -> Any:
    text = str(wanted)
    if isinstance(value, list) and "tuple" in text:
        return tuple(value)
    kinds: dict[str, Any] = {"bool": bool, "int": int, "float": (int, float), "str": str, "None": type(None)}
    fits = any(
        isinstance(value, kind) and (name == "bool" or not isinstance(value, bool))
        for name, kind in kinds.items()
        if name in text
    )
    if not fits:
        shown = text.removeprefix("<class ").strip("<>'")
        raise UsageError(f"{where}: found {value!r}, wanted {shown}")
    if isinstance(value, float | int) and not math.isfinite(float(value)):
        raise UsageError(f"{where}: found {value!r}, wanted a finite number")
    return float(value) if wanted is float else value
