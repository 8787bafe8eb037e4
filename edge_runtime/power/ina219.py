"""Texas Instruments' power monitors on I2C: INA219/220, INA226/230/231, INA237/238, INA260.

A shunt of some milliohms in the supply's wire, its voltage and the bus voltage measured many times a second and
averaged in the chip: the true input power of a board. Two ways to it: the kernel's hwmon where a driver is bound (then
the chip belongs to it), else /dev/i2c-N here, with plain reads and writes and one ioctl. The current is taken from the
shunt's voltage, so the chip's calibration register, which only saves that division, is neither needed nor written.
"""

from __future__ import annotations

import errno
import math
import os
import struct
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from edge_runtime.errors import MeterError, UsageError
from edge_runtime.power.meter import MeterSettings, PowerMeter, Reading, Sensor
from edge_runtime.sensors import folders, read_int, read_text

PERIOD_S = 0.1
SETTLE_S = 0.15  # the first average after the set-up
USUAL_BUS, USUAL_ADDRESS = 1, 0x40
USUAL_SHUNT_OHMS = 0.1  # on nearly all boards with an INA219
SHUNT_ACCURACY = 0.01
_I2C_SLAVE = 0x0703
_TI = 0x5449
_HWMON_NAMES = ("ina219", "ina220", "ina226", "ina230", "ina231", "ina237", "ina238", "ina260")
_ENABLE = "sudo raspi-config nonint do_i2c 0"
_NO_RIGHT = "sudo usermod -aG i2c $USER, then log in again"


class Bus(Protocol):
    """One chip on a bus: registers of 16 bits, the high byte first."""

    def read(self, register: int) -> int: ...

    def write(self, register: int, value: int) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Chip:
    """Where a chip keeps its figures. `shunt_v` and `bus_v` are volts a step (`amperes` a step where the shunt is
    inside); `full`: what the shunt's register shows at the end of its range; `bus_shift`: bits to drop. `setup`:
    register and value that make it measure all the time, averaging over some 70 ms. `gain` and `offset_v` (or `_a`):
    the largest error by the data sheet, relative and absolute."""

    name: str
    shunt: int
    bus: int
    bus_v: float
    setup: tuple[int, int]
    gain: float
    shunt_v: float = 0.0
    amperes: float = 0.0
    bus_shift: int = 0
    full: int = 0x7FFF
    offset_v: float = 0.0
    offset_a: float = 0.0


INA219 = Chip("INA219", 1, 2, 4e-3, (0, 0x3FFF), 0.01, shunt_v=10e-6, bus_shift=3, full=32_000, offset_v=100e-6)
INA226 = Chip("INA226", 1, 2, 1.25e-3, (0, 0x46DF), 0.001, shunt_v=2.5e-6, offset_v=10e-6)
INA260 = Chip("INA260", 1, 2, 1.25e-3, (0, 0x66DF), 0.005, amperes=1.25e-3, offset_a=5e-3)
INA238 = Chip("INA238", 4, 5, 3.125e-3, (1, 0xFB6A), 0.001, shunt_v=5e-6, offset_v=5e-6)
_FINE_RANGE = 0x10  # INA238's config: a quarter of the range, a quarter of the step


def identify(bus: Bus) -> Chip:
    """Which chip answers. The INA219 has no number to ask for: it is what is left, when its configuration looks so."""
    if bus.read(0xFE) == _TI:
        return INA260 if bus.read(0xFF) >> 4 == 0x227 else INA226
    if bus.read(0x3E) == _TI:
        return INA238
    if bus.read(0x00) & 0xC000:
        raise MeterError(f"ina219: found a chip with configuration {bus.read(0x00):#06x}, wanted an INA219 or its kin")
    return INA219


def signed(value: int) -> int:
    """16 bits as two's complement."""
    return value - 0x10000 if value & 0x8000 else value


class Direct:
    """A chip read over I2C."""

    def __init__(self, bus: Bus, where: str, shunt_ohms: float) -> None:
        self._bus, self._where, self._shunt_ohms = bus, where, shunt_ohms
        self._chip = chip = identify(bus)
        bus.write(*chip.setup)
        self._shunt_v = chip.shunt_v / 4 if chip is INA238 and bus.read(0) & _FINE_RANGE else chip.shunt_v
        inside = bool(chip.amperes)
        step_a = chip.amperes or self._shunt_v / shunt_ohms
        offset_a = chip.offset_a or chip.offset_v / shunt_ohms
        shunt = "its own shunt" if inside else f"shunt {shunt_ohms:g} ohm taken to 1 %"
        about = f"{chip.name} at {where}, {shunt}: all that flows through it"
        accuracy = chip.gain if inside else math.hypot(chip.gain, SHUNT_ACCURACY)
        self.sensor = Sensor("ina219", about, PERIOD_S, accuracy, offset_w=5 * offset_a, step=5 * step_a)

    def read(self) -> Reading:
        try:
            shunt, bus = signed(self._bus.read(self._chip.shunt)), self._bus.read(self._chip.bus)
        except OSError as error:
            raise MeterError(f"ina219: {self._where}: {error.strerror or error}") from error
        if abs(shunt) >= self._chip.full:
            raise MeterError(f"ina219: {self._where}: found the end of its range: too much current for this shunt")
        amperes = shunt * (self._chip.amperes or self._shunt_v / self._shunt_ohms)
        # wired the other way round it counts backwards, and the power taken is the same
        return Reading(abs(amperes) * (bus >> self._chip.bus_shift) * self._chip.bus_v)

    def close(self) -> None:
        self._bus.close()


