"""Which variant on which engine: every candidate with its predicted cost and each objection to it, and the choice.

The choice among what fits: where every fitting candidate has a measured latency for this architecture, the fastest.
Else the device's own order of engines; then 8-bit variants first on cores with integer dot products and float ones
first elsewhere (without them int8 takes more instructions than float on small networks); then the smaller file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edge_runtime.budget import Cost, objections
from edge_runtime.coded import WORK_BYTES
from edge_runtime.cores import allowed_cores
from edge_runtime.engine import ENGINES, find_engine, probe
from edge_runtime.errors import BudgetError, EngineError, UsageError
from edge_runtime.facts import DOT_PRODUCT
from edge_runtime.footprint import task_bytes
from edge_runtime.units import format_bytes, format_ms

if TYPE_CHECKING:
    from edge_runtime.bundle import Bundle, Variant
    from edge_runtime.profile import DeviceProfile

SMALL_MODEL_BYTES = 1 << 20
# A decoded photograph with what its decoder holds (fields are reduced to 3,200 pixels a side at most), and a batch.
ROOM_BYTES = 32 << 20


@dataclass(frozen=True)
class Candidate:
    """A variant on an engine. It fits when there is no objection; `unfit` means over budget and not merely absent.
    `threads` is what was measured to be best, None where nothing was measured."""

    variant: str
    engine: str
    cost: Cost
    objections: tuple[str, ...] = ()
    unfit: bool = False
    threads: int | None = None

    def to_json(self) -> dict[str, Any]:
        return {
            "variant": self.variant,
            "engine": self.engine,
            "cost": self.cost.to_json(),
            "objections": list(self.objections),
            "threads": self.threads,
        }


@dataclass(frozen=True)
class Plan:
    """`candidates` in order of preference, those that fit first; `choice` is the first that fits."""

    bundle: str
    device: str
    allowed_ram_bytes: int
    candidates: tuple[Candidate, ...]
    reason: str

    @property
    def fitting(self) -> tuple[Candidate, ...]:
        return tuple(one for one in self.candidates if not one.objections)

    @property
    def choice(self) -> Candidate | None:
        return next(iter(self.fitting), None)

    def to_json(self) -> dict[str, Any]:
        """What `fit --json` prints; `choice` is null where nothing fits."""
        return {
            "bundle": self.bundle,
            "device": self.device,
            "choice": self.choice.to_json() if self.choice else None,
            "reason": self.reason,
            "candidates": [one.to_json() for one in self.candidates],
        }

    def demand(self) -> tuple[Candidate, ...]:
        """The candidates that fit. Raises BudgetError where a budget stands in the way, else EngineError."""
        if self.fitting:
            return self.fitting
        lines = [f"  {one.variant} on {one.engine}: {'; '.join(one.objections)}" for one in self.candidates]
        text = "\n".join([f"{self.bundle}: nothing in it runs on {self.device}:", *lines])
        hint = f"edge-runtime fit {self.bundle} --device {self.device}"
        over = [one for one in self.candidates if one.unfit]
        if not over:
            raise EngineError(text, hint="edge-runtime doctor")
        least = min(one.cost.ram_bytes for one in over)
        raise BudgetError(text, hint=hint, predicted_bytes=least, allowed_bytes=self.allowed_ram_bytes)


def usual_threads(model_bytes: int, device: DeviceProfile) -> int:
    """The device's, but one for a small model: waking a second thread costs more than it computes."""
    return 1 if model_bytes < SMALL_MODEL_BYTES else min(device.threads, allowed_cores())


def is_roomy(ram_bytes: int, device: DeviceProfile) -> bool:
    """Whether beside the `ram_bytes` of the model's process, as measured without, the device's memory has room for what
    makes it faster: inputs in batches, and one more photograph decoded ahead."""
    return device.budget.ram_bytes - ram_bytes >= ROOM_BYTES


def predict_cost(bundle: Bundle, variant: Variant, engine: str, arch: str) -> Cost:
    """The cost in the bundle for this engine and architecture, measured there or predicted when it was packed; else
    another architecture's memory, or an estimate from the model's size in memory; `basis` and `where` say which.

    Storage is the bundle as it is stored: coded weights are decoded in memory and never written, so there they count
    decoded."""
    measured = variant.costs.get(f"{engine}/{arch}")
    if measured is not None:
        return Cost(measured.ram_bytes, bundle.size, measured.latency_ms, None, measured.basis, measured.where)
    elsewhere = [(key, one) for key, one in sorted(variant.costs.items()) if key.split("/")[0] == engine]
    if elsewhere:
        key, other = max(elsewhere, key=lambda pair: pair[1].ram_bytes)
        return Cost(other.ram_bytes, bundle.size, where=f"memory as {other.basis} on {key.split('/')[1]}")
    ram = find_engine(engine).ram_bytes(variant.file.read_bytes, arch) + task_bytes(str(bundle.task.get("kind")))
    if variant.file.coded:
        ram += WORK_BYTES
        return Cost(ram, bundle.size, where="from the decoded model's size")
    return Cost(ram, bundle.size, where="from the model's size")


