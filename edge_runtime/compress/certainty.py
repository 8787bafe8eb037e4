"""How sure a drop is: its interval on the items that it was judged on, what they cannot tell, and a test on others.

The original and the compressed net answer the same items, so what counts is the items on which one is right and the
other is not. Intervals of 95 %:

    accuracy         the square-and-add score interval for a difference of paired proportions (R. G. Newcombe, "Improved
                     confidence intervals for the difference between binomial proportions based on paired data",
                     Statistics in Medicine 17, 1998, method 10)
    decisions kept   E. B. Wilson's score interval (1927); of pixels a normal interval of the items' shares
    other scores     percentiles of 2,000 draws of the items with replacement, with both nets' answers (B. Efron, 1979);
                     none where all decisions are the same: then such draws say nothing

Where items say whose cells they are, people are drawn and not cells, which are alike within a person: of fewer than
about 20 people even that is too narrow. Other items are taken for independent. No interval knows that the files were
chosen because they did well on these very items: only items that took no part in the choice (`--test`) do.

report["search"]["certainty"] is {"judged", "test": null or as `judged` with "seen": how many
are among the items of another option, "candidates": files among which was chosen,
"warnings"}; of items {"name", "items", "one_item": points or null, "rows": [{"name", "recipe", "engine", "drop",
"interval": [low, high] points or null, "method", "better", "worse": decided right (or as the original) by one only,
"score", "original", "error_points": standard error of the drop, "broken": rules of slides}]}.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_runtime.compress import slide_figures
from edge_runtime.compress.drift import compare, decisions, squares
from edge_runtime.compress.outputs import BATCH, answers, specs
from edge_runtime.compress.products import forms
from edge_runtime.compress.samples import Samples, load_samples
from edge_runtime.compress.scores import check_labels, scores
from edge_runtime.compress.search_words import CHANGE, short
from edge_runtime.compress.steps import run_recipe
from edge_runtime.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edge_runtime.compress.artifact import Artifact
    from edge_runtime.compress.candidates import Candidate
    from edge_runtime.compress.judging import Bench, Judged
    from edge_runtime.compress.run import Ready
    from edge_runtime.compress.slide_figures import Rules

    Decided = NDArray[np.int64]

Point = Mapping[str, Any]
_Z = 1.959964  # of 95 %
_DRAWS = 2000


# ---------------------------------------------------------------- intervals, as shares


def wilson(hits: int, count: int) -> tuple[float, float]:
    """For hits of count."""
    share, square = hits / count, _Z**2
    middle = (share + square / (2 * count)) / (1 + square / count)
    half = _Z * math.sqrt(share * (1 - share) / count + square / (4 * count**2)) / (1 + square / count)
    return max(0.0, middle - half), min(1.0, middle + half)


def newcombe(both: int, first: int, second: int, neither: int) -> tuple[float, float]:
    """For the first's share less the second's, of items that both, one alone, or neither has right."""
    count = both + first + second + neither
    one, other = (both + first) / count, (both + second) / count
    (low_1, high_1), (low_2, high_2) = wilson(both + first, count), wilson(both + second, count)
    margins = (both + first) * (second + neither) * (both + second) * (first + neither)
    cross: float = both * neither - first * second
    if cross > 0:
        cross = max(cross - count / 2, 0)  # the continuity correction of method 10
    tie = cross / math.sqrt(margins) if margins else 0.0

    def side(a: float, b: float) -> float:
        return math.sqrt(max(a * a - 2 * tie * a * b + b * b, 0.0))

    gap = one - other
    return gap - side(one - low_1, high_2 - other), gap + side(high_1 - one, other - low_2)


def drawn(
    before: Decided, after: Decided, labels: Decided, score: str, classes: int, person: Any = None
) -> tuple[float, float] | None:
    """Percentiles of the loss of a score, of items or (`person`: whose each is) of people drawn with replacement; None
    where nothing is decided otherwise."""
    import numpy as np

    if (before == after).all():
        return None
    kinds, which = np.unique(np.stack([labels, before, after]), axis=1, return_inverse=True)
    which, dice = which.reshape(-1), np.random.default_rng(1)
    if person is None:
        draws = dice.multinomial(len(labels), np.bincount(which) / len(labels), size=_DRAWS)
    else:
        names, whose = np.unique(person, return_inverse=True)
        held = np.zeros((len(names), kinds.shape[1]), np.int64)
        np.add.at(held, (whose, which), 1)
        draws = dice.multinomial(len(names), np.full(len(names), 1 / len(names)), size=_DRAWS) @ held
    lost = _of_draws(draws, kinds[0], kinds[1], score, classes) - _of_draws(draws, kinds[0], kinds[2], score, classes)
    low, high = np.quantile(lost, (0.025, 0.975))
    return float(low), float(high)


def _of_draws(draws: NDArray[np.int64], labels: Decided, found: Decided, score: str, classes: int) -> Any:
    """As scores.scores, for each draw: of class 1 of two, else the mean over the classes that there are."""
    import numpy as np

    if score == "accuracy":
        return draws[:, found == labels].sum(1) / np.maximum(1, draws.sum(1))
    parts = []
    for one in [1] if classes == 2 else np.unique(labels):
        hit = draws[:, (found == one) & (labels == one)].sum(1)
        precision = hit / np.maximum(1, draws[:, found == one].sum(1))
        recall = hit / np.maximum(1, draws[:, labels == one].sum(1))
        f1 = 2 * precision * recall / np.maximum(1e-12, precision + recall)
        parts.append({"precision": precision, "recall": recall, "f1": f1}[score])
    return np.mean(parts, axis=0)


def paired(
    before: Decided, after: Decided, labels: Decided | None, score: str, classes: int, person: Any = None
) -> dict[str, Any]:
    """`interval` in points, `method`, `better`, `worse`, `error_points` of what `after` loses. Decisions (N,), or
    (N, K) where an item has several and there are no labels."""
    count = before.size
    if labels is None and before.ndim > 1 and before.shape[1] > 1:
        return _of_maps((before != after).mean(axis=1))
    if labels is None:
        worse, better = int((before != after).sum()), 0
        interval, method = wilson(worse, count), "Wilson's score interval"
    else:
        right, now = before == labels, after == labels
        worse, better = int((right & ~now).sum()), int((now & ~right).sum())
        both = int((right & now).sum())
        made = None if score == "accuracy" and person is None else drawn(before, after, labels, score, classes, person)
        if score == "accuracy" and made is None:
            interval = newcombe(both, worse, better, count - both - worse - better)
            method = "Newcombe's score interval for paired proportions"
        else:
            method = f"{_DRAWS:,} draws of {'the items' if person is None else 'people'}"
            low_high = None if made is None else [100 * one for one in made]
            error = None if made is None else 100 * (made[1] - made[0]) / (2 * _Z)
            return _row(low_high, method, better, worse, error or 100 / count)
    spread = max(worse + better - (worse - better) ** 2 / count, 1.0)  # where none changed, one might have
    return _row([100 * one for one in interval], method, better, worse, 100 * math.sqrt(spread) / count)


def _of_maps(changed: NDArray[np.float64]) -> dict[str, Any]:
    """Of items with many decisions each, as pixels: these are no independent draws, items are."""
    share, count = float(changed.mean()), len(changed)
    error = float(changed.std(ddof=1)) / math.sqrt(count) if count > 1 else 1.0
    interval = [100 * max(0.0, share - _Z * error), 100 * min(1.0, share + _Z * error)]
    worse = int((changed > 0).sum())
    return _row(interval, "normal interval of the items' shares", 0, worse, 100 * max(error, 1 / count**1.5))


def _of_numbers(squares: NDArray[np.float64]) -> dict[str, Any]:
    """Of items whose outputs are numbers: the change's root mean square, as drift.squares has it for each."""
    mean, count = float(squares.mean()), len(squares)
    error = float(squares.std(ddof=1)) / math.sqrt(count) if count > 1 else mean
    interval = [100 * math.sqrt(max(0.0, mean + side * _Z * error)) for side in (-1, 1)]
    points = 100 * math.sqrt(mean)
    changed, spread = int((squares > 1e-12).sum()), 100 * error / (2 * math.sqrt(mean)) if mean else 0.0
    row = {"drop": points, "score": 1 - points / 100, "original": 1.0}
    return row | _row(interval, "normal interval of the items' mean squares", 0, changed, spread)


