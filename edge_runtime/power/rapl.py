"""Intel's and AMD's energy counters, /sys/class/powercap/intel-rapl:N/energy_uj (the name is the same for AMD).

intel-rapl:0 is a package; intel-rapl:0:0 a part inside it (cores, DRAM): packages are summed, and of the parts only a
DRAM that is not inside, and "psys", the whole platform, in place of all others where there is one. Counters are
32 bits of the chip's unit and start again at max_energy_range_uj; read often enough, a wrap is told from a step back.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.errors import MeterError
from edge_runtime.power.meter import MeterSettings, PowerMeter, Reading, Sensor
from edge_runtime.sensors import folders, read_int, read_text

PERIOD_S = 1.0
ACCURACY = 0.05  # assumed: Intel and AMD publish none
# Since CVE-2020-8694 only root may read the counters: they leak what other programs compute.
GRANT = "sudo chmod a+r /sys/class/powercap/intel-rapl:*/energy_uj (until the next start; lets every program read them)"


@dataclass
class _Zone:
    name: str
    path: Path
    range_uj: int
    last_uj: int
    total_uj: int = 0

    def read(self) -> int:
        now = _energy(self.path)
        moved = now - self.last_uj
        if moved < 0:
            # one wrap at most: at 200 W a 262 kJ register lasts 20 minutes
            moved += self.range_uj + 1
        self.total_uj, self.last_uj = self.total_uj + max(moved, 0), now
        return self.total_uj


def _energy(folder: Path) -> int:
    path = folder / "energy_uj"
    if not os.access(path, os.R_OK):
        raise MeterError(f"rapl: {path} may not be read by this user", hint=GRANT)
    energy = read_int(path)
    if energy is None or energy < 0:
        raise MeterError(f"rapl: {path}: found {read_text(path)[:40]!r}, wanted microjoules")
    return energy


def _zones(root: Path) -> list[Path]:
    """The zones to sum: each watt once."""
    top = [one for one in folders(root, "sys/class/powercap/*-rapl:*") if one.name.count(":") == 1]
    top = [one for one in top if "mmio" not in one.name]  # the same package, seen a second way
    platform = [one for one in top if read_text(one / "name").startswith("psys")]
    packages = [one for one in top if one not in platform]
    return platform or packages


def can_read(root: Path = Path("/")) -> bool:
    zones = _zones(root)
    return bool(zones) and all(os.access(one / "energy_uj", os.R_OK) for one in zones)


class Rapl:
    def __init__(self, zones: list[Path]) -> None:
        self._zones = [
            _Zone(
                read_text(one / "name") or one.name, one, read_int(one / "max_energy_range_uj") or 2**32, _energy(one)
            )
            for one in zones
        ]
        names = ", ".join(one.name for one in self._zones)
        whole = "the platform" if names.startswith("psys") else "the processor only: not board, disk or screen"
        about = f"RAPL counters of {names}: {whole}; 5 % assumed, none is published"
        self.sensor = Sensor("rapl", about, PERIOD_S, ACCURACY, step=61e-6, counter=True)

    def read(self) -> Reading:
        return Reading(sum(one.read() for one in self._zones) / 1e6)

    def close(self) -> None:
        pass


def open_meter(settings: MeterSettings, root: Path) -> PowerMeter:
    """Raises MeterError where there are no counters, or with the command that lets them be read."""
    zones = _zones(root)
    if not zones:
        where = root / "sys/class/powercap"
        hint = "sudo modprobe intel_rapl_msr"
        raise MeterError(f"rapl: found no counter in {where}, wanted intel-rapl:0 (x86 processors only)", hint=hint)
    return Rapl(zones)