def plan(
    bundle: Bundle,
    device: DeviceProfile,
    *,
    engine: str | None = None,
    variant: str | None = None,
    here: bool = False,
) -> Plan:
    """Every variant x engine on `device`. `here`: it is to run on this machine now, so an engine that is missing or
    does not work here is an objection. `engine` and `variant` restrict the choice. Raises UsageError, BundleError."""
    if engine is not None:
        find_engine(engine)
    variants = [bundle.variant(variant)] if variant is not None else list(bundle.variants)
    # the null engine answers nonsense, so it is taken only where it is asked for
    engines = [engine] if engine else [name for name in ENGINES if name != "null" or _only_null(bundle)]
    made = [
        _candidate(bundle, one, name, device, here)
        for one in variants
        for name in engines
        if one.format in find_engine(name).FORMATS
    ]
    if not made:
        formats = ", ".join(f"{one.name} ({one.format})" for one in variants)
        raise UsageError(f"{bundle.path}: found variants {formats}, none of which engine {engine} reads")
    fastest = all(one.cost.latency_ms is not None for one in made if not one.objections)
    return Plan(
        str(bundle.path),
        device.name,
        device.budget.ram_bytes,
        tuple(sorted(made, key=lambda one: _rank(one, bundle, device, fastest))),
        _reason(device, fastest),
    )


def _only_null(bundle: Bundle) -> bool:
    return all(one.format == "null" for one in bundle.variants)


def _candidate(bundle: Bundle, variant: Variant, engine: str, device: DeviceProfile, here: bool) -> Candidate:
    cost = predict_cost(bundle, variant, engine, device.arch)
    over = objections(cost, device.budget)
    against = list(over)
    if engine not in device.engines and engine != "null":
        wanted = ", ".join(device.engines) or "no engine"
        why = " (it has no wheel for 32-bit ARM)" if (engine, device.arch) == ("onnxruntime", "armv7l") else ""
        against.append(f"engine: {device.name} has {wanted}{why}")
    elif here and (reason := probe(engine).reason):
        against.append(f"engine: does not work here: {reason}")
    return Candidate(variant.name, engine, cost, tuple(against), bool(over))


def _rank(one: Candidate, bundle: Bundle, device: DeviceProfile, fastest: bool) -> tuple[Any, ...]:
    variant = bundle.variant(one.variant)
    order = device.engines.index(one.engine) if one.engine in device.engines else len(device.engines)
    int8_first = not set(DOT_PRODUCT).isdisjoint(device.features)
    misplaced = is_int8(variant) != int8_first
    latency = one.cost.latency_ms if fastest and one.cost.latency_ms is not None else 0.0
    return bool(one.objections), latency, order, misplaced, variant.file.size, one.variant


def is_int8(variant: Variant) -> bool:
    """Whether its recipe quantizes the activations to 8 bits, so that it computes in integers."""
    return any(step.get("activations") in ("int8", "uint8") for step in variant.recipe)


def _reason(device: DeviceProfile, fastest: bool) -> str:
    if fastest:
        return f"the lowest measured latency on {device.arch}"
    first = next(iter(device.engines), "none")
    if not set(DOT_PRODUCT).isdisjoint(device.features):
        return f"{first} is the device's first engine; its cores have integer dot products, so int8 comes first"
    return f"{first} is the device's first engine; its cores have no integer dot product, so float comes first"


def explain(found: Plan) -> Iterable[str]:
    """The plan as lines of text: the choice and why, then every candidate with its cost and objections."""
    choice = found.choice
    if choice is None:
        yield f"{found.device}: nothing fits"
    else:
        yield f"{found.device}: {choice.variant} on {choice.engine} ({found.reason})"
    for one in found.candidates:
        cost: Mapping[str, Any] = one.cost.to_json()
        ram = f"{format_bytes(cost['ram_bytes'])} RAM"
        fast = f", {format_ms(cost['latency_ms'])}" if cost["latency_ms"] is not None else ""
        fast += f" on {one.threads} thread{'s' if one.threads > 1 else ''}" if one.threads else ""
        about = f"{cost['basis']}{', ' + cost['where'] if cost['where'] else ''}"
        mark = "->" if one is choice else "ok" if not one.objections else "no"
        yield (
            f"  {mark} {one.variant:<16} {one.engine:<12} {ram:>13} ({about}), "
            f"{format_bytes(cost['storage_bytes'])} on disk{fast}"
        )
        for objection in one.objections:
            yield f"       {objection}"
