"""The shipped net with fewer bits, with fewer weights, and with fewer channels, each taught again, judged on both
engines:

    python models/malaria/learn_bits.py WORK [--only NAME ...] [--test]

Every variant begins from the float net of the shipped bundle, whose word on the same pictures counts beside the label.
WORK keeps decoded cells and finished files. Without --test all is judged on val, to choose by; with it on test, once,
and rows go to bench.jsonl. About a minute a variant on one core. Needs the extra train and Pillow.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

import dataset  # noqa: E402
import engines  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from dataset import Cells  # noqa: E402
from evaluate import cell_figures  # noqa: E402
from learn import Settings, lesson_weights, vary  # noqa: E402
from torch.nn import functional  # noqa: E402

from edge_runtime.bundle import load_bundle  # noqa: E402
from edge_runtime.compress.artifact import Artifact, slim  # noqa: E402
from edge_runtime.compress.code import for_bundle  # noqa: E402
from edge_runtime.compress.count import Counts, count  # noqa: E402
from edge_runtime.compress.learn.graph_net import GraphNet  # noqa: E402
from edge_runtime.compress.learn.lessons import Lessons  # noqa: E402
from edge_runtime.compress.learn.loop import Fit, Loss  # noqa: E402
from edge_runtime.compress.learn.prune_tune import PruneAndTune, prune_and_tune  # noqa: E402
from edge_runtime.compress.learn.qat import QatResult, QuantAware, first_items, quantize_aware  # noqa: E402
from edge_runtime.compress.learn.quant_net import QuantNet  # noqa: E402
from edge_runtime.compress.prepare import prepare  # noqa: E402
from edge_runtime.compress.tflite_write import to_tflite  # noqa: E402
from edge_runtime.digest import sha256  # noqa: E402

FIT = Fit(epochs=2, batch=64, rate=1e-3, decay=0.0, average=0.99)
PRUNE = replace(FIT, epochs=5, rate=2e-3)
FEW = ("first", "depthwise")  # layers of few weights, which get 8 bits
TEACHER = 0.7  # of the target; the rest is the label
ENGINES = {"onnxruntime": "onnx", "litert": "tflite"}


@dataclass(frozen=True)
class Variant:
    """`fit` None: rounded as it is, not taught."""

    settings: Any
    fit: Fit | None = FIT
    after: str = ""  # the variant that it goes on from


def bits(weights: str, eight: tuple[str, ...] = ()) -> QuantAware:
    """The dense row stays float: an 8-bit logit would be too coarse for a strict threshold."""
    return QuantAware(weights, scale_grid=2, keep=("last",), eight=eight)


VARIANTS: dict[str, Variant] = {
    "fp32": Variant(None),
    "rounded_w4a8": Variant(bits("int4"), None),
    "rounded_ternary_a8": Variant(bits("ternary"), None),
    "qat_w8a8": Variant(bits("int8")),
    "qat_w4a8": Variant(bits("int4")),
    "qat_ternary_a8": Variant(bits("ternary"), replace(FIT, epochs=6, rate=2e-3)),
    "qat_ternary_8_a8": Variant(bits("ternary", FEW), replace(FIT, epochs=6, rate=3e-3)),
    "prune_50": Variant(PruneAndTune(0.5), PRUNE),
    "prune_75": Variant(PruneAndTune(0.75), PRUNE),
    "prune_90": Variant(PruneAndTune(0.9), replace(PRUNE, rate=3e-3)),
    "channels_50": Variant(PruneAndTune(0.5, "channels", multiple=8), replace(PRUNE, epochs=6, rate=3e-3)),
    "prune_75_w4a8": Variant(bits("int4"), after="prune_75"),
    "channels_50_w4a8": Variant(bits("int4"), after="channels_50"),
    "channels_50_ternary_8_a8": Variant(bits("ternary", FEW), replace(FIT, epochs=3, rate=3e-3), after="channels_50"),
}


def shipped() -> Artifact:
    bundle = load_bundle(HERE / "malaria.edge")
    return prepare(Artifact("onnx", bundle.read(bundle.variant("fp32").file)))


def lessons_of(cells: Cells) -> Lessons:
    some = cells.where(cells.split == "train")
    settings = Settings()

    def prepare_cells(stored: tuple[Any, ...], dice: Any) -> tuple[Any, ...]:
        x = stored[0].permute(0, 3, 1, 2).float() / 255
        x = vary(x, settings, dice) if dice is not None else x
        return (x.contiguous(memory_format=torch.channels_last),)

    times = lesson_weights(some, settings.healthy_times)
    return Lessons({"image": some.pixels}, some.infected.astype(np.int64), times, prepare_cells)


def guided(lessons: Lessons, teacher: Any, share: float = TEACHER) -> Loss:
    """The logistic loss against the teacher's word on the very same pictures, mixed with the smoothed label."""
    assert lessons.labels is not None
    smoothing = Settings().smoothing
    labels = torch.from_numpy(lessons.labels).float() * (1 - smoothing) + smoothing / 2

    def loss(net: Any, inputs: tuple[Any, ...], index: Any) -> Any:
        with torch.no_grad():
            word = torch.sigmoid(teacher(*inputs)[:, 0])
        target = share * word + (1 - share) * labels[index]
        return functional.binary_cross_entropy_with_logits(net(*inputs)[:, 0], target)

    return loss


