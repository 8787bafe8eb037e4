"""What a cell network is worth on slides: false alarms of healthy people, and the smallest infection that is found.

A cell's accuracy says little of a slide: of 5,000 cells all but a few are clean, so a network that is as often right
may call so many more clean cells that a small infection no longer stands out. Judged are items that say whose cells
they are (compress/samples.py: `person`, `healthy`); these should be people that neither network has seen.

    cut                                the logit of 90 % sensitivity on these items, of this network's own answers
    false_positives                    cells of healthy people at or above it; of `healthy_cells` of `healthy_people`
    false_positives_per_5000_healthy   the same of 5,000
    sensitivity, healthy_called        shares of infected and of healthy people's cells at the bundle's own threshold
    detectable                         {cells of a slide: smallest share of infected cells found on 95 % of slides}: by
                                       the bundle's own rules, slides of these infected people's infected cells among
                                       these healthy people's cells, simulated from their rates at that threshold
    healthy_slides_called              {cells: share of slides of these healthy people that are called infected}
    accuracy_at_0                      of all cells, where both classes are as likely
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edge_runtime.errors import InputError
from edge_runtime.task.verdict import Calibration

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edge_runtime.compress.samples import Samples

SLIDES = (1000, 5000)
SENSITIVITY = 0.9
LEAST_CELLS = 10  # of an infected person: fewer say too little about a rate


@dataclass(frozen=True)
class Rules:
    """How much worse slides may be read than by the original: times its false positives at 90 % sensitivity, where one
    cell more always may be (of few cells it is chance), and times its limit of detection. Slides of healthy people may
    be called as often as the bundle says that they are at most (`alarms`), or as by the original."""

    false_positives: float = 1.25
    detection: float = 1.10

    def broken(self, before: Mapping[str, Any], after: Mapping[str, Any], alarms: float) -> tuple[str, ...]:
        """Each rule that does not hold, as a sentence."""
        found = []
        was, now = before["false_positives"], after["false_positives"]
        if now > max(self.false_positives * was, was + 1):
            found.append(
                f"slides: {now} of {after['healthy_cells']} healthy cells called at {SENSITIVITY:.0%} sensitivity, "
                f"the original {was}: allowed {self.false_positives:g} times as many"
            )
        for cells, share in after["detectable"].items():
            if share > self.detection * before["detectable"][cells]:
                found.append(
                    f"slides: finds {1000 * share:.1f} infected of 1,000 on slides of {int(cells):,} cells, the "
                    f"original {1000 * before['detectable'][cells]:.1f}: allowed {self.detection:g} times that"
                )
        for cells, share in after["healthy_slides_called"].items():
            if share > max(alarms, before["healthy_slides_called"][cells]):
                found.append(
                    f"slides: calls {share:.1%} of healthy people's slides of {int(cells):,} cells infected, the "
                    f"original {before['healthy_slides_called'][cells]:.1%}: allowed {alarms:.0%}"
                )
        return tuple(found)


def calibration_of(task: Mapping[str, Any]) -> Calibration | None:
    """Of a slides bundle's task; None for any other."""
    settings = task.get("calibration")
    return Calibration.from_json(settings) if task.get("kind") == "slides" and isinstance(settings, Mapping) else None


def why_not(task: Mapping[str, Any], samples: Samples | None) -> str | None:
    """Why the figures of a slides bundle cannot be told; None where they can, or where the task is another."""
    if calibration_of(task) is None or (samples is not None and samples.person is not None):
        return None
    return "slides were not judged: the items do not say whose cells they are (arrays `person` and `healthy`)"


def figures(output: NDArray[np.float32], samples: Samples, calibration: Calibration) -> dict[str, Any]:
    """`output`: logits (N,1) of `samples`, which have labels, person and healthy.

    Raises InputError where there are no cells of healthy or none of infected people."""
    import numpy as np

    from edge_runtime.compress import people

    scores = output.reshape(-1)
    person, healthy, labels = samples.person, samples.healthy, samples.labels
    assert person is not None and healthy is not None and labels is not None
    infected = (labels == 1) & ~healthy
    if len(scores) != samples.count or not infected.any() or not healthy.any():
        raise InputError(
            f"{samples.name}: found {int(infected.sum())} infected cells and {int(healthy.sum())} of healthy people, "
            "wanted some of both to judge slides by, and one logit a cell"
        )
    cut = float(np.quantile(scores[infected], 1 - SENSITIVITY))
    threshold = calibration.threshold
    every = people.by_person(scores, person, infected)
    enough = {name: one for name, one in every.items() if len(one) >= LEAST_CELLS} or every
    well, ill = people.rates(people.by_person(scores, person, healthy), threshold), people.rates(enough, threshold)
    counts = {cells: people.needed(cells, calibration) for cells in SLIDES}
    false = int((scores[healthy] >= cut).sum())
    return {
        "cut": cut,
        "false_positives": false,
        "healthy_cells": int(healthy.sum()),
        "healthy_people": len(well),
        "infected_people": len(ill),
        "false_positives_per_5000_healthy": 5000 * false / int(healthy.sum()),
        "sensitivity": float((scores[infected] >= threshold).mean()),
        "healthy_called": float((scores[healthy] >= threshold).mean()),
        "detectable": {
            str(cells): people.measured_limit(count, cells, calibration.confidence, well, ill)
            for cells, count in counts.items()
        },
        "healthy_slides_called": {
            str(cells): people.share_found(count, cells, 0.0, well, ill) for cells, count in counts.items()
        },
        "accuracy_at_0": float(((scores > 0) == (labels == 1)).mean()),
    }
