"""What the operating system says about the machine this runs on: CPU, RAM, storage, battery. No judgement here.

Linux and Android are read from /proc and /sys, the rest is asked of psutil. Whatever cannot be read is left out: old
tablets hide half of /sys from programs. Nothing is written, no program is started.
"""

from __future__ import annotations

import os
import re
import struct
from dataclasses import dataclass
from pathlib import Path

from edge_runtime.errors import ProfileError

# CPU part numbers of ARM Ltd's own designs (implementer 0x41); other makers' are shown as implementer:part.
_PARTS = {
    "0xc05": "cortex-a5",
    "0xc07": "cortex-a7",
    "0xc08": "cortex-a8",
    "0xc09": "cortex-a9",
    "0xc0f": "cortex-a15",
    "0xd03": "cortex-a53",
    "0xd04": "cortex-a35",
    "0xd05": "cortex-a55",
    "0xd07": "cortex-a57",
    "0xd08": "cortex-a72",
    "0xd09": "cortex-a73",
    "0xd0a": "cortex-a75",
    "0xd0b": "cortex-a76",
    "0xd0c": "neoverse-n1",
    "0xd0d": "cortex-a77",
    "0xd40": "neoverse-v1",
    "0xd41": "cortex-a78",
}


@dataclass(frozen=True)
class Machine:
    """Facts as probed. `cores` are groups of (part, count, MHz), fastest first, `each_core` is (part, MHz, number), MHz
    0 where unknown; `arch` is the userland's."""

    title: str
    kind: str
    arch: str
    soc: str
    cores: tuple[tuple[str, int, int], ...]
    each_core: tuple[tuple[str, int, int], ...]
    feature_words: frozenset[str]
    allowed_cores: int
    ram_bytes: int
    available_bytes: int
    storage_bytes: int
    free_bytes: int
    battery_mah: int | None
    power_meter: str


