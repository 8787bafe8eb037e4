"""Channels that must stay or go together: sets joined as a graph is walked, and what is known of each tensor."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Ids = NDArray[np.int64]


@dataclass(frozen=True)
class Label:
    """One axis of a computed tensor counts channels: `ids` int64, one for each place on that axis."""

    axis: int
    ids: Ids


@dataclass(frozen=True)
class Mark:
    """An axis of an initializer that shrinks with its channels. `role`: out (a layer makes them), in (a layer reads
    them), along (a bias, a normalization, a constant beside them)."""

    value: str
    axis: int
    node: int
    place: int
    role: str
    ids: Ids


@dataclass(frozen=True)
class Fix:
    """What else must change with a tensor's channels: a node's `group`, the sizes that a Reshape, Resize, Split or
    Slice states. `place`: which input holds them."""

    kind: str
    node: int
    place: int
    axis: int
    parts: tuple[Ids, ...]


@dataclass
class Channels:
    """Sets of channel numbers (union-find), and why some may not go."""

    parent: list[int] = field(default_factory=list)
    reasons: dict[int, str] = field(default_factory=dict)

    def fresh(self, count: int) -> Ids:
        start = len(self.parent)
        self.parent.extend(range(start, start + count))
        return np.arange(start, start + count)

    def root(self, one: int) -> int:
        path = []
        while self.parent[one] != one:
            path.append(one)
            one = self.parent[one]
        for each in path:
            self.parent[each] = one
        return one

    def join(self, first: Ids, second: Ids) -> None:
        """Place by place."""
        for one, other in zip(first.ravel().tolist(), second.ravel().tolist(), strict=True):
            kept, gone = sorted((self.root(one), self.root(other)))
            self.parent[gone] = kept

    def freeze(self, ids: Ids, reason: str) -> None:
        for one in ids.ravel().tolist():
            self.reasons.setdefault(one, reason)

    def roots(self) -> Ids:
        return np.array([self.root(one) for one in range(len(self.parent))], np.int64)

    def frozen(self) -> dict[int, str]:
        """By root."""
        found: dict[int, str] = {}
        for one, reason in sorted(self.reasons.items()):
            found.setdefault(self.root(one), reason)
        return found
