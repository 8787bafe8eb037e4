"""What a search for a device tries: each technique at several strengths, and combinations of what survived alone.

A family is one technique with a ladder of settings, from gentle to strong. It starts somewhere on it, goes up while the
result keeps within the drop, and down where it does not. Combinations are of families of different slots, in the order
of the slots: channels and ranks first, then zeros, then values, then (where PyTorch is there) a repair, then the
numbers that are stored. Only members that survived alone are combined, and three only where each two of them survived
(as in Agrawal and Srikant's a priori search for frequent sets, 1994), so most of the product of all ladders is never
computed.

Classes of cost, cheapest first: 0 seconds, without items; 1 with items to calibrate on; 2 a search over the layers;
3 learning from the original's answers, on the items of --train where they are given.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

from edge_runtime.compress.recipe import Recipe, find_pass, pass_name, read_recipe
from edge_runtime.compress.steps import LEARNING
from edge_runtime.errors import UsageError

CLASSES = (
    "seconds, without items",
    "with items to calibrate on",
    "a search over the layers",
    "learning from the original's answers",
)
CHEAP = 1  # the last class in which more is tried for completeness' sake
REPAIR = "repair"
_CHANNELS, _ZEROS, _VALUES, _NUMBERS = 0, 1, 2, 4  # slots; 3 is a repair's
_MOST_TOGETHER = 4
_TRIES = 3  # of one combination, each gentler than the one before


@dataclass(frozen=True)
class Family:
    """`ladder`: (name, settings of the pass), from gentle to strong; `start`: the place on it that is tried first.
    `alone`: it is not combined, because another family that combines is as good at what it does. `repairs`: settings of
    a repair behind it, None where a repair would undo it."""

    name: str
    technique: str
    slot: int
    cost: int
    ladder: tuple[tuple[str, Mapping[str, Any]], ...]
    start: int = 0
    alone: bool = False
    repairs: Mapping[str, Any] | None = None


def _parts(name: str, setting: str, *values: float) -> tuple[tuple[str, Mapping[str, Any]], ...]:
    """Rungs of shares, called by their per cent."""
    return tuple((f"{name}{100 * value:.0f}", {setting: value}) for value in values)


_SHARES = tuple((f"share{bits}", {"bits": bits}) for bits in (7, 6, 5, 4, 3))
_MINIFLOATS: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("e4m3", {}),
    ("e3m2", {"exponent": 3, "mantissa": 2}),
    ("e2m1", {"exponent": 2, "mantissa": 1}),
)
_INTEGERS = (
    ("w8", {"bits": 8}),
    ("w4b16", {"bits": 4, "block": 16}),
    ("w4b32", {"bits": 4, "block": 32}),
    ("w3b32", {"bits": 3, "block": 32}),
)
_STATIC: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("static_mse", {"method": "mse", "bias_correction": True}),
    ("static", {}),
)
_AWARE: tuple[tuple[str, Mapping[str, Any]], ...] = (
    ("aware8", {"weights": "int8"}),
    ("aware4", {"weights": "int4", "scale_grid": 8}),
    ("aware2", {"weights": "ternary", "scale_grid": 8}),
)
FAMILIES: tuple[Family, ...] = (
    Family("prune", "prune_channels", _CHANNELS, 2, _parts("prune", "macs", 0.75, 0.5, 0.35, 0.25), 1, repairs={}),
    Family("rank", "low_rank", _CHANNELS, 2, _parts("rank", "macs", 0.75, 0.5, 0.35, 0.25), 1, repairs={}),
    Family(
        "sparse",
        "prune_weights",
        _ZEROS,
        0,
        _parts("sparse", "share", 0.3, 0.5, 0.7, 0.85),
        1,
        repairs={"keep_zeros": True},
    ),
    Family("share", "share_weights", _VALUES, 0, _SHARES, 2, repairs={"keep_values": True}),
    Family("grid", "grid", _VALUES, 2, _parts("grid", "limit_sd", 0.01, 0.03, 0.06, 0.1, 0.2, 0.3), 2),
    Family("half", "weights_fp16", _NUMBERS, 0, (("half", {}),), alone=True),
    Family("minifloat", "weights_minifloat", _NUMBERS, 0, _MINIFLOATS, alone=True),
    Family("weights", "weights_int", _NUMBERS, 0, _INTEGERS),
    Family("dynamic", "dynamic_w8a8", _NUMBERS, 1, (("dynamic", {}),)),
    Family("static", "static_w8a8", _NUMBERS, 1, _STATIC, 1),
    Family("mixed", "mixed", _NUMBERS, 1, _parts("mixed", "limit_sd", 0.02, 0.05, 0.1), 1),
    Family("tuned", "prune_and_tune", _ZEROS, 3, _parts("tuned", "share", 0.3, 0.5, 0.7, 0.85), 1),
    Family("aware", "quantize_aware", _NUMBERS, 3, _AWARE, 1),
)


@dataclass(frozen=True)
class Candidate:
    """One recipe to judge. `parts`: (family, place on its ladder), in order; none for a recipe of the user's. `coded`:
    whether its weights are entropy-coded in the bundle; both ways cost one run."""

    recipe: Recipe
    cost: int
    parts: tuple[tuple[str, int], ...] = ()
    coded: tuple[bool, ...] = (False, True)
    ending: str = "_coded"

    @property
    def name(self) -> str:
        return self.recipe.name

    def written(self, coded: bool) -> Recipe:
        """The recipe as the bundle and its report have it."""
        if not coded:
            return self.recipe
        return Recipe(self.name + self.ending, (*self.recipe.passes, find_pass("code")()))


def as_is(coded: Sequence[bool]) -> Candidate:
    """The model unchanged: what all others are compared with."""
    return Candidate(Recipe("as_is", ()), 0, (), tuple(coded))


def only_coded(form: str, bundle: bool) -> tuple[str, ...]:
    """What is said of a model that no technique reads, so that a search of its own can do little; nothing of others."""
    if form == "onnx":
        return ()
    what, wanted = {
        "tflite": ("a TFLite file", "the ONNX, Keras or PyTorch file"),
        "onnx_q": ("a model that is quantized", "the float model"),
    }[form]
    left = (
        "all that is tried is to code its weights" if bundle else "in a folder, where files are plain, nothing is tried"
    )
    return (f"found {what}, which no technique reads: {left}; give {wanted} that it was made from",)


def of_recipe(recipe: Recipe, bundle: bool = True) -> Candidate:
    """A recipe of the user's: coded where it says so, and only in a `bundle`: in a folder files are stored plain. Its
    class is that of its most expensive step."""
    names = [pass_name(one) for one in recipe.passes]
    known = {one.technique: one.cost for one in FAMILIES} | {REPAIR: 3, "code": 0}
    coded = bundle and "code" in names
    plain = Recipe(recipe.name, tuple(one for one in recipe.passes if pass_name(one) != "code"))
    return Candidate(plain, max((known.get(name, 3) for name in names), default=0), (), (coded,), "")


@dataclass
class Board:
    """What was tried and what comes next. `drop`: that is allowed, in points. `learns`: whether PyTorch is there."""

    form: str
    has_items: bool
    drop: float
    coded: tuple[bool, ...] = (False, True)
    families: tuple[Family, ...] = FAMILIES
    learns: bool = field(default_factory=lambda: importlib.util.find_spec("torch") is not None)
    _told: dict[tuple[tuple[str, int], ...], tuple[str, float]] = field(default_factory=dict)
    _named: dict[str, Family] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._named = {one.name: one for one in self.families}

    def tell(self, candidate: Candidate, kept: bool, drop: float | None) -> None:
        """What became of it: whether it keeps within the drop; `drop` None where there is no result at all."""
        self._told[candidate.parts] = ("kept" if kept else "lost" if drop is not None else "gone", drop or 0.0)

    def too_large(self, candidate: Candidate) -> None:
        """It was not made, because it cannot fit: what is stronger may."""
        self._told[candidate.parts] = ("large", 0.0)

    def next(self, cost: int) -> Candidate | None:
        """The next candidate of this class; None where the class is done, until more is told."""
        return self._first(self._wanted(cost), cost)

    def rest(self, cost: int) -> Candidate | None:
        """The next rung of this class that the climbs left out, beyond those that were kept: what is lost as one number
        format or block may be kept as a stronger one."""
        for family in (one for one in self.families if one.cost == cost):
            kept = [place for place in range(len(family.ladder)) if self._fate((family.name, place)) == "kept"]
            stronger = range(max(kept, default=-1) + 1, len(family.ladder))
            if made := self._first((((family.name, place),) for place in stronger), cost):
                return made
        return None

    def _first(self, wanted: Iterable[tuple[tuple[str, int], ...]], cost: int) -> Candidate | None:
        """That was not tried and can be made."""
        for parts in wanted:
            if parts in self._told:
                continue
            made = self._make(parts, cost)
            if made is not None:
                return made
            self._told[parts] = ("gone", 0.0)
        return None

    # ------------------------------------------------------------ what is wanted

    def _wanted(self, cost: int) -> Iterator[tuple[tuple[str, int], ...]]:
        for family in self.families:
            if family.cost == cost:
                yield from self._climb(family)
        usable = [one for one in self.families if not one.alone and one.cost <= cost]
        for size in range(2, _MOST_TOGETHER + 1):
            for some in combinations(sorted(usable, key=lambda one: one.slot), size):
                if len({one.slot for one in some}) == size:
                    yield from self._together(tuple(one.name for one in some))
        if cost == 3 and self.learns and self.has_items:
            yield from self._repaired()

    def _climb(self, family: Family) -> Iterator[tuple[tuple[str, int], ...]]:
        """From the start up while it is kept or too large to be made; down from it until it is kept."""
        place, step = family.start, 0
        while 0 <= place < len(family.ladder):
            yield ((family.name, place),)
            fate = self._fate((family.name, place))
            wanted = 1 if fate in ("kept", "large") else -1
            if fate is None or step not in (0, wanted):
                return
            step = wanted
            place += step

    def _fate(self, *parts: tuple[str, int]) -> str | None:
        return self._told.get(parts, (None, 0.0))[0]

    def _kept(self, names: tuple[str, ...]) -> list[tuple[tuple[str, int], ...]]:
        """Settings of these families together that were kept, gentle ones first."""
        wanted = len(names)
        return sorted(
            parts
            for parts, (fate, _) in self._told.items()
            if fate == "kept" and len(parts) == wanted and tuple(name for name, _ in parts) == names
        )

    def _together(self, names: tuple[str, ...]) -> Iterator[tuple[tuple[str, int], ...]]:
        """The strongest that the members allow; gentler where that is lost."""
        less = [self._kept(some) for some in combinations(names, len(names) - 1)]
        if not all(less) or self._kept(names):
            return
        places = {name: min(dict(one[-1])[name] for one in less if name in dict(one[-1])) for name in names}
        if len(names) == 2:
            places = self._within(places)
        for _ in range(_TRIES):
            parts = tuple(places.items())
            yield parts
            if self._fate(*parts) in ("kept", None):
                return
            gentler = [name for name in names if ((name, places[name] - 1),) in self._told and places[name] > 0]
            gentler = [name for name in gentler if self._fate((name, places[name] - 1)) == "kept"]
            if not gentler:
                return
            places[max(gentler, key=lambda name: self._told[((name, places[name]),)][1])] -= 1

    def _within(self, places: dict[str, int]) -> dict[str, int]:
        """Gentler settings of two, until what they lose alone adds up to no more than is allowed."""
        places = dict(places)
        while sum(max(0.0, self._told[((name, place),)][1]) for name, place in places.items()) > self.drop:
            lower = [name for name, place in places.items() if self._fate((name, place - 1)) == "kept"]
            if not lower:
                break
            places[max(lower, key=lambda name: self._told[((name, places[name]),)][1])] -= 1
        return places

    def _repaired(self) -> Iterator[tuple[tuple[str, int], ...]]:
        """What was lost, alone or in pairs, repaired, from gentle to strong while that is kept; behind the strongest
        that is, fewer values, numbers of fewer bits, or both."""
        for names in [(one.name,) for one in self.families] + self._pairs():
            last = self._named[names[-1]]
            if last.repairs is None:
                continue
            mended = None
            for parts in self._lost(names):
                one = (*parts, (REPAIR, 0))
                yield one
                if self._fate(*one) != "kept":
                    break
                mended = one
            if mended is None:
                continue
            values = self._strongest(_VALUES) if last.slot < _VALUES else []
            numbers = self._strongest(_NUMBERS)
            for behind in [*values, *numbers]:
                yield (*mended, behind)
            for value in values:
                if self._fate(*mended, value) == "kept":
                    yield from ((*mended, value, number) for number in numbers)

    def _pairs(self) -> list[tuple[str, ...]]:
        usable = sorted((one for one in self.families if one.slot < _NUMBERS), key=lambda one: one.slot)
        return [(one.name, other.name) for one, other in combinations(usable, 2) if one.slot != other.slot]

    def _lost(self, names: tuple[str, ...]) -> list[tuple[tuple[str, int], ...]]:
        """Settings of these families together that lost too much, gentle ones first."""
        found = [
            parts
            for parts, (fate, _) in self._told.items()
            if fate == "lost" and tuple(name for name, _ in parts) == names
        ]
        return sorted(found, key=lambda parts: sum(place for _, place in parts))

    def _strongest(self, slot: int) -> list[tuple[str, int]]:
        """Of each family of the slot that combines, the strongest setting that was kept."""
        kept = [self._kept((one.name,)) for one in self.families if one.slot == slot and not one.alone]
        return [one[-1][0] for one in kept if one]

    # ------------------------------------------------------------ recipes

    def _make(self, parts: tuple[tuple[str, int], ...], cost: int) -> Candidate | None:
        """None where it cannot work on this model, which its forms and its items say on paper."""
        names, steps = [], []
        for number, (name, place) in enumerate(parts):
            if name == REPAIR:
                names.append(REPAIR)
                steps.append({"pass": REPAIR} | dict(self._named[parts[number - 1][0]].repairs or {}))
                continue
            label, settings = self._named[name].ladder[place]
            names.append(label)
            steps.append({"pass": self._named[name].technique} | dict(settings))
        recipe = read_recipe({"name": "-".join(names), "passes": steps}, "search")
        if any(pass_name(one) in LEARNING for one in recipe.passes) and not self.learns:
            return None
        try:
            recipe.check(self.form, self.has_items)
        except UsageError:
            return None
        return dataclasses.replace(Candidate(recipe, cost, parts), coded=self.coded)
