"""A space of architectures: choices for the settings of one builder, the others fixed.

    Space("separable", {"stem": (8, 16), "widths.0": (16, 32), "depth": (1, 2)}, {"widths": (0, 48), "strides": (2, 1)})

A name with a place behind a dot is an element of a setting that is a list. A code, one index for each choice, stands
for an architecture; where settings play no part (widths behind the depth), several codes stand for the same one.
"""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from math import prod
from typing import Any

from edge_runtime.compress.learn.builders import find_builder, make_builder
from edge_runtime.errors import UsageError

Code = tuple[int, ...]


@dataclass(frozen=True)
class Space:
    """Raises UsageError: an unknown builder or setting, a choice without values, values that the builder refuses."""

    builder: str
    choices: Mapping[str, tuple[Any, ...]] = field(hash=False)
    fixed: Mapping[str, Any] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        find_builder(self.builder)
        object.__setattr__(self, "choices", {name: _values(name, some) for name, some in self.choices.items()})
        for name, values in self.choices.items():
            if not values or len(set(values)) != len(values):
                raise UsageError(f"{self.builder}: choice {name!r}: found {list(values)}, wanted different values")
            for place in range(len(values)):  # each at least beside the first of all others
                self.decode(tuple(place if one == name else 0 for one in self.choices))

    @property
    def size(self) -> int:
        """Of codes."""
        return prod(len(values) for values in self.choices.values())

    def decode(self, code: Code) -> Any:
        """The builder that a code stands for."""
        if len(code) != len(self.choices):
            raise UsageError(f"found a code of {len(code)} places, wanted {len(self.choices)}")
        settings: dict[str, Any] = {k: list(v) if isinstance(v, tuple) else v for k, v in self.fixed.items()}
        for (name, values), place in zip(self.choices.items(), code, strict=True):
            top, _, inside = name.partition(".")
            if not inside:
                settings[top] = values[place]
                continue
            known = settings.get(top)
            if not isinstance(known, list) or not inside.isdigit() or int(inside) >= len(known):
                raise UsageError(f"choice {name!r}: found no such place in {top}: {known!r}; give a list among `fixed`")
            known[int(inside)] = values[place]
        return make_builder(self.builder, **settings)

    def encode(self, one: Any) -> Code:
        """The code of a builder. Raises UsageError where it is not in the space."""
        if not isinstance(one, find_builder(self.builder)):
            raise UsageError(f"found {type(one).__name__}, wanted a {self.builder}")
        plain, code = asdict(one), []
        for name, values in self.choices.items():
            top, _, inside = name.partition(".")
            value: Any = plain[top]
            if inside:  # places that play no part count as the first choice
                value = value[int(inside)] if int(inside) < len(value) else values[0]
            if value not in values:
                raise UsageError(f"{name}: found {value!r}, wanted one of {', '.join(map(repr, values))}")
            code.append(values.index(value))
        if self.decode(tuple(code)) != one:
            raise UsageError(f"found {one}, which differs from the space in what it holds fixed")
        return tuple(code)

    def draw(self, dice: random.Random) -> Code:
        return tuple(dice.randrange(len(values)) for values in self.choices.values())

    def mutate(self, code: Code, dice: random.Random) -> Code:
        """One choice made differently."""
        free = [place for place, values in enumerate(self.choices.values()) if len(values) > 1]
        if not free:
            return code
        place = dice.choice(free)
        others = [one for one in range(len(list(self.choices.values())[place])) if one != code[place]]
        return (*code[:place], dice.choice(others), *code[place + 1 :])

    def cross(self, one: Code, other: Code, dice: random.Random) -> Code:
        """Each choice from one of two."""
        return tuple(dice.choice(pair) for pair in zip(one, other, strict=True))

    def every(self) -> Iterator[Code]:
        """The first code of each architecture, in order."""
        seen = set()
        for code in itertools.product(*(range(len(values)) for values in self.choices.values())):
            key = key_of(self.decode(code))
            if key not in seen:
                seen.add(key)
                yield code


def _values(name: str, values: Any) -> tuple[Any, ...]:
    """A value that is a list becomes a tuple, as builders have it."""
    if not isinstance(values, tuple | list):
        raise UsageError(f"choice {name!r}: found {values!r}, wanted a tuple of values")
    made = tuple(tuple(one) if isinstance(one, list) else one for one in values)
    try:
        hash(made)
    except TypeError as error:
        raise UsageError(f"choice {name!r}: found {values!r}, wanted numbers, words, or lists of them") from error
    return made


def plain_of(one: Any) -> dict[str, Any]:
    """A builder as JSON has it."""
    from edge_runtime.compress.learn.builders import BUILDERS

    name = next(name for name, kind in BUILDERS.items() if type(one) is kind)
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(one).items()}
    return {"builder": name, **plain}


def from_plain(plain: Mapping[str, Any]) -> Any:
    """The builder again. Raises UsageError."""
    return make_builder(plain["builder"], **{key: value for key, value in plain.items() if key != "builder"})


def key_of(one: Any) -> str:
    """The same text for the same architecture."""
    return json.dumps(plain_of(one), sort_keys=True)
