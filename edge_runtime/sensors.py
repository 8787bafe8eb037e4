"""What the machine feels now: clock, heat, throttling, battery, load. Read, never judged.

Standard library only; `root` is where a test puts a tree of its own. Whatever cannot be read is None. Nothing is
written; one program is started, and only on a Raspberry Pi whose kernel does not show the bits itself: vcgencmd.
"""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path("/")
VCGENCMD_S = 5.0
# Bits of the firmware's get_throttled; the same 16 bits higher are since the machine was started.
_THROTTLE_BITS = ("under-voltage", "frequency capped", "throttled", "soft temperature limit")
_CPU_ZONE = re.compile(r"cpu|soc|x86_pkg|tsens|core|cluster|apss|exynos-therm|^big|^little", re.IGNORECASE)
_OTHER_ZONE = re.compile(
    r"bat|bms|charg|usb|skin|xo|pa[-_]?therm|^pa|wlan|wifi|modem|gpu|ddr|acpi|pch|pmic", re.IGNORECASE
)
_CPU_HWMON = ("coretemp", "k10temp", "zenpower", "cpu_thermal", "soc_thermal")


@dataclass(frozen=True)
class State:
    """The machine's circumstances at one moment; None where the system does not tell.

    `mhz` is the clock of each core that is on. `temperature_c` is of the hottest CPU-like sensor. `throttled` are words
    ("under-voltage", "frequency capped", "throttled", "soft temperature limit"; with " since boot" for what was).
    `charging`: a charger feeds it, so its battery tells nothing about what it takes; None where there is no battery.
    """

    governor: str | None
    mhz: tuple[int, ...] | None
    temperature_c: float | None
    throttled: tuple[str, ...] | None
    charging: bool | None
    battery_percent: int | None
    load_1min: float | None

    def to_json(self) -> dict[str, Any]:
        plain = asdict(self)
        for key in ("mhz", "throttled"):
            plain[key] = None if plain[key] is None else list(plain[key])
        return plain


@dataclass(frozen=True)
class Battery:
    """What power_supply says of one battery, as it stands there: units and signs differ by maker (power/battery.py)."""

    folder: Path
    status: str
    charging: bool
    percent: int | None


@dataclass(frozen=True)
class Ticks:
    """CPU time since the machine was started, in clock ticks: what a hypervisor took away, and all."""

    stolen: int
    total: int