def read_machine(root: Path = Path("/"), pointer_bytes: int | None = None) -> Machine:
    """All that can be found out below `root`. Raises ProfileError when the RAM cannot be told."""
    import platform

    cpuinfo = _read(root / "proc/cpuinfo")
    arch = _arch(cpuinfo, pointer_bytes or struct.calcsize("P"), platform.machine())
    model = _read(root / "proc/device-tree/model")
    compatible = _read(root / "proc/device-tree/compatible").split("\n")[-1]
    chip = _value(cpuinfo, "Hardware") or _value(cpuinfo, "model name") or ("" if cpuinfo else platform.processor())
    batteries = [f.parent for f in _glob(root, "sys/class/power_supply/*/type") if _read(f) == "Battery"]
    ram, available = _ram(root)
    each = _each_core(cpuinfo, root, chip or arch)
    import shutil  # it loads the compressors' modules

    storage = shutil.disk_usage(home())
    return Machine(
        title=model or f"{platform.node()} ({platform.system()} {arch})",
        kind="board" if model and not batteries else "phone" if "ANDROID_ROOT" in os.environ else "computer",
        arch=arch,
        soc=compatible.rpartition(",")[2] or chip or arch,
        cores=_grouped(each),
        each_core=tuple(each),
        feature_words=frozenset((_value(cpuinfo, "Features") or _value(cpuinfo, "flags")).split()),
        allowed_cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        ram_bytes=ram,
        available_bytes=available,
        storage_bytes=storage.total,
        free_bytes=storage.free,
        battery_mah=next((n // 1000 for n in (_number(b / "charge_full") for b in batteries) if n), None),
        power_meter=_meter(root, model, bool(batteries)),
    )


def _read(path: Path) -> str:
    """The text of a small system file without its end, or nothing; NUL separates lines in the device tree."""
    try:
        return path.read_bytes().decode("utf-8", "replace").replace("\0", "\n").strip()
    except OSError:
        return ""


def _number(path: Path) -> int:
    text = _read(path)
    return int(text) if text.isascii() and text.isdigit() else 0


def _glob(root: Path, pattern: str) -> list[Path]:
    try:
        return sorted(root.glob(pattern))
    except OSError:
        return []


def _values(text: str, key: str) -> list[str]:
    return re.findall(rf"^{re.escape(key)}[ \t]*:[ \t]*(.*?)[ \t]*$", text, re.MULTILINE)


def _value(text: str, key: str) -> str:
    return next(iter(_values(text, key)), "")


def home() -> Path:
    """The home folder, or where there is none the working directory: whose storage is meant by "the storage"."""
    for folder in (Path(os.path.expanduser("~")), Path.cwd()):
        if folder.is_dir():
            return folder
    return Path(os.sep)


def _arch(cpuinfo: str, pointer_bytes: int, machine: str) -> str:
    """The userland's architecture: a 32-bit userland on a 64-bit kernel is told aarch64 by `platform.machine()`."""
    wide = pointer_bytes == 8
    machine = machine.lower()
    if "CPU implementer" in cpuinfo or (not cpuinfo and machine.startswith(("arm", "aarch"))):
        return "aarch64" if wide else "armv7l"
    if "vendor_id" in cpuinfo or machine in ("amd64", "x86_64", "i386", "i686", "x86"):
        return "x86_64" if wide else "i686"
    return machine or "unknown"


def _each_core(cpuinfo: str, root: Path, chip: str) -> list[tuple[str, int, int]]:
    """(part, MHz, number) of every core. Old 32-bit kernels print one part for all cores."""
    numbers = [int(n) for n in _values(cpuinfo, "processor") if n.isdigit()]
    if not numbers:
        numbers = list(range(os.cpu_count() or 1))
    parts = [
        _PARTS.get(part, part) if maker == "0x41" else f"{maker}:{part}"
        for maker, part in zip(_values(cpuinfo, "CPU implementer"), _values(cpuinfo, "CPU part"), strict=False)
    ]
    if len(parts) != len(numbers):
        parts = [parts[-1] if parts else chip] * len(numbers)
    clocks = [_number(root / f"sys/devices/system/cpu/cpu{n}/cpufreq/cpuinfo_max_freq") // 1000 for n in numbers]
    if not any(clocks):
        clocks = [_clock_now(cpuinfo)] * len(numbers)
    return list(zip(parts, clocks, numbers, strict=True))


def _grouped(each: list[tuple[str, int, int]]) -> tuple[tuple[str, int, int], ...]:
    pairs = [(part, mhz) for part, mhz, _ in each]
    groups = {(part, pairs.count((part, mhz)), mhz) for part, mhz in pairs}
    return tuple(sorted(groups, key=lambda group: (-group[2], group[0])))


def _clock_now(cpuinfo: str) -> int:
    """The highest clock that any core shows, in MHz, for want of their limits; 0 when nothing tells."""
    shown = [float(mhz) for mhz in _values(cpuinfo, "cpu MHz") if re.fullmatch(r"[0-9]{1,6}(\.[0-9]+)?", mhz)]
    if shown or cpuinfo:
        return round(max(shown, default=0))
    try:
        import psutil

        frequency = psutil.cpu_freq()
        return int(frequency.max or frequency.current) if frequency else 0
    except (ImportError, OSError, NotImplementedError, RuntimeError):  # whatever a platform has not taught psutil
        return 0


def _ram(root: Path) -> tuple[int, int]:
    """All of the RAM and what is free of it, in bytes: the smaller of the machine's and the cgroups'."""
    meminfo = _read(root / "proc/meminfo")
    kib = {m[1]: int(m[2]) for m in re.finditer(r"^(\S+):\s+([0-9]{1,15}) kB", meminfo, re.MULTILINE)}
    if "MemTotal" in kib:
        total = kib["MemTotal"] * 1024
        # Kernels before 3.14, as on tablets of 2014, do not estimate it: count half of the page cache as free.
        free = kib.get("MemAvailable", kib.get("MemFree", 0) + kib.get("Cached", 0) // 2) * 1024
    else:
        try:
            import psutil

            total, free = (int(n) for n in psutil.virtual_memory()[:2])
        except (ImportError, OSError, NotImplementedError, RuntimeError) as error:
            raise ProfileError(
                f"this-device: found no RAM in {root / 'proc/meminfo'} and none by psutil ({error})",
                hint="write a profile for this device and give its path",
            ) from error
    for limit, used in _cgroup_limits(root):
        total = min(total, limit)
        free = min(free, limit - used)
    return total, max(0, free)


def _cgroup_limits(root: Path) -> list[tuple[int, int]]:
    """(limit, used) in bytes of each memory cgroup that this process is in, its parents too; no limit is left out.

    `used` is without the file cache that the kernel would drop first. Version 2 writes "0::/path", version 1
    "7:memory:/path"; in a container the path may not exist, and its root is what counts.
    """
    found = []
    for line in _read(root / "proc/self/cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            mount, names = root / "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            mount = root / "sys/fs/cgroup/memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        group = Path(path.lstrip("/"))
        for folder in [mount / group, *(mount / parent for parent in group.parents)]:
            if 0 < (limit := _number(folder / names[0])) < 2**60:  # "max", or version 1's number for it
                cache = re.search(rf"^{names[2]} ([0-9]+)$", _read(folder / "memory.stat"), re.MULTILINE)
                found.append((limit, max(0, _number(folder / names[1]) - (int(cache[1]) if cache else 0))))
    return found


def _meter(root: Path, model: str, battery: bool) -> str:
    """The meter that is probably there; power.detect_meter tries whether it can be read."""
    if any(_read(name).startswith("ina2") for name in _glob(root, "sys/class/hwmon/hwmon*/name")):
        return "ina219"
    if model.startswith("Raspberry Pi 5"):
        return "pmic"
    if any(os.access(file, os.R_OK) for file in _glob(root, "sys/class/powercap/intel-rapl:*/energy_uj")):
        return "rapl"
    if battery:
        return "battery"
    import shutil  # it loads the compressors' modules

    return "termux" if root == Path("/") and shutil.which("termux-battery-status") else "none"
