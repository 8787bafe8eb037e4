"""The memory limit in a real kernel: a model that takes too much is killed by its control group, and it is said how.

    cp scripts/arm/enforce.py FOLDER
    scripts/arm/run --data FOLDER -- sh -c 'PYTHONPATH=$PYTHONPATH:/data python3 enforce.py'

Runs on any machine where a group can be made (as root, or systemd-run --user --scope python scripts/arm/enforce.py).
One line of JSON for each way of holding the limit; exit code 0 where each stopped the model with its figures, the next
child was served, and no group is left.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

from edge_runtime import cgroup, guard
from edge_runtime.child import memory_status
from edge_runtime.errors import BudgetError, EdgeError

MIB = 1 << 20
ALLOWED = 64 * MIB
_WATCH_S = guard.POLL_S


class Hungry:
    """Takes memory a megabyte at a time, or only reserves it."""

    def handle(self, op: str, meta: dict[str, Any], arrays: Any, progress: Any) -> Any:
        if op == "take":
            self.kept = [b"\1" * MIB for _ in range(meta["mib"])]
        elif op == "reserve":
            import mmap

            self.room = mmap.mmap(-1, meta["mib"] * MIB, flags=mmap.MAP_PRIVATE)
        return memory_status(), {}


def serve(_: dict[str, Any]) -> Hungry:
    return Hungry()


def breach(way: str) -> dict[str, Any]:
    """What became of a child that took twice what it was allowed; `reserved`: more, untouched, was no breach."""
    row: dict[str, Any] = {"way": way, "allowed_bytes": ALLOWED, "reserved": None}
    limits = guard.Limits(ALLOWED, silence_s=600)
    child = guard.Child("enforce:serve", {"predicted_bytes": ALLOWED // 2}, limits)
    try:
        child.ready()
        row["group"] = child._group is not None
        child.call("take", {"mib": 8})
        if way == "group":
            child.call("reserve", {"mib": 400})
            row["reserved"] = True
        child.call("take", {"mib": 2 * ALLOWED // MIB})
        row["error"] = "none"
    except BudgetError as error:
        row |= {"error": "BudgetError", "message": error.message, "measured_bytes": error.measured_bytes}
        row |= {"predicted_bytes": error.predicted_bytes, "killed": child._killed, "gone": not child.alive}
    except EdgeError as error:
        row |= {"error": type(error).__name__, "message": error.message}
    finally:
        child.close()
    after = guard.Child("enforce:serve", {}, limits)
    row["next_is_served"] = after.ready() == {} and bool(after.call("take", {"mib": 8}))
    after.close()
    return row


def main() -> int:
    place = cgroup.find_place()
    print(json.dumps({"place": str(place.parent), "reason": place.reason, "kernel": os.uname().release}), flush=True)
    good = place.parent is not None
    for way in ("group", "watchdog and rlimit"):
        # alone: the kernel must do it without the watchdog
        guard.POLL_S = 3600.0 if way == "group" else _WATCH_S
        if way != "group":
            os.environ[cgroup.VARIABLE] = "off"
        start = time.monotonic()
        row = breach(way)
        row["s"] = round(time.monotonic() - start, 1)
        good &= row["error"] == "BudgetError" and row["next_is_served"] and row["group"] == (way == "group")
        good &= (row.get("killed") is True) == (way == "group") and (row.get("measured_bytes") or 0) <= 1.2 * ALLOWED
        print(json.dumps(row), flush=True)
    left = [] if place.parent is None else [path.name for path in place.parent.glob("edge-runtime-*[0-9a-f]")]
    print(json.dumps({"groups_left": left, "ok": bool(good and not left)}), flush=True)
    return 0 if good and not left else 1


if __name__ == "__main__":
    sys.exit(main())
