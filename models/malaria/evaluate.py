"""The figures of the card. Everything with `test` in it is computed once, after all choices are made."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import people
from dataset import Cells
from people import Choice, People

from edge_runtime.task.gate import Gate
from edge_runtime.task.verdict import Calibration, Tally, decide, detectable

Floats = npt.NDArray[np.float32]
Figures = dict[str, Any]


def area(positive: Floats, negative: Floats) -> float:
    """Area under the ROC curve: how often a positive scores above a negative, ties half."""
    merged = np.sort(negative)
    below = np.searchsorted(merged, positive, "left") + np.searchsorted(merged, positive, "right")
    return float(below.mean() / 2 / len(negative))


def cell_figures(cells: Cells, scores: Floats, cut: float) -> dict[str, float]:
    """`cut` is the logit of 90 % sensitivity on val. Accuracy at logit 0 and areas leave malaria-healthy out."""
    balanced = np.char.startswith(cells.path, "malaria-cells")
    right, sure = (scores > 0) == cells.infected, ~cells.suspect
    positive, healthy = scores[cells.infected & sure], scores[cells.healthy]
    return {
        "accuracy": float(right[balanced].mean()),
        "accuracy_without_suspects": float(right[balanced & sure].mean()),
        "auc": area(scores[cells.infected], scores[balanced & ~cells.infected]),
        "auc_without_suspects": area(positive, scores[balanced & ~cells.infected & sure]),
        "auc_infected_against_all_healthy": area(positive, healthy),
        "sensitivity_at_cut": float((scores[cells.infected] >= cut).mean()),
        "sensitivity_at_cut_without_suspects": float((positive >= cut).mean()),
        "false_positives_per_5000_healthy": float(5000 * (healthy >= cut).mean()),
    }


def with_intervals(cells: Cells, scores: Floats, cut: float, times: int = 1000) -> Figures:
    """Each figure as [value, low, high]: 95 % by drawing persons with replacement, infected and healthy apart."""
    value = cell_figures(cells, scores, cut)
    places = {name: np.flatnonzero(cells.person == name) for name in sorted(set(cells.person.tolist()))}
    groups = [[p for p in places.values() if cells.healthy[p[0]] == healthy] for healthy in (False, True)]
    dice, drawn = np.random.default_rng(11), []
    for _ in range(times):
        pick = np.concatenate([group[i] for group in groups for i in dice.integers(0, len(group), len(group))])
        drawn.append(cell_figures(cells.where(pick), scores[pick], cut))
    return {
        name: [round(v, 5), *(round(float(np.quantile([d[name] for d in drawn], q)), 5) for q in (0.025, 0.975))]
        for name, v in value.items()
    }


def slide_figures(
    healthy: People, infected: People, calibration: Calibration, choice: Choice, least: int = 10
) -> Figures:
    """Slides drawn with replacement from these people's own cells, read by this calibration.

    `limit_shipped`: infected per 1,000 cells found on 95 % of slides, by the shipped rule: a slide of one infected
    person's infected cells among one healthy person's cells, averaged over all pairs. `limit_at_95` puts the count
    where exactly 95 % of these healthy people's slides stay below it. `limit_model`: by the fitted spreads alone.
    Infected people with fewer than `least` infected cells say too little about a rate and are left out.
    """
    well = people.rates(healthy, calibration.threshold)
    ill = people.rates({k: v for k, v in infected.items() if len(v) >= least}, calibration.threshold)
    result: Figures = {"healthy_people": len(well), "infected_people": len(ill)}
    for cells in choice.slides:
        count = people.needed(cells, calibration)
        lowest = next(k for k in range(cells + 1) if people.share_found(k, cells, 0.0, well, ill) <= choice.false_alarm)
        result[str(cells)] = {
            "needed": count,
            "healthy_called": round(people.share_found(count, cells, 0.0, well, ill), 4),
            "limit_shipped": round(1000 * people.measured_limit(count, cells, choice.confidence, well, ill), 2),
            "needed_at_95": lowest,
            "limit_at_95": round(1000 * people.measured_limit(max(2, lowest), cells, choice.confidence, well, ill), 2),
            "limit_model": round(1000 * detectable(cells, calibration), 2),
        }
    return result


def read_people(cells: Cells, scores: Floats, features: Floats, calibration: Calibration) -> dict[str, dict[str, Any]]:
    """The verdict on each person's cells as one slide, gate included."""
    result = {}
    for name in sorted(set(cells.person.tolist())):
        tally = Tally(calibration)
        for place in np.flatnonzero(cells.person == name):
            tally.add(float(scores[place]), features[place])
        result[name] = decide(tally, calibration)
    return result


def verdict_table(verdicts: dict[str, dict[str, Any]], cells: Cells) -> Figures:
    """Counts by verdict, of infected and of healthy people apart."""
    table: Figures = {}
    for group, healthy in (("infected", False), ("healthy", True)):
        names = set(cells.person[cells.healthy == healthy].tolist())
        found = [verdict["verdict"] for name, verdict in verdicts.items() if name in names]
        table[group] = {kind: found.count(kind) for kind in ("parasites_found", "none_found", "repeat")}
    return table


def refused(gate: Gate, features: Floats, groups: npt.NDArray[np.str_], least: int = 12) -> tuple[int, int]:
    """(refused, all) batches of at least so many cells."""
    verdicts = []
    for name in sorted(set(groups.tolist())):
        mask = groups == name
        if mask.sum() >= least:
            means = [float(value) for value in features[mask].mean(axis=0)]
            verdicts.append(gate.judge(means, int(mask.sum()))[0] > 1)
    return sum(verdicts), len(verdicts)


def damage_table(damaged: dict[str, tuple[Floats, Floats]], cells: Cells, calibration: Calibration) -> list[Figures]:
    """By damage: points of sensitivity lost at the shipped threshold and at logit 0, and the share of people refused.

    `damaged`: name -> (logits (N,), features (N,F)) of the same cells; "none" is the clean ones.
    """
    clean = damaged["none"][0]
    sure = cells.infected & ~cells.suspect

    def lost(scores: Floats, cut: float) -> float:
        return round(100 * float((clean[sure] >= cut).mean() - (scores[sure] >= cut).mean()), 1)

    rows = []
    for name, (scores, features) in damaged.items():
        no, all_ = refused(calibration.gate, features, cells.person)
        rows.append(
            {
                "damage": name,
                "sensitivity_lost": lost(scores, calibration.threshold),
                "sensitivity_lost_at_0": lost(scores, 0.0),
                "healthy_called": round(float((scores[cells.healthy] >= calibration.threshold).mean()), 4),
                "refused": round(no / all_, 3),
            }
        )
    return rows
