"""What a run may write over: what an earlier run wrote there and its report lists as it still is, and nothing else.

Checked before any work, and once more when the names of all files are known: never is an input written over, nor a file
of somebody else's that happens to have the name of a result.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_runtime.compress.candidates import FAMILIES, REPAIR
from edge_runtime.digest import sha256
from edge_runtime.errors import BundleError, UsageError

if TYPE_CHECKING:
    from edge_runtime.compress.run import Job

_WORDS = {"as_is", REPAIR, *(rung for family in FAMILIES for rung, _ in family.ladder)}


def report_of(out: Path) -> Path:
    """Where the report of a bundle or a folder stands; its page lies beside it."""
    return out.with_suffix(".report.json") if out.suffix == ".edge" else out / "report.json"


def earlier(out: Path) -> set[Path]:
    """The models and the bundle that an earlier report lists, as long as they are what it says."""
    report = _report(report_of(out)) or {}
    try:
        if out.suffix == ".edge":
            return {out} if _is_bundle(out, report["bundle"]) else set()
        listed = {f"{row['name']}.{row['format']}": str(row["sha256"]) for row in report["variants"]}
        places = {out / name: digest for name, digest in listed.items() if Path(name).name == name}
        return {path for path, digest in places.items() if path.is_file() and _sha256(path) == digest}
    except (OSError, KeyError, TypeError):
        return set()


def files_of(job: Job, form: str) -> list[Path]:
    """Where the job's recipes write models, as products.forms calls them."""
    if job.out.suffix == ".edge":
        return [job.out]
    return [job.out / f"{one.name}{end}" for one in job.recipes for end in _ends(form, job)]


def files_of_search(job: Job, form: str) -> list[Path]:
    """Models that stand there under names that a search, perhaps of the job's recipes alone, may give to its own."""
    if job.out.suffix == ".edge":
        return [job.out]
    found, given = [], {one.name for one in job.recipes}
    for path in job.out.glob("*"):
        for end in _ends(form, job):
            name = path.name.removesuffix(end)
            own = name in given | {"as_is"} if given else set(name.split("-")) <= _WORDS
            if own and path.name.endswith(end):
                found.append(path)
    return found


def _ends(form: str, job: Job) -> list[str]:
    if form == "tflite":
        return [".tflite"]
    return [
        end for end, engine in ((".onnx", "onnxruntime"), ("-lite.tflite", "litert")) if engine in job.target.engines
    ]


def refuse_overwriting(job: Job, models: Sequence[Path], test: Path | None = None) -> None:
    """`models`: where models or the bundle will be written. Raises UsageError."""
    own, report = earlier(job.out), report_of(job.out)
    written = [job.out, *models, *own, report, report.with_suffix(".html")]
    given = {"model": job.model, "--like": job.like, "--calibrate": job.calibrate, "--judge": job.judge}
    for what, path in (given | {"--train": job.train, "--test": test}).items():
        for place in written:
            if isinstance(path, Path) and _same(path, place):
                raise UsageError(
                    f"-o {job.out}: found {place}, which is {'the model' if what == 'model' else what} too, and would "
                    "be written over or cleared away: wanted another place",
                    hint=f"-o {_another(job.out)}",
                )
    strange = [place for place in models if _there(place) and place not in own]
    if _report(report) is None:
        strange += [place for place in (report, report.with_suffix(".html")) if _there(place)]
    if strange:
        raise UsageError(
            f"{', '.join(map(str, strange[:3]))}: found there what {report} does not list as it is, wanted nothing in "
            "the way but what an earlier run wrote",
            hint=f"move it away, or -o {_another(job.out)}",
        )


def _another(out: Path) -> Path:
    place = out if out.name else Path("out")
    return place.with_name(f"{place.stem}-small{place.suffix}")


def _same(path: Path, place: Path) -> bool:
    """Also by another name, of a link."""
    try:
        return path.samefile(place)
    except OSError:
        return False


def _there(path: Path) -> bool:
    return path.exists() or path.is_symlink()


def _sha256(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


def _report(path: Path) -> dict[str, Any] | None:
    """None where it is not compress's own."""
    try:
        plain = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    ours = isinstance(plain, dict) and isinstance(plain.get("variants"), list) and "schema" in plain
    return plain if ours and "recipes" in plain else None


def _is_bundle(path: Path, listed: dict[str, Any]) -> bool:
    from edge_runtime.bundle import read_bundle

    try:
        return (path.stat().st_size, read_bundle(path).digest) == (listed["bytes"], listed["digest"])
    except (OSError, BundleError):
        return False
