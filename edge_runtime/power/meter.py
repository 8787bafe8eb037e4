"""What a power meter is: a sensor with a few figures about it, and readings.

Two kinds, behind one protocol. A **sampler** gives watts as they are now; a **counter** gives joules since some moment
long ago, made to grow for ever by the meter itself (RAPL's registers wrap around). Figures are of the sensor alone,
from its data sheet where there is one; where none is published, `about` says what was assumed.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

MODELLED = "modelled"


@dataclass(frozen=True)
class Sensor:
    """What is known about a meter before it is read.

    `name`: as users call it; `about`: which chip, what it sees and what it misses. `period_s`: how often a reading
    is new. `accuracy`: of a reading, relative (0.01 is 1 %); None where nobody knows it. `offset_w`: absolute error in
    watts that does not grow with the reading. `step`: its smallest step, in watts for a sampler and joules for a
    counter. `counter`: readings are joules. `basis`: "measured:NAME" or "modelled".
    """

    name: str
    about: str
    period_s: float
    accuracy: float | None
    offset_w: float = 0.0
    step: float = 0.0
    counter: bool = False
    basis: str = ""

    def __post_init__(self) -> None:
        if not self.basis:
            object.__setattr__(self, "basis", f"measured:{self.name}")


@dataclass(frozen=True)
class Reading:
    """Watts of a sampler, or joules of a counter. `charging`: a charger feeds the device, so a battery's figure is not
    what the device takes."""

    value: float
    charging: bool = False


@dataclass(frozen=True)
class Sample:
    """A reading with the moment at which it was taken, in seconds of the recorder's clock (of the log's, for a log)."""

    at_s: float
    value: float


class PowerMeter(Protocol):
    """What the recorder asks of a meter: three members, because a meter must be quick to write for new hardware."""

    @property
    def sensor(self) -> Sensor: ...

    def read(self) -> Reading:
        """One reading. Raises MeterError with the command that helps."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class Logged(Protocol):
    """A meter whose readings are found afterwards in a file, by wall-clock time: it is never read while running."""

    def samples(self, start_s: float, end_s: float) -> list[Sample]:
        """Those in the window and one on either side, by seconds since 1970. Raises MeterError where the log does not
        reach over the window."""
        ...


@dataclass(frozen=True)
class MeterSettings:
    """What a user may say about a meter; each meter reads what concerns it.

    `shunt_ohms`, `i2c` (bus, address) for ina219; `log`, `log_offset_s` (added to its times), `log_volts` (where it
    has no voltage) for log; `watts` for modelled; `current_unit` ("uA", "mA") for battery and termux, where the guess
    from the size of the figure is wrong.
    """

    shunt_ohms: float | None = None
    i2c: tuple[int, int] | None = None
    log: Path | None = None
    log_offset_s: float = 0.0
    log_volts: float | None = None
    watts: float | None = None
    current_unit: str | None = None
