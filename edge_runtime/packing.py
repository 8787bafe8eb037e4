"""From a folder to a bundle: what an engineer writes, checked against the engines and completed.

The folder holds `bundle.json`, the models and, if there is one, `card.md`:

    {"name": "malaria", "version": "1.0.0", "task": {"kind": "slides", ...}, "labels": [...], "preprocessing": {...},
     "variants": [{"name": "int8", "format": "onnx", "file": "int8.onnx", "recipe": [...], "metrics": {}, "costs": {}}]}

recipe, metrics and costs may be left out (costs are then predicted here, with the workstation's packages, for every
architecture: see compress/costs.py; those that are given stay as they are), and `"coding": "entropy"` put in: then the
variant's weights are stored entropy-coded (here, with the workstation's packages) where that makes the file smaller,
and every device decodes them, exactly. Inputs and outputs are read from the model by an engine, in a guarded child.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from edge_runtime.budget import Cost
from edge_runtime.bundle import Bundle, Decoded, pack, read_bundle
from edge_runtime.coded import WORK_BYTES
from edge_runtime.engine import ENGINES, find_engine, probe
from edge_runtime.errors import BundleError, EngineError
from edge_runtime.guard import Limits
from edge_runtime.outside import refuse_outside
from edge_runtime.program import GuardedProgram
from edge_runtime.task import find_task

Encode = Callable[[bytes, str], tuple[bytes, Decoded]]  # a model file and its format -> what is stored, what it gives
Foresee = Callable[[bytes, str, str], dict[str, dict[str, Any]]]  # a model, its format, a task -> "engine/arch": cost
MANIFEST = "bundle.json"
CARD = "card.md"
_WANTED = {"name", "version", "task", "labels", "preprocessing", "variants"}
_VARIANT_WANTED, _VARIANT_MAY = {"name", "format", "file"}, {"recipe", "metrics", "costs", "coding"}


def pack_folder(folder: Path, out: Path, encode: Encode | None = None, foresee: Foresee | None = None) -> Bundle:
    """Write `out` from `folder`. Every variant is loaded once: a model whose tensors are not what the task feeds, or
    that no engine here reads, is refused. `encode`: of compress.code, for variants that ask for coding; `foresee`: of
    compress.costs, what variants will cost; given from above because the device has no such modules.

    Raises BundleError, EngineError."""
    manifest = _manifest(folder / MANIFEST)
    files: dict[str, bytes] = {}
    coded: dict[str, Decoded] = {}
    variants = []
    to_code = {str(one["file"]) for one in manifest["variants"] if one.pop("coding", None)}
    for one in manifest["variants"]:
        path = _inside(folder, one["file"])
        if path.name not in files:
            files[path.name] = path.read_bytes()
            refuse_outside(files[path.name], one["format"], str(path))
            if path.name in to_code:
                if encode is None:
                    raise BundleError(f"{folder}: {path.name}: found a coding, and nothing here that encodes")
                content, decoded = encode(files[path.name], one["format"])
                if len(content) < len(files[path.name]):  # float weights as trained may even grow
                    files[path.name], coded[path.name] = content, decoded
        made = {"recipe": [], "metrics": {}, "costs": {}, **one, **_tensors(path, one["format"])}
        if foresee and isinstance(made["costs"], dict):
            foreseen = foresee(path.read_bytes(), one["format"], str(manifest["task"].get("kind")))
            made["costs"] = _with_coding(foreseen, path.name in coded) | made["costs"]
        variants.append(made)
    if (folder / CARD).is_file():
        files[CARD] = (folder / CARD).read_bytes()
    # first under a name of its own: only a bundle whose task accepts its models takes the name asked for
    trial = out.with_name(f".{out.name}.trial")
    try:
        bundle = pack(manifest | {"variants": variants}, files, trial, coded)
        task = find_task(bundle)
        for variant in bundle.variants:
            task.check(variant.inputs, variant.outputs)
        trial.replace(out)
    except BundleError as error:
        raise BundleError(error.message.replace(str(trial), str(out)), hint=error.hint) from error
    except OSError as error:
        raise BundleError(f"{out}: {error.strerror}") from error
    finally:
        trial.unlink(missing_ok=True)
    return read_bundle(out)


def _with_coding(costs: dict[str, dict[str, Any]], coded: bool) -> dict[str, dict[str, Any]]:
    more = WORK_BYTES if coded else 0
    return {key: cost | {"ram_bytes": cost["ram_bytes"] + more} for key, cost in costs.items()}


def with_costs(bundle: Bundle, costs: Mapping[str, Mapping[str, Cost]]) -> Bundle:
    """The same bundle under the same name with other costs: by variant, then by "engine/arch"; the rest stays. Raises
    BundleError."""
    variants = []
    for one in bundle.variants:
        known = {key: cost.to_json() for key, cost in {**one.costs, **costs.get(one.name, {})}.items()}
        plain: dict[str, Any] = {"name": one.name, "format": one.format, "file": one.file.name, "costs": known}
        plain |= {"inputs": [spec.to_json() for spec in one.inputs], "metrics": dict(one.metrics)}
        plain |= {"outputs": [spec.to_json() for spec in one.outputs], "recipe": [dict(step) for step in one.recipe]}
        variants.append(plain)
    header = {"name": bundle.name, "version": bundle.version, "task": dict(bundle.task), "variants": variants}
    header |= {"labels": list(bundle.labels), "preprocessing": dict(bundle.preprocessing)}
    files = {}
    with bundle.path.open("rb") as stream:
        for file in bundle.files:
            stream.seek(file.offset)
            files[file.name] = stream.read(file.size)
    return pack(header, files, bundle.path, {one.name: one.coded for one in bundle.files if one.coded})


def load_description(path: Path) -> Bundle:
    """A bundle.json as a bundle without files, for what needs a task, its labels and preprocessing before there is a
    model; `variants` may be missing. Raises BundleError."""
    plain = _manifest(path, variants=False)
    task, labels, preprocessing = plain["task"], plain["labels"], plain["preprocessing"]
    if not isinstance(task, dict) or not isinstance(labels, list) or not isinstance(preprocessing, dict):
        raise BundleError(f"{path}: found task {task!r}, labels {labels!r}, wanted an object and a list")
    name, version = str(plain["name"]), str(plain["version"])
    return Bundle(path, "", 0, name, version, task, tuple(map(str, labels)), preprocessing, (), ())


def _manifest(path: Path, variants: bool = True) -> dict[str, Any]:
    try:
        plain = json.loads(path.read_text())
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror}, wanted a description of the bundle") from error
    except ValueError as error:
        raise BundleError(f"{path}: not JSON: {error}") from error
    found = set(plain) if isinstance(plain, dict) else set()
    if not variants and found >= _WANTED - {"variants"}:
        return dict(plain)
    if found != _WANTED or not isinstance(plain["variants"], list) or not plain["variants"]:
        raise BundleError(f"{path}: found fields {sorted(found)}, wanted {sorted(_WANTED)} with at least one variant")
    for number, one in enumerate(plain["variants"]):
        keys = set(one) if isinstance(one, dict) else set()
        if not keys >= _VARIANT_WANTED or keys - _VARIANT_WANTED - _VARIANT_MAY:
            wanted = f"{sorted(_VARIANT_WANTED)} and maybe {sorted(_VARIANT_MAY)}"
            raise BundleError(f"{path}: variants[{number}]: found {sorted(keys)}, wanted {wanted}")
        if one.get("coding", "entropy") != "entropy" or ("coding" in one and one["format"] not in ("onnx", "tflite")):
            said = f"coding {one.get('coding')!r} of a file of format {one['format']!r}"
            raise BundleError(f'{path}: variants[{number}]: found {said}, wanted "entropy", of onnx or tflite')
    return dict(plain)


def _inside(folder: Path, name: object) -> Path:
    path = folder / str(name)
    if path.parent != folder or not path.is_file():
        raise BundleError(f"{folder / MANIFEST}: found the file {name!r}, wanted the name of one in {folder}")
    return path


def _tensors(path: Path, format_: str) -> dict[str, Any]:
    reasons = []
    for name in ENGINES:
        if format_ not in find_engine(name).FORMATS:
            continue
        if reason := probe(name).reason:
            reasons.append(f"{name}: {reason}")
            continue
        with GuardedProgram(path, name, 1, Limits(), 0) as program:
            return {
                "inputs": [spec.to_json() for spec in program.inputs],
                "outputs": [spec.to_json() for spec in program.outputs],
            }
    why = "; ".join(reasons) or f"no engine reads {format_!r}"
    raise EngineError(f"{path}: its tensors cannot be read: {why}", hint="pip install 'edge-runtime[litert]'")