def file_of(name: str, engine: str, work: Path) -> Path:
    told = repr([VARIANTS[one] for one in (name, VARIANTS[name].after) if one])
    return work / f"{name}-{sha256(told.encode()).hexdigest()[:8]}.{ENGINES[engine]}"


def made(name: str, cells: Callable[[], Cells], work: Path) -> dict[str, Artifact]:
    """By engine; from WORK, where it was taught with these settings, else taught now."""
    paths = {engine: file_of(name, engine, work) for engine in ENGINES}
    if not all(path.is_file() for path in paths.values()):
        onnx, lite = teach(name, cells(), work)
        paths["onnxruntime"].write_bytes(onnx.content)
        paths["litert"].write_bytes(lite.content)
    return {engine: Artifact(ENGINES[engine], path.read_bytes()) for engine, path in paths.items()}


def teach(name: str, cells: Cells, work: Path) -> tuple[Artifact, Artifact]:
    variant, base = VARIANTS[name], shipped()
    if variant.settings is None:
        return slim(base), Artifact("tflite", to_tflite(base.model()))
    lessons = lessons_of(cells)
    loss = guided(lessons, GraphNet(base).eval())
    if variant.after:
        base = prepare(made(variant.after, lambda: cells, work)["onnxruntime"])

    def say(words: str) -> None:
        print(f"{name}: {words}", file=sys.stderr, flush=True)

    if variant.fit is None:
        net = QuantNet(base, variant.settings, first_items(base, lessons, variant.settings.calibrate)).eval()
        rounded = QatResult(net, net.quantized(), base)
        return rounded.onnx(), rounded.tflite()
    run: Any = quantize_aware if isinstance(variant.settings, QuantAware) else prune_and_tune
    result = run(base, lessons, variant.settings, variant.fit, loss=loss, notice=say)
    return result.onnx(), result.tflite()


def judged(found: dict[str, Artifact], work: Path, name: str, cells: Cells, split: str) -> dict[str, dict[str, float]]:
    """By engine: cell_figures of `split`, the cut from val."""
    rows = {}
    for engine in ENGINES:
        path = file_of(name, engine, work)
        val, here = cells.split == "val", cells.split == split
        scores = engines.run(path, cells.pixels[val])
        cut = float(np.quantile(scores[cells.infected[val]], 0.1))
        if split != "val":
            scores = engines.run(path, cells.pixels[here])
        rows[engine] = cell_figures(cells.where(here), scores, cut)
    return rows


def row(name: str, engine: str, artifact: Artifact, counted: Counts, scores: dict[str, float], split: str) -> Any:
    coded = len(for_bundle(artifact.content, artifact.format)[0])
    return {
        "kind": "learn",
        "model": "malaria",
        "step": name,
        "engine": engine,
        "parameters": counted.parameters,
        "zeros": counted.zeros,
        "file_bytes": len(artifact.content),
        "stored_bytes": min(len(artifact.content), coded),
        "scores": {key: round(value, 5) for key, value in scores.items()},
        "judged_on": split,
        "command": "python models/malaria/learn_bits.py WORK --test",
    }


def keep(path: Path, rows: list[dict[str, Any]]) -> None:
    """In place of rows of the same steps, as one block at the end; all others stay as they are."""
    new = {(one["step"], one["engine"]) for one in rows}
    old = [json.loads(line) for line in path.read_text().splitlines()]
    kept = [one for one in old if one.get("kind") != "learn" or (one["step"], one["engine"]) not in new]
    path.write_text("".join(json.dumps(one) + "\n" for one in [*kept, *rows]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--only", nargs="*", default=[])
    parser.add_argument("--test", action="store_true", help="judge on test, and keep the rows")
    options = parser.parse_args()
    cells, split, rows = dataset.load_cells(options.work), "test" if options.test else "val", []
    for name in options.only or VARIANTS:
        found = made(name, lambda: cells, options.work)
        scores = judged(found, options.work, name, cells, split)
        for engine, artifact in found.items():
            one = row(name, engine, artifact, count(found["onnxruntime"]), scores[engine], split)
            rows.append(one)
            s = one["scores"]
            print(
                f"{name:<26}{engine:<12} {one['file_bytes']:>6} bytes, {one['stored_bytes']:>6} stored, accuracy "
                f"{s['accuracy']:.2%} ({s['accuracy_without_suspects']:.2%}), false positives "
                f"{s['false_positives_per_5000_healthy']:.1f}, area {s['auc_infected_against_all_healthy']:.4f}",
                flush=True,
            )
    if options.test:
        keep(HERE / "bench.jsonl", rows)


if __name__ == "__main__":
    main()
