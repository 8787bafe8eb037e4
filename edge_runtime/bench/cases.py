"""What is to be measured: model x variant x engine x threads, each one a case with a label of its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from edge_runtime.bundle import Bundle, load_bundle
from edge_runtime.digest import sha256
from edge_runtime.engine import ENGINES, check_threads, find_engine, format_of, probe
from edge_runtime.errors import EngineError, UsageError
from edge_runtime.planner import is_roomy, predict_cost, usual_threads
from edge_runtime.profile import DeviceProfile


@dataclass(frozen=True)
class Case:
    """One configuration. `bundle` is None for a bare model file, and then so is `variant`."""

    label: str
    path: Path
    bundle: Bundle | None = field(repr=False)
    variant: str | None
    format: str
    engine: str
    threads: int
    model_sha256: str
    model_bytes: int
    ram_bytes: int  # predicted
    roomy: bool = False
    # what serves it in the child, and what else that is told
    target: str = "edge_runtime.timing:serve_timing"
    extra: tuple[tuple[str, Any], ...] = ()

    def spec(self, shapes: dict[str, list[int]]) -> dict[str, Any]:
        """What timing.serve_timing takes."""
        plain: dict[str, Any] = {"engine": self.engine, "threads": self.threads, "shapes": shapes}
        plain |= {"predicted_bytes": self.ram_bytes, **dict(self.extra)}
        if self.bundle:
            return (
                plain
                | {"bundle": str(self.path.resolve()), "digest": self.bundle.digest, "variant": self.variant}
                | {"roomy": self.roomy}
            )
        return plain | {"model": str(self.path.resolve())}

    def subject(self) -> dict[str, Any]:
        """As rows.py says."""
        named = f"{self.bundle.name} {self.bundle.version}" if self.bundle else None
        return {
            "path": self.path.name,
            "bundle": named,
            "digest": self.bundle.digest if self.bundle else self.model_sha256,
            "variant": self.variant,
            "format": self.format,
            "model_sha256": self.model_sha256,
            "model_bytes": self.model_bytes,
            "bundle_bytes": self.bundle.size if self.bundle else None,
        }


def find_cases(
    models: Iterable[str],
    device: DeviceProfile,
    *,
    variants: Sequence[str] = (),
    engines: Sequence[str] = (),
    threads: Sequence[int] = (),
) -> list[Case]:
    """The cross product. Left out: every variant, every engine that reads the format and works here, and as many
    threads as a session would take. Raises UsageError where nothing is left, BundleError, EngineError."""
    for count in threads:
        check_threads(count)
    for engine in engines:
        find_engine(engine)
    found: list[Case] = []
    reasons: list[str] = []
    models = list(models)
    for model in models:
        for make, form, name in _contents(model, variants):
            for engine in engines or [one for one in ENGINES if one != "null" or form == "null"]:
                if form not in find_engine(engine).FORMATS:
                    continue
                if reason := probe(engine).reason:
                    reasons.append(f"{engine}: {reason}")
                    continue
                found += [make(engine, count, device) for count in threads or [0]]
            reasons += [] if found else [f"{name} ({form}): no engine asked for reads it"]
    if not found:
        error = EngineError if any(": no engine asked" not in one for one in reasons) else UsageError
        raise error(f"{', '.join(models)}: nothing to measure: {'; '.join(dict.fromkeys(reasons))}")
    return _named_apart(found)


def _contents(model: str, variants: Sequence[str]) -> Iterator[tuple[Any, str, str]]:
    if Path(model).suffix.lower() in (".onnx", ".ort", ".tflite", ".null"):
        path = Path(model)
        if not path.is_file():
            raise UsageError(f"{path}: found no file there, wanted a bundle or an ONNX or TFLite model")
        if variants:
            raise UsageError(f"{path}: found a bare model, which has no variants: leave --variant out")
        yield partial(_of_file, path, sha256(path.read_bytes()).hexdigest()), format_of(path), path.name
        return
    bundle = load_bundle(model)
    for one in [bundle.variant(name) for name in variants] or bundle.variants:
        yield partial(_of_bundle, bundle, one.name), one.format, one.name


def _of_file(path: Path, digest: str, engine: str, threads: int, device: DeviceProfile) -> Case:
    size = path.stat().st_size
    threads = threads or usual_threads(size, device)
    ram = find_engine(engine).ram_bytes(size, device.arch)
    label = _label(path.name, engine, threads)
    return Case(label, path, None, None, format_of(path), engine, threads, digest, size, ram)


def _of_bundle(bundle: Bundle, name: str, engine: str, threads: int, device: DeviceProfile) -> Case:
    one = bundle.variant(name)
    threads = threads or usual_threads(one.file.read_bytes, device)
    ram = predict_cost(bundle, one, engine, device.arch).ram_bytes
    label = _label(name, engine, threads)
    roomy = is_roomy(ram, device)
    return Case(label, bundle.path, bundle, name, one.format, engine, threads, one.sha256, one.file.size, ram, roomy)


def _label(name: str, engine: str, threads: int) -> str:
    return f"{name} on {engine}, {threads} thread{'s' if threads > 1 else ''}"


def _named_apart(cases: list[Case]) -> list[Case]:
    """Two bundles may each have an "int8": then the label has the file, and where that is the same, its folder."""
    for place in (1, 2):
        labels = [one.label for one in cases]
        if len(set(labels)) == len(labels):
            break
        cases = [
            replace(one, label="/".join([*one.path.with_suffix("").parts[-place:], one.label]))
            if labels.count(one.label) > 1
            else one
            for one in cases
        ]
    return list({one.label: one for one in cases}.values())