class DeviceBus:
    """/dev/i2c-N, bound to one address."""

    def __init__(self, path: Path, address: int) -> None:
        import fcntl

        self._file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.ioctl(self._file, _I2C_SLAVE, address)
        except BaseException:
            os.close(self._file)
            raise

    def read(self, register: int) -> int:
        os.write(self._file, bytes([register]))
        (value,) = struct.unpack(">H", os.read(self._file, 2))
        return int(value)

    def write(self, register: int, value: int) -> None:
        os.write(self._file, struct.pack(">BH", register, value))

    def close(self) -> None:
        os.close(self._file)


class Hwmon:
    """A chip that a kernel driver reads: power1_input in microwatts, else current (mA) times voltage (mV).

    The driver computes with a shunt of 10 mOhm unless the device tree says another; `shunt_ohms` is the true one.
    """

    def __init__(self, folder: Path, shunt_ohms: float | None) -> None:
        self._folder = folder
        driver_uohms = read_int(folder / "shunt_resistor") or 0
        self._factor = driver_uohms / 1e6 / shunt_ohms if shunt_ohms and driver_uohms else 1.0
        shunt = f"shunt {shunt_ohms or driver_uohms / 1e6:g} ohm" if shunt_ohms or driver_uohms else "shunt unknown"
        name = read_text(folder / "name").upper()
        about = f"{name} through the kernel ({folder.name}), {shunt} taken to 1 %: all that flows through it"
        if not shunt_ohms and driver_uohms == 10_000:
            about += "; 10 mOhm is the driver's own guess: check --shunt"
        gain = 0.01 if name in ("INA219", "INA220") else 0.001
        sensor_step = 0.02 if name in ("INA219", "INA220") else 0.025
        accuracy = math.hypot(gain, SHUNT_ACCURACY)
        self.sensor = Sensor("ina219", about, PERIOD_S, accuracy, 0.005, sensor_step * self._factor)

    def read(self) -> Reading:
        power = read_int(self._folder / "power1_input")
        if power is None:
            current = read_int(self._folder / "curr1_input")
            # in0 is the shunt's voltage with these drivers, in1 the bus's
            voltage = read_int(self._folder / "in1_input") or read_int(self._folder / "in0_input")
            if current is None or voltage is None:
                raise MeterError(f"ina219: {self._folder}: found neither power1_input nor curr1_input and in1_input")
            power = current * voltage
        return Reading(abs(power) / 1e6 * self._factor)

    def close(self) -> None:
        pass


def hwmon_chips(root: Path = Path("/")) -> list[Path]:
    return [one for one in folders(root, "sys/class/hwmon/hwmon*") if read_text(one / "name") in _HWMON_NAMES]


def open_bus(path: Path, address: int) -> Bus:
    """Raises MeterError with what makes the bus appear, or grants it."""
    try:
        return DeviceBus(path, address)
    except FileNotFoundError as error:
        raise MeterError(f"ina219: found no {path}, wanted the I2C bus that the chip is on", hint=_ENABLE) from error
    except PermissionError as error:
        raise MeterError(f"ina219: {path} may not be used by this user", hint=_NO_RIGHT) from error
    except OSError as error:
        busy = error.errno == errno.EBUSY
        why = "a kernel driver holds the chip" if busy else error.strerror or str(error)
        hint = "leave --i2c out: it is read through the kernel" if busy else None
        raise MeterError(f"ina219: {path} at {address:#04x}: {why}", hint=hint) from error


def open_meter(settings: MeterSettings, root: Path) -> PowerMeter:
    """Through the kernel where a driver is bound and no address is given, else over I2C.

    Raises MeterError where there is no bus, no chip or no permission, UsageError for settings out of range.
    """
    shunt = settings.shunt_ohms
    if shunt is not None and not 1e-5 <= shunt <= 10:
        raise UsageError(f"shunt: found {shunt:g} ohm, wanted 10 microohm to 10 ohm, such as 100mOhm")
    chips = hwmon_chips(root)
    if chips and settings.i2c is None:
        kernels = Hwmon(chips[0], shunt)
        kernels.read()
        return kernels
    number, address = settings.i2c or (USUAL_BUS, USUAL_ADDRESS)
    if not 0 <= number <= 99 or not 0x08 <= address <= 0x77:
        raise UsageError(f"i2c: found {number}:{address:#x}, wanted a bus and an address from 0x08 to 0x77: 1:0x40")
    path = root / f"dev/i2c-{number}"
    bus = open_bus(path, address)
    try:
        meter = Direct(bus, f"{path} address {address:#04x}", shunt or USUAL_SHUNT_OHMS)
        time.sleep(SETTLE_S)
        return meter
    except OSError as error:
        bus.close()
        raise MeterError(
            f"ina219: {path}: nothing answers at {address:#04x} ({error.strerror or error})",
            hint=f"sudo apt-get install i2c-tools; i2cdetect -y {number} shows the addresses; give one with --i2c",
        ) from error
    except BaseException:
        bus.close()
        raise
