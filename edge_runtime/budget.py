"""Does it fit? The only place where costs meet budgets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from edge_runtime.units import format_bytes, format_ms

if TYPE_CHECKING:
    from edge_runtime.profile import Budget

MEASURED, ESTIMATED = "measured", "estimated"


class Cost(NamedTuple):
    """What a variant needs on an engine. `ram_bytes` is the peak resident memory of the whole process that runs it,
    `storage_bytes` what lies on disk for it. `basis` is "measured" or "estimated", with `where` saying how."""

    ram_bytes: int
    storage_bytes: int
    latency_ms: float | None = None
    energy_mj: float | None = None
    basis: str = ESTIMATED
    where: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            "ram_bytes": self.ram_bytes,
            "storage_bytes": self.storage_bytes,
            "latency_ms": self.latency_ms,
            "energy_mj": self.energy_mj,
            "basis": self.basis,
            "where": self.where,
        }

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Cost:
        """Raises ValueError, KeyError or TypeError where a figure is missing, negative or no number."""
        latency, energy = (None if plain.get(key) is None else float(plain[key]) for key in ("latency_ms", "energy_mj"))
        ram, storage = int(plain["ram_bytes"]), int(plain["storage_bytes"])
        if min(ram, storage, latency or 0, energy or 0) < 0 or plain["basis"] not in (MEASURED, ESTIMATED):
            raise ValueError(f"found {dict(plain)}")
        return cls(ram, storage, latency, energy, plain["basis"], str(plain.get("where", "")))


def objections(cost: Cost, budget: Budget) -> tuple[str, ...]:
    """Each way in which `cost` breaks `budget`, as a sentence; empty when it fits."""
    found: list[str] = []
    for what, need, allowed in (
        ("memory", cost.ram_bytes, budget.ram_bytes),
        ("storage", cost.storage_bytes, budget.storage_bytes),
    ):
        if need > allowed:
            needs = f"{what}: needs {format_bytes(need)} ({cost.basis})"
            found.append(f"{needs}, the device allows {format_bytes(allowed)}")
    if budget.latency_ms is not None and cost.latency_ms is not None and cost.latency_ms > budget.latency_ms:
        found.append(
            f"latency: takes {format_ms(cost.latency_ms)} ({cost.basis}), allowed {format_ms(budget.latency_ms)}"
        )
    if budget.energy_mj is not None and cost.energy_mj is not None and cost.energy_mj > budget.energy_mj:
        found.append(f"energy: takes {cost.energy_mj:.3g} mJ ({cost.basis}), allowed {budget.energy_mj:.3g} mJ")
    return tuple(found)
