"""Which units go: the same share of each group, or the least important of all under a target of MACs or parameters."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd
from typing import TYPE_CHECKING, Any

import numpy as np

from edge_runtime.compress.groups import Costs, Dependencies, Group
from edge_runtime.errors import InputError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Keep = NDArray[np.bool_]


@dataclass(frozen=True)
class Limits:
    """`floor`: the least share of a group that stays; `multiple`: what counts of channels are rounded to."""

    floor: float = 0.1
    multiple: int = 8
    skip: tuple[str, ...] = ()

    def allow(self, group: Group) -> bool:
        return not set(group.makers) & set(self.skip)

    def rounded(self, group: Group, wanted: int) -> int:
        """Units that stay, of `wanted`: to the nearest multiple, within the floor and the group's size."""
        size, step = len(group.units), self.multiple // gcd(self.multiple, group.width)
        least = max(1, int(np.ceil(size * self.floor)))
        count = max(wanted, least)
        if step > 1:
            count = max(round(count / step), 1) * step
            count += step if count < least else 0
        return min(count, size)


def by_share(dependencies: Dependencies, scores: Any, share: float, limits: Limits) -> Keep:
    """`share` of each group's units goes. Raises InputError where there is no group of which some may."""
    keep = dependencies.everything()
    allowed = [group for group in dependencies.groups if limits.allow(group)]
    if not allowed:
        raise _whole(dependencies, limits)
    for group in allowed:
        _drop(keep, group, scores, limits.rounded(group, round(len(group.units) * (1 - share))))
    return keep


def by_target(dependencies: Dependencies, scores: Any, macs: float, parameters: float, limits: Limits) -> Keep:
    """The most that keeps MACs (and parameters) at or under a share of the whole; 0 for no such target.

    Units are ranked by what they matter for each MAC (or parameter) that goes with them. Raises InputError where even
    the floors leave more than the target.
    """
    costs = dependencies.costs()
    everything = dependencies.everything()
    measure = dependencies.macs if macs else dependencies.parameters
    wanted = (macs or parameters) * measure(everything, costs)
    worth = {
        group.number: scores[list(group.units)] / _saved(dependencies, group, costs, bool(macs))
        for group in dependencies.groups
        if limits.allow(group)
    }
    if not worth:
        raise _whole(dependencies, limits)
    order = np.unique(np.concatenate(list(worth.values())))

    def under(place: int) -> Keep:
        """Without all units whose worth is below that of `place` in the order."""
        keep = dependencies.everything()
        for group in dependencies.groups:
            if group.number in worth:
                bar = order[place] if place < len(order) else np.inf
                _drop(keep, group, scores, limits.rounded(group, int((worth[group.number] >= bar).sum())))
        return keep

    low, high = 0, len(order)
    if measure(under(high), costs) > wanted:
        what, left = "MACs" if macs else "parameters", measure(under(high), costs) / measure(everything, costs)
        raise InputError(
            f"found that at least {left:.2f} of the {what} must stay, wanted {macs or parameters}: layers that stay "
            f"whole, floors and rounding hold the rest",
            hint="a smaller floor or multiple",
        )
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if measure(under(middle), costs) <= wanted else (middle, high)
    return under(high if measure(under(low), costs) > wanted else low)


def _whole(dependencies: Dependencies, limits: Limits) -> InputError:
    skipped = f" beside those of skip, {', '.join(limits.skip)}" if limits.skip else ""
    hint = "single weights of any layer may go: the pass prune_weights, or another kind of prune_and_tune"
    return InputError(f"found no channels that may go, wanted some{skipped}:\n{dependencies}", hint=hint)


def _saved(dependencies: Dependencies, group: Group, costs: Costs, of_macs: bool) -> float:
    """What goes with one unit of a group, the rest being whole."""
    keep = dependencies.everything()
    keep[list(group.units)] = False
    measure = dependencies.macs if of_macs else dependencies.parameters
    return max((measure(dependencies.everything(), costs) - measure(keep, costs)) / len(group.units), 1.0)


def _drop(keep: Keep, group: Group, scores: Any, count: int) -> None:
    """Leave the `count` most important; of equals, those that come first."""
    units = np.array(group.units)
    keep[units[np.argsort(-scores[units], kind="stable")[count:]]] = False
