"""The same inference for many minutes: how a device answers when it is warm, and what held it back.

A device that is fast for a minute and throttles in the fifth is a slow device. Every few seconds a point is taken:
latencies, clock, temperature, throttle bits, charger.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from edge_runtime.bench.cases import Case
from edge_runtime.bench.run import Notice, Protocol, start_process
from edge_runtime.guard import Child
from edge_runtime.sensors import State, read_state
from edge_runtime.stats import median, quantile, round_figures

if TYPE_CHECKING:
    from edge_runtime.power import Recorder
    from edge_runtime.profile import DeviceProfile

Point = dict[str, Any]
_POINTS = 600  # a run gives about so many
_SLOWER = 1.1
_LATER_POINTS = 3  # as many in a row must be slower before it counts as slowed down


def run_sustained(
    points: list[Point],
    case: Case,
    seconds: float,
    protocol: Protocol,
    device: DeviceProfile,
    *,
    recorder: Recorder | None = None,
    state: Callable[[], State] = read_state,
    notice: Notice | None = None,
) -> None:
    """Points are put into the list as they come, so that an interrupt leaves those that there are; `judge` makes
    `sustained` of a row of them. Raises EdgeError where the model fails."""
    child, _ = start_process(case, protocol, device)
    try:
        _measure(points, child, seconds, recorder, state, notice)
    finally:
        child.close()


def _measure(
    points: list[Point],
    child: Child,
    seconds: float,
    recorder: Recorder | None,
    state: Callable[[], State],
    notice: Notice | None,
) -> None:
    window_s = max(1.0, seconds / _POINTS, 5 * recorder.sensor.period_s if recorder else 0)
    start = said = time.monotonic()
    while not points or time.monotonic() - start < seconds:
        mark = recorder.mark() if recorder else None
        _, arrays = child.call("window", {"seconds": window_s})
        ordered = sorted(arrays["ms"].tolist())
        now = state()
        energy = recorder.energy(mark, recorder.mark()) if recorder and mark is not None else None
        points.append(
            {
                "s": round(time.monotonic() - start, 1),
                "p50_ms": round_figures(quantile(ordered, 0.5), 4),
                "p99_ms": round_figures(quantile(ordered, 0.99), 4),
                "mhz": max(now.mhz) if now.mhz else None,
                "temperature_c": now.temperature_c,
                "throttled": [word for word in now.throttled or () if not word.endswith("since boot")],
                "charging": now.charging,
                "active_w": round_figures(energy.mean_w, 4) if energy else None,
            }
        )
        if notice and time.monotonic() - said > 30:
            said = time.monotonic()
            last = points[-1]
            hot = f", {last['temperature_c']:.0f} C" if last["temperature_c"] is not None else ""
            notice(f"{last['s']:.0f} of {seconds:.0f} s: {last['p50_ms']} ms{hot}")


def judge(points: Sequence[Point]) -> dict[str, Any]:
    """When it slowed down, by how much, and what the sensors say of the reason. Compared with the first tenth."""
    early = median(one["p50_ms"] for one in points[: max(1, len(points) // 10)])
    late = median(one["p50_ms"] for one in points[-max(1, len(points) // 10) :])
    slow = [one["p50_ms"] > _SLOWER * early for one in points]
    begins = [place for place in range(len(slow)) if all(slow[place : place + _LATER_POINTS])]
    # the last points are too few to be three in a row
    begins = [place for place in begins if len(slow) - place >= _LATER_POINTS]
    slowed_at = points[begins[0]]["s"] if begins else None
    return {
        "points": list(points),
        "first_ms": round_figures(early, 4),
        "last_ms": round_figures(late, 4),
        "slower": round_figures(late / early, 4),
        "slowed_at_s": slowed_at,
        "why": _why(points, begins[0]) if begins else "it kept its pace",
    }


def _why(points: Sequence[Point], begin: int) -> str:
    before, after = points[: max(1, begin)], points[begin:]
    why = []
    bits = sorted({word for one in after for word in one["throttled"]})
    if bits:
        why.append(f"the firmware says {', '.join(bits)}")
    clocks = [[one["mhz"] for one in part if one["mhz"]] for part in (before, after)]
    if all(clocks) and median(clocks[1]) < 0.95 * median(clocks[0]):
        why.append(f"the clock went from {median(clocks[0]):.0f} to {median(clocks[1]):.0f} MHz")
    heats = [[one["temperature_c"] for one in part if one["temperature_c"] is not None] for part in (before, after)]
    if all(heats) and max(heats[1]) > max(heats[0]):
        why.append(f"the temperature rose from {heats[0][0]:.0f} to {max(heats[1]):.0f} C")
    return "; ".join(why) or "no sensor shows why: another program, or a sensor that cannot be read"


def invalid_because(points: Sequence[Point]) -> list[str]:
    """Why a sustained result must not be used as the device's: throttled, or on a charger."""
    why = []
    bits = sorted({word for one in points for word in one["throttled"]})
    if bits:
        why.append(f"throttled: {', '.join(bits)}")
    if any(one["charging"] for one in points):
        why.append("on charge: the battery was warmed, and its figures are of the charger")
    return why
