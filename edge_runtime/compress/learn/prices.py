"""What an architecture is predicted to take on a device, from its paper alone: no file is written and nothing is run.

RAM is edge_runtime/footprint.py's law of the device's first engine. Latency comes from the profile's operator table
where it has one for that engine, else there is none, and MACs and bytes stand for it. All of it is estimated: what is
finally chosen is exported and read again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from edge_runtime.budget import ESTIMATED, Cost, objections
from edge_runtime.compress.learn.sheet import Paper
from edge_runtime.errors import UsageError
from edge_runtime.footprint import LAWS, predict
from edge_runtime.operators import predict as predict_latency
from edge_runtime.profile import Budget, DeviceProfile
from edge_runtime.units import format_bytes

FORMS = ("float", "int8")
# Bytes of a file beside its weights: for each operator, and for each bias (its own, and the scales of its channel).
# Read off the files of three separable nets of 2,009 to 11,601 parameters, which they give within 10 %.
_BESIDE = {
    ("onnxruntime", "float"): (250, 4),
    ("litert", "float"): (285, 4),
    ("onnxruntime", "int8"): (830, 10),
    ("litert", "int8"): (540, 22),
}


@dataclass(frozen=True)
class Limits:
    """Tighter than the device's own budget; None for no such limit. `stored_bytes`: of the model file."""

    stored_bytes: int | None = None
    ram_bytes: int | None = None
    macs: int | None = None
    latency_ms: float | None = None


NO_LIMITS = Limits()


@dataclass(frozen=True)
class Price:
    """Of one architecture on one device; `form` is float or int8."""

    engine: str
    form: str
    parameters: int
    macs: int
    stored_bytes: int
    ram_bytes: int
    latency_ms: float | None
    basis: str = ESTIMATED


def price(paper: Paper, device: DeviceProfile, form: str = "int8", task: str | None = None) -> Price:
    """`task`: the kind of the bundle that the model goes into. Raises UsageError for a form that is not known."""
    if form not in FORMS:
        raise UsageError(f"found the form {form!r}, wanted float or int8")
    engine = next(one for one in device.engines if one in LAWS)
    each, bias = _BESIDE[engine, form]
    weights = paper.conv_numbers + paper.matrix_numbers
    stored = (1 if form == "int8" else 4) * weights + bias * paper.other_numbers + each * paper.operators
    parts = paper.parts(stored)
    if form == "int8":
        parts = parts._replace(
            conv_bytes=0,
            matrix_bytes=0,
            int8_bytes=weights,
            rest_bytes=8 * paper.other_numbers,
            activation_bytes=parts.activation_bytes // 4,
        )
    return Price(
        engine,
        form,
        paper.parameters,
        paper.macs,
        stored,
        predict(engine, device.arch, parts, task),
        _latency(paper, device, engine, form),
    )


def _latency(paper: Paper, device: DeviceProfile, engine: str, form: str) -> float | None:
    """None without a table, or where the table lacks a kind that the architecture needs."""
    table = next((one for one in device.operators if one.engine == engine), None)
    if table is None:
        return None
    dtypes = ("float32",) if form == "float" else (("uint8",) if engine == "onnxruntime" else ("int8",))
    found = predict_latency(table, [replace(node, dtype=dtypes[0]) for node in paper.nodes])
    return None if found.unknown else found.latency_ms


def refusals(one: Price, budget: Budget, limits: Limits = NO_LIMITS) -> tuple[str, ...]:
    """Each way in which an architecture breaks the device's budget or the tighter limits; empty where it fits.

    Raises UsageError for a limit in milliseconds where no latency can be predicted."""
    wanted = limits.latency_ms if limits.latency_ms is not None else budget.latency_ms
    if limits.latency_ms is not None and one.latency_ms is None:
        raise UsageError(
            f"found a limit of {limits.latency_ms:g} ms and no operator table of {one.engine} in the device's profile",
            hint="limit MACs instead, or run on the device: edge-runtime doctor --calibrate --write-profile",
        )
    tight = Budget(
        budget.ram_bytes if limits.ram_bytes is None else min(budget.ram_bytes, limits.ram_bytes),
        budget.storage_bytes if limits.stored_bytes is None else min(budget.storage_bytes, limits.stored_bytes),
        wanted,
    )
    found = list(objections(Cost(one.ram_bytes, one.stored_bytes, one.latency_ms, None, one.basis), tight))
    if limits.macs is not None and one.macs > limits.macs:
        found.append(f"MACs: takes {one.macs:,}, allowed {limits.macs:,}")
    return tuple(found)


@lru_cache(maxsize=100_000)
def paper_of(builder: Any) -> Paper:
    """Searches ask for the same architecture again and again."""
    found: Paper = builder.paper()
    return found


def words(one: Price) -> str:
    """For people."""
    fast = f", {one.latency_ms:.3g} ms" if one.latency_ms is not None else ""
    return (
        f"{one.parameters:,} parameters, {one.macs / 1e6:.2f} million MACs, {format_bytes(one.stored_bytes)} stored, "
        f"{format_bytes(one.ram_bytes)} RAM{fast} ({one.basis})"
    )
