"""What the device takes: power meters, energy between two moments, and what it means for a battery.

    with Recorder(open_meter("ina219", MeterSettings(shunt_ohms=0.1))) as recorder:
        idle = recorder.idle(60)
        start = recorder.mark()
        ...
        gross = recorder.energy(start, recorder.mark())
        item = joules_per_item(net(gross, idle), items=1000)

A meter is a module named as its users name it, with `open_meter(settings, root)`. Every figure says its basis,
"measured:NAME" or "modelled", and its uncertainty; a permission that is missing gives the command that grants it.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from edge_runtime.errors import UsageError
from edge_runtime.power.energy import (
    Energy,
    Idle,
    battery_hours,
    battery_hours_for,
    battery_joules,
    items_per_percent,
    joules_per_item,
    net,
    percent_per_items,
    total,
)
from edge_runtime.power.meter import MODELLED, MeterSettings, PowerMeter, Reading, Sample, Sensor
from edge_runtime.power.recorder import Mark, Recorder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

METERS = ("none", "battery", "termux", "ina219", "pmic", "rapl", "log", "modelled")
AUTO = "auto"
_HOME = {"modelled": "none"}
__all__ = [
    "METERS",
    "MODELLED",
    "Energy",
    "Idle",
    "Mark",
    "MeterSettings",
    "PowerMeter",
    "Reading",
    "Recorder",
    "Sample",
    "Sensor",
    "battery_hours",
    "battery_hours_for",
    "battery_joules",
    "detect_meter",
    "find_meter",
    "items_per_percent",
    "joules_per_item",
    "net",
    "open_meter",
    "percent_per_items",
    "total",
]


class MeterModule(Protocol):
    """What a file in this folder offers."""

    def open_meter(self, settings: MeterSettings, root: Path) -> PowerMeter | None: ...


def find_meter(name: str) -> MeterModule:
    """The module of a meter. Raises UsageError for a name that is none."""
    if name not in METERS:
        raise UsageError(f"meter: found {name!r}, wanted one of {', '.join((AUTO, *METERS))}")
    module: MeterModule = import_module(f"{__name__}.{_HOME.get(name, name)}")
    return module


def open_meter(name: str, settings: MeterSettings | None = None, root: Path = Path("/")) -> PowerMeter | None:
    """A meter ready to be read; None for "none", and for "auto" where this device has none.

    Raises MeterError where it is missing or may not be read, UsageError for settings that make no sense.
    """
    settings = settings or MeterSettings()
    return find_meter(detect_meter(root) if name == AUTO else name).open_meter(settings, root)


def detect_meter(root: Path = Path("/")) -> str:
    """The meter that this device has and that can be read now; "none" where there is none. The nearest to the whole
    device's input comes first, and those that need a setting are never guessed."""
    from edge_runtime.power import battery, ina219, pmic, rapl, termux

    finders: Sequence[tuple[str, Callable[[Path], object]]] = (
        ("ina219", ina219.hwmon_chips),
        ("pmic", pmic.has_pmic),
        ("battery", battery.can_tell),
        ("termux", termux.find_command),
        ("rapl", rapl.can_read),
    )
    return next((name for name, find in finders if find(root)), "none")
