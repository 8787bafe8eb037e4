"""What came out of an item: a `Prediction` where it worked, an `Outcome` always. Their JSON is a promise.

Schema 1 of an outcome, one JSON object a line. Later versions may add fields; they keep these and their meaning.

    schema             1
    item               the path as it was given; in a loop, the name inside the watched folder
    item_digest        BLAKE2b (256 bits) over the item's file names and contents, as they were read
    when               UTC, ISO 8601, seconds
    kind               "slides", "image": which task; its own fields (task/slides.py, task/image.py) stand beside these
    error              null, or {"type", "message", "hint"} and then none of the task's fields
    bundle, bundle_digest, variant, engine, engine_version, device
    latency_ms         wall time of this item in the child: decode, preprocess, infer, decide
    peak_ram_bytes     peak resident memory of the child process so far
    energy_mj          gross: all that the meter saw while the item was read, idle and other programs included; null
                       where no meter is read, and where its figure must not be used (on charge, the meter failing)
    energy             only where a meter is read: {"basis": "measured:METER" or "modelled", "uncertainty_mj": one
                       standard deviation, null where nobody knows it, "notes": what to mind, and why there is none}
    passed_over        only where engines or variants that come first in the plan did not start: which, and why
    fell_back          only where memory stopped the model on this item before: a list, in order, of {"variant",
                       "engine", "lean": one image at a time, "predicted_bytes", "allowed_bytes", "measured_bytes"};
                       `variant` and `engine` are those that gave the verdict, or the error, in the end
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edge_runtime.errors import EdgeError

SCHEMA = 1


@dataclass(frozen=True)
class Prediction:
    """What a task decided: `fields` are its own, in the order in which a person reads them; `summary` is one line."""

    kind: str
    summary: str
    fields: Mapping[str, Any]

    def __str__(self) -> str:
        return self.summary


@dataclass(frozen=True)
class Origin:
    """Which model on which engine and device answered: what makes a result traceable."""

    bundle: str
    bundle_digest: str
    variant: str
    engine: str
    engine_version: str
    device: str


@dataclass(frozen=True)
class Outcome:
    """One item read, or the reason why not. Exactly one of `prediction` and `error` is set."""

    item: str
    item_digest: str
    when: str
    origin: Origin
    prediction: Prediction | None
    error: EdgeError | None = None
    latency_ms: float | None = None
    peak_ram_bytes: int | None = None
    energy_mj: float | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The documented object; everything in it is a plain JSON type."""
        plain: dict[str, Any] = {"schema": SCHEMA, "item": self.item, "item_digest": self.item_digest}
        plain |= {"when": self.when, "kind": self.prediction.kind if self.prediction else None, "error": None}
        if self.prediction:
            plain |= self.prediction.fields
        if self.error:
            hint = self.error.hint
            plain["error"] = {"type": type(self.error).__name__, "message": self.error.message, "hint": hint}
        origin = self.origin
        plain |= {"bundle": origin.bundle, "bundle_digest": origin.bundle_digest, "variant": origin.variant}
        plain |= {"engine": origin.engine, "engine_version": origin.engine_version, "device": origin.device}
        plain |= {"latency_ms": self.latency_ms, "peak_ram_bytes": self.peak_ram_bytes, "energy_mj": self.energy_mj}
        return plain | dict(self.extra)