def _row(interval: list[float] | None, method: str, better: int, worse: int, error: float) -> dict[str, Any]:
    return {"interval": interval, "method": method, "better": better, "worse": worse, "error_points": error}


# ---------------------------------------------------------------- items to test on


def test_items(path: Path | None, ready: Ready) -> Samples | None:
    """Read and checked, before anything is tried. Raises UsageError where they are the items that files are made from
    or chosen by, InputError where they cannot be read."""
    if path is None:
        return None
    inputs, outputs = specs(ready.original)
    found = load_samples(path, inputs, ready.about, judged=True)
    for option, count in _seen(found, ready).items():
        if count == found.count:
            raise UsageError(
                f"found the same items for --test and {option}, wanted others: a test is of items that nothing was "
                "made from or chosen by",
                hint="hold some items back for it",
            )
    if found.labels is None and ready.judged is not None and ready.judged.labels is not None:
        raise UsageError(f"--test {path}: found no labels, wanted some as --judge has: the drop is of a score")
    if found.labels is not None and outputs[0].shape:
        check_labels(found.labels, outputs[0].shape[-1], found.name)
    return found


def _seen(test: Samples, ready: Ready) -> dict[str, int]:
    """How many of the items are also among those of each option."""
    others = {"--judge": ready.judged, "--calibrate": ready.samples, "--train": ready.lessons}
    return {option: test.shared(one) for option, one in others.items() if one is not None}


