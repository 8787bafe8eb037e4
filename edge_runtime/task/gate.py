"""The quality gate: are these pictures like those on which the reader was measured?

A slide is described by the means of what cells.features measures, and judged twice. *Distance* is Mahalanobis', from
the training people, with the spread between persons plus the chance of having measured only so many cells: it refuses
what is foreign (another camera). *Damage* is a logistic regression on the same numbers and their products, taught on
training slides damaged on purpose (defocus, exposure, lost colour, compression ...): people differ so much in colour
that half the colour lost still lies among them, but not together with its other traces. Reasons are put as what a
person at the microscope can change.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from edge_runtime.errors import BundleError

Numbers = tuple[float, ...]
_LISTS = ("middle", "scale", "between", "linear", "products")
_SINGLE = ("limit", "offset", "damage_limit")

# Feature -> what it means to the reader when it is too low, and when it is too high.
_MEANING = {
    "edges": ("Out of focus or too flat", "Too grainy or too sharply edited"),
    "detail": ("Out of focus or too flat", "Too grainy or too sharply edited"),
    "sharpness": ("Out of focus", "Too grainy, or compressed too strongly"),
    "colour_detail": ("Fine colour is lost: out of focus or compressed too strongly", "Colours are too noisy"),
    "contrast": ("The stain is too faint against the cell", "Contrast is too strong"),
    "chroma_mid": ("Colour is weak or lost", "Colours are too strong"),
    "chroma_spread": ("Colour is weak or lost", "Colours are too strong"),
}
CLIP = 6.0
"""Standard deviations: beyond, a feature says no more than "very far"; its square would drown the others."""
_LIGHT = ("Too dark, or stained too strongly", "Too bright, or stained too weakly")


@dataclass(frozen=True)
class Gate:
    """F features. x stands for the standardised means of a slide, (mean - middle) / scale, clipped to +-CLIP.

    Distance: root mean square over i of (rows[i] . x) / sqrt(between[i] + 1 / cells). Damage: the logistic curve of
    offset + linear . x + sum over i <= j of products[i, j] x[i] x[j], with products row by row.
    """

    names: tuple[str, ...]  # of the features, as cells.FEATURES
    middle: Numbers  # (F,) mean over persons
    scale: Numbers  # (F,) standard deviation between persons
    rows: tuple[Numbers, ...]  # (N,F): directions in which the cells of one person vary by 1
    between: Numbers  # (N,) variance between persons along each
    limit: float  # distance from which on a slide is refused
    linear: Numbers  # (F,)
    products: Numbers  # (F(F+1)/2,)
    offset: float
    damage_limit: float  # chance of damage, 0-1, from which on a slide is refused

    def judge(self, means: list[float], cells: int) -> tuple[float, list[str]]:
        """How far from fine, refused above 1, and why (empty up to 1). `means` (F,) of so many measured cells."""
        if len(means) != len(self.names):
            raise BundleError(f"gate: found {len(means)} features measured, wanted {len(self.names)}")
        x = self.standard(means)
        distance = self.distance(x, cells) / self.limit
        parts = self._damage_parts(x)
        damage = self.damage(x) / self.damage_limit
        worst = max(distance, damage)
        if worst <= 1:
            return worst, []
        return worst, self._why(x, [abs(value) for value in x] if distance > 1 else parts)

    def standard(self, means: list[float]) -> list[float]:
        pairs = zip(means, self.middle, self.scale, strict=True)
        return [(value - middle) / scale for value, middle, scale in pairs]

    def distance(self, x: list[float], cells: int) -> float:
        total = 0.0
        for row, spread in zip(self.rows, self.between, strict=True):
            along = sum(a * b for a, b in zip(row, x, strict=True))
            total += along * along / (spread + 1 / cells)
        return math.sqrt(total / len(self.rows))

    def damage(self, x: list[float]) -> float:
        """Chance 0-1 that these means are of a damaged slide, if half of all slides were."""
        score = max(-500.0, min(500.0, self.offset + sum(self._damage_parts(x))))
        return 1 / (1 + math.exp(-score))

    def _damage_parts(self, x: list[float]) -> list[float]:
        """What each feature adds to the score; a product is shared by its two."""
        x = [max(-CLIP, min(CLIP, value)) for value in x]
        parts = [a * b for a, b in zip(self.linear, x, strict=True)]
        place = 0
        for i, left in enumerate(x):
            for j in range(i, len(x)):
                half = self.products[place] * left * x[j] / 2
                parts[i] += half
                parts[j] += half
                place += 1
        return parts

    def _why(self, x: list[float], blame: list[float]) -> list[str]:
        """The three features most to blame in words, without saying one thing twice."""
        order = sorted(range(len(x)), key=lambda place: -blame[place])
        said: list[str] = []
        for place in order[:3]:
            low, high = _MEANING.get(self.names[place], _LIGHT)
            text = f"{low if x[place] < 0 else high}: photograph again."
            if text not in said and (blame[place] > 2 or not said):
                said.append(text)
        return ["The pictures are unlike those on which this reader was measured.", *said]

    def to_json(self) -> dict[str, Any]:
        plain: dict[str, Any] = {"names": list(self.names), "rows": [list(row) for row in self.rows]}
        plain |= {name: list(getattr(self, name)) for name in _LISTS}
        return plain | {name: getattr(self, name) for name in _SINGLE}

    @classmethod
    def from_json(cls, plain: object) -> Gate:
        """Raises BundleError where sizes do not fit together or a number is none."""
        wanted = {"names", "rows", *_LISTS, *_SINGLE}
        if not isinstance(plain, Mapping) or set(plain) != wanted:
            raise BundleError(f"calibration.gate: wanted an object with {', '.join(sorted(wanted))}")
        names, rows = plain["names"], plain["rows"]
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            raise BundleError("calibration.gate.names: wanted a list of names")
        if not isinstance(rows, list) or not rows:
            raise BundleError("calibration.gate.rows: wanted a list of rows")
        size = len(names)
        sizes = {"between": len(rows), "products": size * (size + 1) // 2}
        values: dict[str, Any] = {name: _numbers(plain[name], name, sizes.get(name, size)) for name in _LISTS}
        values |= {name: _numbers([plain[name]], name, 1)[0] for name in _SINGLE}
        gate = cls(names=tuple(names), rows=tuple(_numbers(row, "rows", size) for row in rows), **values)
        if min(gate.limit, gate.damage_limit, *gate.scale) <= 0 or min(gate.between) < 0:
            raise BundleError("calibration.gate: limits and scale must be above 0, between at least 0")
        return gate


def _numbers(values: object, name: str, count: int) -> Numbers:
    if not isinstance(values, list) or len(values) != count:
        raise BundleError(f"calibration.gate.{name}: wanted a list of {count} numbers")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise BundleError(f"calibration.gate.{name}: found {value!r:.40}, wanted a finite number")
    return tuple(float(value) for value in values)
