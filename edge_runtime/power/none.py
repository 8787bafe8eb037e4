"""No meter, and a power that the user states: its figures are "modelled", never measured."""

from __future__ import annotations

from pathlib import Path

from edge_runtime.errors import UsageError
from edge_runtime.power.meter import MODELLED, MeterSettings, PowerMeter, Reading, Sensor


class Stated:
    """Constant watts, as somebody read them off another instrument or a data sheet."""

    def __init__(self, watts: float) -> None:
        about = f"{watts:g} W all the time, as stated by the user; not measured"
        self.sensor = Sensor("modelled", about, 1.0, accuracy=None, basis=MODELLED)
        self._watts = watts

    def read(self) -> Reading:
        return Reading(self._watts)

    def close(self) -> None:
        pass


def open_meter(settings: MeterSettings, root: Path) -> PowerMeter | None:
    """None without stated watts. Raises UsageError for watts that are not more than nothing."""
    if settings.watts is None:
        return None
    if not settings.watts > 0:
        raise UsageError(f"meter: found {settings.watts:g} W stated, wanted more than 0")
    return Stated(settings.watts)