# ---------------------------------------------------------------- of a search


def certainty(
    chosen: Sequence[Point],
    tried: Sequence[tuple[Candidate, Judged]],
    bench: Bench,
    plain: Mapping[str, Any],
    rules: Rules,
    test: Samples | None,
) -> dict[str, Any]:
    """For the files that are written. `plain`: the search as the report has it; `test`: items looked at here alone."""
    names = {one["recipe"] for one in chosen}
    files: dict[tuple[str, str], Artifact] = {}
    for candidate, _ in tried:
        if candidate.name in names:
            artifact, _ = run_recipe(bench.ready.original, candidate.recipe, bench.context, keep=bench.job.keep)
            made = forms(candidate.recipe, artifact, bench.job.target.engines)
            files |= {(candidate.name, one.engine): one.artifact for one in made}
    first = tried[0][0]
    started, _ = run_recipe(bench.ready.original, first.recipe, bench.context, keep=bench.job.keep)
    originals = {one.engine: one.artifact for one in forms(first.recipe, started, bench.job.target.engines)}

    def on(samples: Samples) -> dict[str, Any]:
        reference = answers(bench.ready.original, samples, BATCH)
        before = {engine: answers(one, samples, BATCH) for engine, one in originals.items()}
        rows = []
        for point in chosen:
            found = answers(files[point["recipe"], point["engine"]], samples, BATCH)
            cut = compare(reference, found, samples.cut).cut
            row = _judge(before[point["engine"]], found, reference, samples, plain["score"], cut)
            was, now = (_slide(one, samples, bench.ready) for one in (before[point["engine"]], found))
            row["broken"] = list(rules.broken(was[0], now[0], now[1])) if was and now else []
            if was and now and plain["score"] == "accuracy":  # as the search: where both classes are as likely, too
                row["drop"] = max(row["drop"], 100 * (was[0]["accuracy_at_0"] - now[0]["accuracy_at_0"]))
            rows.append({"name": point["name"], "recipe": point["recipe"], "engine": point["engine"]} | row)
        one_item = None if plain["score"] == CHANGE else 100 / samples.count
        return {"name": Path(samples.name).name, "items": samples.count, "one_item": one_item, "rows": rows}

    found = {
        "judged": on(bench.judged),
        "test": None if test is None else on(test) | {"seen": _seen(test, bench.ready)},
        "candidates": len(plain["points"]),
    }
    return found | {"warnings": _warnings(found, plain)}