def read_state(root: Path = ROOT) -> State:
    """All of it, in a few milliseconds; some tens where vcgencmd has to be asked."""
    batteries = read_batteries(root)
    load = re.match(r"([0-9]+\.[0-9]+) ", read_text(root / "proc/loadavg"))
    return State(
        governor=read_text(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor") or None,
        mhz=_clocks(root),
        temperature_c=read_temperature(root),
        throttled=_throttled(root),
        charging=any(one.charging for one in batteries) if batteries else None,
        battery_percent=next((one.percent for one in batteries if one.percent is not None), None),
        load_1min=float(load[1]) if load else None,
    )


def read_text(path: Path) -> str:
    """A small system file without its end, or nothing."""
    try:
        return path.read_bytes().decode("utf-8", "replace").replace("\0", "\n").strip()
    except OSError:
        return ""


def read_int(path: Path) -> int | None:
    text = read_text(path)
    return int(text) if re.fullmatch(r"[-+]?[0-9]{1,19}", text, re.ASCII) else None


def folders(root: Path, pattern: str) -> list[Path]:
    try:
        return sorted(root.glob(pattern))
    except OSError:
        return []


def _clocks(root: Path) -> tuple[int, ...] | None:
    found = folders(root, "sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq")
    by_core = {int(re.sub("[^0-9]", "", one.parts[-3]) or 0): read_int(one) for one in found}
    clocks = tuple(round(khz / 1000) for _, khz in sorted(by_core.items()) if khz)
    if not clocks:
        shown = re.findall(r"^cpu MHz[ \t]*:[ \t]*([0-9]{1,6}(?:\.[0-9]+)?)", read_text(root / "proc/cpuinfo"), re.M)
        clocks = tuple(round(float(mhz)) for mhz in shown)
    return clocks or None


def read_temperature(root: Path = ROOT) -> float | None:
    """Degrees Celsius of the hottest CPU-like thermal zone, else of the hottest that is not a battery's or radio's."""
    zones = []
    for zone in folders(root, "sys/class/thermal/thermal_zone*"):
        degrees = _degrees(read_int(zone / "temp"))
        if degrees is not None:
            zones.append((read_text(zone / "type"), degrees))
    hottest = [degrees for kind, degrees in zones if _CPU_ZONE.search(kind)]
    if not hottest:
        for chip in folders(root, "sys/class/hwmon/hwmon*"):
            if read_text(chip / "name") in _CPU_HWMON:
                inputs = (_degrees(read_int(one)) for one in folders(chip, "temp*_input"))
                hottest += [degrees for degrees in inputs if degrees is not None]
    hottest = hottest or [degrees for kind, degrees in zones if not _OTHER_ZONE.search(kind)]
    return max(hottest, default=None)


def _degrees(raw: int | None) -> float | None:
    """Thousandths by the rule; old Android kernels write degrees or tenths. A sensor that is off says 0 or nonsense."""
    if not raw:
        return None
    degrees = raw / 1000 if abs(raw) >= 1000 else raw / 10 if abs(raw) > 150 else float(raw)
    return degrees if -30 < degrees <= 150 else None


def _throttled(root: Path) -> tuple[str, ...] | None:
    """What holds the machine back; () when it is asked and nothing does, None when nobody can be asked."""
    bits = throttle_bits(root)
    words: list[str] | None = None
    if bits is not None:
        words = [word for number, word in enumerate(_THROTTLE_BITS) if bits >> number & 1]
        words += [f"{word} since boot" for number, word in enumerate(_THROTTLE_BITS) if bits >> (16 + number) & 1]
    for chip in folders(root, "sys/class/hwmon/hwmon*"):
        if read_text(chip / "name") == "rpi_volt" and (alarm := read_int(chip / "in0_lcrit_alarm")) is not None:
            words = (words or []) + (["under-voltage"] if alarm else [])
    for device in folders(root, "sys/class/thermal/cooling_device*"):
        # how the kernel itself slows a hot CPU, on every ARM board and tablet
        if re.match(r"(thermal-)?cpufreq|Processor", read_text(device / "type")):
            level = read_int(device / "cur_state")
            if level is not None:
                words = (words or []) + (["frequency capped"] if level > 0 else [])
    return None if words is None else tuple(dict.fromkeys(words))


def throttle_bits(root: Path = ROOT) -> int | None:
    """The Raspberry Pi firmware's bits, from the kernel where it shows them, else from vcgencmd."""
    for one in folders(root, "sys/devices/platform/soc*/*firmware/get_throttled"):
        if re.fullmatch(r"(0x)?[0-9a-fA-F]{1,8}", read_text(one)):
            return int(read_text(one), 16)
    answer = ask_vcgencmd("get_throttled", root)
    match = re.search(r"throttled=0x([0-9a-fA-F]{1,8})\b", answer or "")
    return int(match[1], 16) if match else None


def find_vcgencmd(root: Path = ROOT) -> str | None:
    """Where the Raspberry Pi's tool stands, or None."""
    import shutil  # it loads the compressors' modules

    if root == ROOT and (found := shutil.which("vcgencmd")):
        return found
    usual = root / "usr/bin/vcgencmd"
    return str(usual) if os.access(usual, os.X_OK) and usual.is_file() else None


def ask_vcgencmd(command: str, root: Path = ROOT) -> str | None:
    """What it prints, both streams; None where it is missing or does not answer in five seconds."""
    tool = find_vcgencmd(root)
    if tool is None:
        return None
    try:
        done = subprocess.run(
            [tool, command], stdin=subprocess.DEVNULL, capture_output=True, timeout=VCGENCMD_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return (done.stdout + done.stderr).decode("utf-8", "replace")


def read_batteries(root: Path = ROOT) -> list[Battery]:
    """The machine's own batteries (not a mouse's), the one that tells most first."""
    supplies = folders(root, "sys/class/power_supply/*")
    fed = any(
        read_text(one / "type").startswith(("Mains", "USB", "Wireless")) and read_int(one / "online") == 1
        for one in supplies
    )
    found = []
    for one in supplies:
        if read_text(one / "type") != "Battery" or read_text(one / "scope") == "Device":
            continue
        if read_int(one / "present") == 0:
            continue
        status = read_text(one / "status")
        percent = read_int(one / "capacity")
        in_range = percent if percent is not None and 0 <= percent <= 100 else None
        found.append(Battery(one, status, fed or status in ("Charging", "Full"), in_range))
    tells = ("current_now", "power_now", "charge_counter", "charge_now", "energy_now", "voltage_now")
    return sorted(found, key=lambda one: -sum(read_int(one.folder / name) is not None for name in tells))


def read_ticks(root: Path = ROOT) -> Ticks | None:
    """CPU time so far, for `steal_percent`; None where the system does not tell."""
    match = re.match(r"cpu((?: +[0-9]+){8})", read_text(root / "proc/stat"))
    if not match:
        return None
    # guest time, the ninth and tenth, is counted in the first two already
    numbers = [int(number) for number in match[1].split()]
    return Ticks(numbers[7], sum(numbers))


def steal_percent(before: Ticks | None, after: Ticks | None) -> float | None:
    """How much of the CPU's time between two readings a hypervisor gave to others."""
    if before is None or after is None or after.total <= before.total:
        return None
    return max(0.0, 100 * (after.stolen - before.stolen) / (after.total - before.total))
