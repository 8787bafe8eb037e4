"""Facts about the machine this runs on, for a person: what its cores can do for 8-bit models, clocks, memory, time.

Read from /proc and /sys below a root (a test gives its own); what a system does not tell is None or left out.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from edge_runtime.sensors import read_text

# Words of a profile's `features` for an instruction that multiplies 8-bit integers and adds them up in 32 bits.
DOT_PRODUCT = ("dotprod", "i8mm", "avx512_vnni", "avx_vnni")
_CPU = "sys/devices/system/cpu"


@dataclass(frozen=True)
class CoreGroup:
    """Cores that share part and highest clock. `mhz_now` and `governor` are of the first of them, None if unknown."""

    part: str
    count: int
    mhz: int
    role: str
    numbers: tuple[int, ...]
    mhz_now: int | None
    governor: str | None


def core_groups(each_core: Iterable[tuple[str, int, int]], root: Path = Path("/")) -> tuple[CoreGroup, ...]:
    """Fastest first, from (part, MHz, number) of every core, as `probe.Machine.each_core` has them."""
    groups: dict[tuple[int, str], list[int]] = {}
    for part, mhz, number in each_core:
        groups.setdefault((-mhz, part), []).append(number)
    made: list[CoreGroup] = []
    for (slowness, part), numbers in sorted(groups.items()):
        role = "equal" if len(groups) == 1 else "little" if made else "big"
        folder = root / _CPU / f"cpu{numbers[0]}" / "cpufreq"
        khz, governor = read_text(folder / "scaling_cur_freq"), read_text(folder / "scaling_governor")
        now = int(khz) // 1000 if khz.isdecimal() else None
        made.append(CoreGroup(part, len(numbers), -slowness, role, tuple(numbers), now, governor or None))
    return tuple(made)


def int8_meaning(arch: str, features: Iterable[str]) -> tuple[bool, str]:
    """Whether there is an 8-bit dot product, and what that means for 8-bit models, in words."""
    there = [word for word in DOT_PRODUCT if word in set(features)]
    if there:
        return True, f"8-bit dot product ({', '.join(there)}): 8-bit models are usually faster than float"
    without = {"aarch64": "as ARMv8.0 cores (Cortex-A53, A72) have none", "armv7l": "as no ARMv7 core has one"}
    why = f", {without[arch]}" if arch in without else ""
    return False, f"no 8-bit dot product{why}: 8 bits save memory, and may be slower than float: measure both"


def clock_facts(now_s: float, root: Path = Path("/"), newest_s: float | None = None) -> dict[str, Any]:
    """Whether the system's time can be right, whether a clock keeps it without power, how fine the steady clock is.

    `newest_s`: a moment that is certainly past, seconds since 1970; by default when this package's files were written.
    """
    if newest_s is None:
        newest_s = Path(__file__).stat().st_mtime
    battery = any(root.glob("sys/class/rtc/rtc*"))
    why = ""
    if now_s < newest_s - 86_400:
        said = datetime.fromtimestamp(newest_s, UTC)
        why = f"it is before {said:%Y-%m-%d}, when this package was installed: set it, or the journal's dates are wrong"
    elif now_s > newest_s + 20 * 365 * 86_400:
        why = "it is 20 years after this package was installed"
    steps = []
    for _ in range(20):
        start = now = time.perf_counter()
        while now == start:
            now = time.perf_counter()
        steps.append(now - start)
    return {
        "utc": datetime.fromtimestamp(now_s, UTC).isoformat(timespec="seconds"),
        "plausible": not why,
        "why": why,
        "keeps_time_without_power": battery,
        "monotonic_step_us": round(min(steps) * 1e6, 3),
    }
