"""Fitting the quality gate: how slides of the training people look, what damage does to them, how far is too far."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from dataset import Cells
from sklearn.linear_model import LogisticRegression

from edge_runtime.task.cells import FEATURES
from edge_runtime.task.gate import CLIP, Gate

Floats = npt.NDArray[np.float32]

# Damages that the gate is taught to know, by name in damage.DAMAGES; the others only measure it.
TAUGHT = (
    "blur 0.03", "blur 0.04", "blur 0.06", "saturation 0.0", "saturation 0.25", "saturation 0.5", "saturation 2.0",
    "contrast 0.3", "contrast 0.5", "contrast 0.7", "hue -0.15", "hue -0.08", "hue 0.15", "exposure 0.4",
    "exposure 0.55", "exposure 1.8", "jpeg 5", "small 16",
)  # fmt: skip


@dataclass(frozen=True)
class GateSettings:
    far: float = 0.015  # share of people's slides refused for their distance, measured on people left out
    damaged: float = 0.03  # share refused as damaged, likewise
    least: int = 8  # cells of a batch that counts
    folds: int = 8
    ridge: float = 0.02  # added to the variance between persons along each direction, as a share of its median
    freedom: float = 10.0  # inverse strength of the logistic regression's penalty


@dataclass(frozen=True)
class Batches:
    """Means float32 (B,F) of what cells.features measures, of how many cells, and whose."""

    means: Floats
    cells: npt.NDArray[np.int64]
    person: npt.NDArray[np.str_]

    def where(self, mask: npt.NDArray[np.bool_]) -> Batches:
        return Batches(self.means[mask], self.cells[mask], self.person[mask])


def batches(features: Floats, cells: Cells, least: int) -> Batches:
    """Each person's clean cells, and clean and infected ones together: parasites must not look like damage."""
    means, counts, names = [], [], []
    for name in sorted(set(cells.person.tolist())):
        mine = cells.person == name
        for mask in (mine, mine & ~cells.infected) if cells.infected[mine].any() else (mine,):
            if mask.sum() >= least:
                means.append(features[mask].mean(axis=0))
                counts.append(int(mask.sum()))
                names.append(name)
    return Batches(np.stack(means), np.array(counts), np.array(names))


def fit(features: Floats, cells: Cells, some: Cells, damaged: dict[str, Floats], settings: GateSettings) -> Gate:
    """The gate of these people. `damaged`: features (M,F) of their cells `some` by damage, "none" among them."""
    clean = batches(features, cells, settings.least)
    hurt = {name: batches(values, some, settings.least) for name, values in damaged.items()}
    names = sorted(set(clean.person.tolist()))
    order = {name: place % settings.folds for place, name in enumerate(names)}
    fold = np.array([order[name] for name in clean.person.tolist()])
    far, damage = np.zeros(len(fold)), np.zeros(len(fold))
    for part in range(settings.folds):
        kept = np.array([order.get(name, -1) != part for name in cells.person.tolist()])
        gate = _fit(features[kept], cells.where(kept), clean.where(fold != part), settings)
        rest = {
            name: found.where(np.array([order.get(who) != part for who in found.person.tolist()]))
            for name, found in hurt.items()
        }
        gate = _teach(gate, clean.where(fold != part), rest, settings)
        out = clean.where(fold == part)
        x = [gate.standard(mean.tolist()) for mean in out.means]
        far[fold == part] = [gate.distance(a, int(n)) for a, n in zip(x, out.cells, strict=True)]
        damage[fold == part] = [gate.damage(a) for a in x]
    gate = _teach(_fit(features, cells, clean, settings), clean, hurt, settings)
    return replace(
        gate,
        limit=float(np.quantile(far, 1 - settings.far)),
        damage_limit=float(np.quantile(damage, 1 - settings.damaged)),
    )


def distance(gate: Gate, means: Floats, cells: int) -> float:
    return gate.judge(means.tolist(), int(cells))[0]


def _fit(features: Floats, cells: Cells, found: Batches, settings: GateSettings) -> Gate:
    """Distance: whiten by how one person's cells vary, then turn to the axes along which people differ."""
    middle = found.means.mean(axis=0).astype(np.float64)
    scale = found.means.std(axis=0).astype(np.float64)
    mine = [features[cells.person == name] for name in set(found.person.tolist())]
    within = np.cov(np.concatenate([(values - values.mean(axis=0)) / scale for values in mine]).T)
    means = (found.means - middle) / scale
    between = np.cov(means.T) - within * float((1 / found.cells).mean())
    values, vectors = np.linalg.eigh(within)
    whiten = (vectors / np.sqrt(np.maximum(values, values.max() * 1e-4))) @ vectors.T
    spread, turn = np.linalg.eigh(whiten @ between @ whiten)
    spread = np.maximum(spread, 0) + settings.ridge * float(np.median(np.maximum(spread, 0)))
    rows = turn.T @ whiten
    size = len(middle)
    return Gate(
        FEATURES,
        tuple(middle.tolist()),
        tuple(scale.tolist()),
        tuple(tuple(row) for row in rows.tolist()),
        tuple(spread.tolist()),
        1.0,
        (0.0,) * size,
        (0.0,) * (size * (size + 1) // 2),
        0.0,
        1.0,
    )


def _teach(gate: Gate, clean: Batches, hurt: dict[str, Batches], settings: GateSettings) -> Gate:
    """Damage: clean slides against damaged ones, both classes equally heavy."""
    good = [clean.means, hurt["none"].means]
    bad = [hurt[name].means for name in TAUGHT]
    means = np.concatenate(good + bad).astype(np.float64)
    label = np.concatenate([np.zeros(sum(map(len, good))), np.ones(sum(map(len, bad)))])
    x = np.clip((means - np.array(gate.middle)) / np.array(gate.scale), -CLIP, CLIP)
    left, right = np.triu_indices(x.shape[1])
    model = LogisticRegression(C=settings.freedom, max_iter=5000, class_weight="balanced")
    model.fit(np.concatenate([x, x[:, left] * x[:, right]], axis=1), label)
    weights = model.coef_[0].tolist()
    size = x.shape[1]
    return replace(
        gate, linear=tuple(weights[:size]), products=tuple(weights[size:]), offset=float(model.intercept_[0])
    )