def _judge(
    before: Mapping[str, Any], after: Mapping[str, Any], reference: Mapping[str, Any], samples: Samples, score: str,
    cut: float,
) -> dict[str, Any]:  # fmt: skip
    """Against the original on the same engine; where there are no labels, against the original as it was given."""
    if score == CHANGE:
        return _of_numbers(squares(reference, after))
    labels = samples.labels
    base = reference if labels is None else before
    was, now = (decisions(next(iter(one.values())), cut) for one in (base, after))
    if labels is None:
        kept = float((was == now).mean())
        row = {"drop": 100 * (1 - kept), "score": kept, "original": 1.0}
        return row | paired(was, now, None, score, 2)
    old, new = scores(before, labels, cut)[score], scores(after, labels, cut)[score]
    classes = check_labels(labels, next(iter(after.values())).shape[-1], samples.name)
    row = {"drop": round(100 * (old - new), 6), "score": new, "original": old}
    return row | paired(was[:, 0], now[:, 0], labels, score, classes, samples.person)


def _slide(output: Mapping[str, Any], samples: Samples, ready: Ready) -> tuple[dict[str, Any], float] | None:
    """Its figures and how often healthy slides may be called; None of what is no slides bundle's."""
    calibration = slide_figures.calibration_of(ready.about.task) if ready.about else None
    if calibration is None or samples.person is None:
        return None
    return slide_figures.figures(next(iter(output.values())), samples, calibration), calibration.false_alarm


def _warnings(found: Mapping[str, Any], plain: Mapping[str, Any]) -> list[str]:
    made = []
    allowed, judged, test = plain["max_drop"], found["judged"], found["test"]
    error = max((row["error_points"] for row in judged["rows"]), default=0.0)
    if allowed < 2 * error:
        one_item = f", one item is {short(judged['one_item'])}" if judged["one_item"] else ""
        made.append(
            f"{judged['items']:,} {'item is' if judged['items'] == 1 else 'items are'} few for a drop of {allowed:g} "
            f"points: its standard error is {short(error)} points{one_item}"
        )
    if (said := cannot_bind(plain["slides"])) is not None:
        made.append(said)
    for option, count in test["seen"].items() if test else ():
        if count:
            made.append(f"{count} of the {test['items']:,} items of {test['name']} are among those of {option} too")
    for row in test["rows"] if test else ():
        who = f"{row['name']} on {row['engine']}"
        if row["drop"] > allowed + 1e-9:
            made.append(
                f"{who} loses {row['drop']:.2f} points on the {test['items']:,} items of {test['name']}, more than the "
                f"{allowed:g} allowed"
            )
        made += [f"{who}, on {test['name']}: {one}" for one in row["broken"]]
    return made


def cannot_bind(slides: Mapping[str, Any] | None) -> str | None:
    """Said where a false positive more, which always may be, is more than the rule of so many times allows."""
    if not slides or "original" not in slides:
        return None
    first, times = slides["original"], slides["false_positives"]
    was = first["false_positives"]
    if times * was >= was + 1:
        return None
    return (
        f"the original calls {was} of {first['healthy_cells']} healthy cells: {times:g} times that is less than the "
        "one more that always may be, so the rule of false positives could not bind; give more healthy cells"
    )
