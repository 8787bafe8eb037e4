"""What came out of an item: a `Prediction` where it worked, an `Outcome` always. Their JSON is a promise.

Schema 1 of an outcome, one JSON object a line. Later versions may add fields; they keep these and their meaning.

    schema             1
    item               the path as it was given; in a loop, the name inside the watched folder
    item_digest        BLAKE2b (256 bits) over the item's file names and contents, as they were read
    when               UTC, ISO 8601, seconds
    kind               "slides", "image": which task; its own fields (task/slides.py, task/image.py) stand beside these
    error              null, or {"type", "message", "hint"} and then none of the task's fields
    bundle, bundle_digest, variant, engine, engine_version, device
    variant_digest     SHA-256 of the variant's file in the bundle
    edge_runtime       the version of this package
    threads            of one inference
    device_ram_bytes   the memory limit under which it ran: the profile's budget
    device_digest      SHA-256 over the whole profile, as JSON with sorted keys; of `this-device`, what was probed then
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

The journal adds what it alone knows; the last two on the way out, the others are recorded:

    replaces           the entry of an error in whose place this came (the same contents, or none that could be read)
    earlier_entry      only where the item was recorded before with other contents: the newest such entry
    same_contents_as   only where the same images are recorded under another name, as when a folder was renamed: the
                       first's {"entry", "item"}; to count slides, leave these out
    clock_back_s       only where the device's clock was behind the entry before by so much: order goes by `entry`
    entry, entry_hash  place in the chain (journal_file.py); absent from journals of version 1
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from edge_runtime.errors import EdgeError
from edge_runtime.version import __version__

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
    """Which model on which engine and device answered: what makes a result traceable. None where it is not known."""

    bundle: str
    bundle_digest: str
    variant: str
    engine: str
    engine_version: str
    device: str
    variant_digest: str | None = None
    threads: int | None = None
    device_ram_bytes: int | None = None
    device_digest: str | None = None


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
            message = _as_utf8(self.error.message)
            plain["error"] = {"type": type(self.error).__name__, "message": message, "hint": hint and _as_utf8(hint)}
        origin = self.origin
        plain |= {"bundle": origin.bundle, "bundle_digest": origin.bundle_digest, "variant": origin.variant}
        plain |= {"engine": origin.engine, "engine_version": origin.engine_version, "device": origin.device}
        plain |= {"variant_digest": origin.variant_digest, "edge_runtime": __version__, "threads": origin.threads}
        plain |= {"device_ram_bytes": origin.device_ram_bytes, "device_digest": origin.device_digest}
        plain |= {"latency_ms": self.latency_ms, "peak_ram_bytes": self.peak_ram_bytes, "energy_mj": self.energy_mj}
        return plain | dict(self.extra)


def _as_utf8(text: str) -> str:
    """A path in an error may have bytes that are not UTF-8: they stand as backslash escapes."""
    return text.encode("utf-8", "backslashreplace").decode()
