"""What a race of candidates found, and where it is kept for the next time: one small file of the user's.

It is a memory only: a file that is damaged, old or not there means that it is measured again.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_runtime.cores import allowed_cores
from edge_runtime.planner import Plan
from edge_runtime.sensors import read_state
from edge_runtime.version import __version__

if TYPE_CHECKING:
    from edge_runtime.bundle import Bundle

_SCHEMA = 1
_MOST_KEPT = 64  # bundles x machines in the file


@dataclass(frozen=True)
class Lap:
    """What was measured of one candidate: milliseconds an input, in the batches a session infers."""

    variant: str
    engine: str
    threads: int
    ms: float

    @property
    def label(self) -> str:
        return f"{self.variant} on {self.engine}, {self.threads} thread{'s' if self.threads > 1 else ''}"


@dataclass(frozen=True)
class Learned:
    """The outcome of a race: `laps` fastest first, `choice` taken, and by how much it beat the default."""

    bundle_digest: str
    machine: str
    circumstances: dict[str, Any]
    laps: tuple[Lap, ...]
    choice: Lap
    default: Lap
    ratio: float
    when: str
    failed: dict[str, str]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> Learned:
        """Raises KeyError, TypeError or ValueError for anything else."""
        laps = tuple(Lap(**one) for one in plain["laps"])
        named = {"laps": laps, "choice": Lap(**plain["choice"]), "default": Lap(**plain["default"])}
        return cls(**{**plain, **named})

    @property
    def question(self) -> tuple[str, str, str]:
        """What was asked: of which bundle, on which machine and cores, among which candidates and threads. What is
        learned of the same question takes the older answer's place."""
        asked = {key: self.circumstances.get(key) for key in ("candidates", "threads", "cores")}
        return self.bundle_digest, self.machine, json.dumps(asked, sort_keys=True)


# ---------------------------------------------------------------- what was learned before


def learned_file() -> Path:
    """EDGE_RUNTIME_CACHE, else the user's cache folder."""
    folder = os.environ.get("EDGE_RUNTIME_CACHE")
    if folder:
        return Path(folder, "learned.json")
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    return Path(cache, "edge_runtime", "learned.json")


def recall(bundle: Bundle, now: dict[str, Any], machine_id: str) -> Learned | None:
    """What was learned of this bundle on this machine in these circumstances; None where nothing was, or where the
    file cannot be read: it is only a memory, and what it says can be measured again."""
    for one in _read_all():
        if (one.bundle_digest, one.machine, one.circumstances) == (bundle.digest, machine_id, now):
            return one
    return None


def _read_all() -> list[Learned]:
    try:
        plain = json.loads(learned_file().read_bytes())
        if plain["schema"] != _SCHEMA:
            return []
        return [Learned.from_json(one) for one in plain["learned"]]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []


def remember(found: Learned) -> bool:
    """Keep it, in the place of the older answer to the same question. False where the file cannot be
    written: a full disk or a read-only home must not stop a slide from being read."""
    kept = [one for one in _read_all() if one.question != found.question]
    plain = {"schema": _SCHEMA, "learned": [one.to_json() for one in [*kept, found][-_MOST_KEPT:]]}
    path = learned_file()
    beside = path.with_name(f"{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside.write_text(json.dumps(plain, indent=1))
        os.replace(beside, path)
    except OSError:
        with contextlib.suppress(OSError):
            beside.unlink()
        return False
    return True


def circumstances(plan: Plan, threads: int | None) -> dict[str, Any]:
    """What the outcome of a race may hang on, beside the machine and the bundle, as plain JSON; cheap to ask."""
    versions = {engine: _installed(engine) for engine in sorted({one.engine for one in plan.fitting})}
    return {
        "edge_runtime": __version__,
        "engines": versions,
        "governor": read_state().governor,
        "cores": sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else allowed_cores(),
        "candidates": sorted(f"{one.variant} on {one.engine}" for one in plan.fitting),
        "threads": threads,
    }


def _installed(engine: str) -> str | None:
    """The package behind an engine and its version, by the name of its metadata folder: reading the metadata itself
    would load a parser of e-mails, and importing the engine its library."""
    packages = {"onnxruntime": ("onnxruntime",), "litert": ("ai-edge-litert", "tflite-runtime")}.get(engine, ())
    for package in packages:
        for folder in sys.path:
            try:
                names = os.listdir(folder or ".")
            except OSError:
                continue
            for name in names:
                stem, _, ending = name.rpartition(".")
                if ending == "dist-info" and stem.rpartition("-")[0].replace("_", "-").lower() == package:
                    return stem
    return None
