"""What the parent believes of a guarded child's answers: a model that has taken its process over says what it likes."""

from __future__ import annotations

import signal
from typing import Any

from edge_runtime.errors import EngineError

# JSON takes up to some twenty times its text when it is read.
MOST_TEXT_BYTES = 16 << 20
MOST_ARRAY_BYTES = 1 << 32
_MOST_STEPS = 1 << 20
_MOST_WORDS = 4000
# What reading nonsense raises.
NONSENSE = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError, MemoryError, OSError)


class _Meta(dict[str, Any]):
    """What the child says of an answer: a word that is missing is an error of ours."""

    def __missing__(self, key: str) -> Any:
        raise EngineError(f"the model's process gave an answer without {key!r}")


def _count(found: Any) -> int:
    if type(found) is not int or not -1 <= found < 1 << 62:
        raise ValueError("not a count")
    return found


def checked(plain: Any) -> dict[str, Any]:
    """A frame's words as an honest child says them. Raises ValueError, TypeError, KeyError."""
    found: dict[str, Any] = {"peak_bytes": _count(plain.get("peak_bytes", 0))}
    if "progress" in plain:
        done, total = plain["progress"]
        found["progress"] = (_count(done), None if total is None else _count(total))
    elif "error" in plain:
        words = {name: plain["error"][name] for name in ("type", "message", "hint")}
        found["error"] = {name: None if one is None else str(one)[:_MOST_WORDS] for name, one in words.items()}
    else:
        found["meta"] = _Meta(plain["meta"])
    return found


class Steps:
    """Tells progress from noise: `done` must grow, up to a total that stays what it was."""

    def __init__(self) -> None:
        self._done = -1
        self._totals: list[int | None] = []

    def advance(self, done: int, total: int | None) -> bool:
        self._totals = self._totals or [total]
        most = _MOST_STEPS if total is None else min(total, _MOST_STEPS)
        if self._totals != [total] or not self._done < done <= most:
            return False
        self._done = done
        return True


def signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"
