"""The whole suite: kinds of hostile files, and the cases of each. `seeds`: how many random ones of every sort."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from random import Random
from typing import Any

from edge_runtime.packing import pack_folder
from tests.conftest import IMAGE_TASK, LABELS, PREPROCESSING, ROOT, null_model
from tests.hostile.bundles import bundles, header_of, lie, read_whole, rehashed
from tests.hostile.judge import Tally, judge, listing
from tests.hostile.models import Case, null_cases, onnx_cases, tflite_cases
from tests.hostile.paths import paths, use
from tests.hostile.pictures import folders, pictures, read_folder, read_picture
from tests.hostile.texts import (
    coded_files,
    good_coded,
    good_journal,
    journals,
    profiles,
    read_coded,
    read_journal,
    read_profile,
)
from tests.hostile.tries import try_models

SHORT_SEEDS = 120


def run_kind(kind: str, seeds: int, folder: Path) -> Tally:
    """All cases of a kind, in `folder`, which is empty; nothing may be written beside `folder / "in"`."""
    tally = Tally(kind)
    inside = folder / "in"
    inside.mkdir()
    (folder / "canary").write_text("sings")
    before = {one for one in listing(folder) if not one[0].startswith("in/")}
    KINDS[kind](tally, range(seeds), inside)
    after = {one for one in listing(folder) if not one[0].startswith("in/")}
    if after != before:
        tally.add("the end", "escaped", f"{sorted(after ^ before)}")
    return tally


def _each(tally: Tally, cases: Iterable[tuple[str, Any]], work: Callable[[Any], Any]) -> None:
    for name, case in cases:
        judge(tally, name, lambda case=case: work(case))


def _bundles(tally: Tally, seeds: range, folder: Path) -> None:
    path = folder / "case.edge"
    _each(tally, bundles(small_bundle(folder), seeds), lambda content: read_whole(content, path))
    shipped = (ROOT / "models" / "malaria" / "malaria.edge").read_bytes()
    _each(tally, _lies(shipped, seeds), lambda content: read_whole(content, path))


def _lies(good: bytes, seeds: range) -> Iterator[tuple[str, bytes]]:
    plain = header_of(good)
    for seed in seeds:
        name, lied = lie(Random(f"shipped {seed}"), plain)
        yield f"shipped {seed} {name}", rehashed(good, lied)


def small_bundle(folder: Path) -> bytes:
    made = folder / "made"
    made.mkdir()
    (made / "nothing.null").write_bytes(null_model())
    (made / "card.md").write_text("# Means\n")
    variants = [{"name": "nothing", "format": "null", "file": "nothing.null"}]
    manifest = {"name": "means", "version": "1.0", "task": IMAGE_TASK, "labels": LABELS}
    (made / "bundle.json").write_text(json.dumps(manifest | {"preprocessing": PREPROCESSING, "variants": variants}))
    return pack_folder(made, folder / "good.edge").path.read_bytes()


def _profiles(tally: Tally, seeds: range, folder: Path) -> None:
    good = (ROOT / "device_profiles" / "raspberry-pi-4b.toml").read_bytes()
    _each(tally, profiles(good, seeds), lambda content: read_profile(content, folder / "case.toml"))


def _journals(tally: Tally, seeds: range, folder: Path) -> None:
    good = good_journal(folder / "good.db")
    _each(tally, journals(good, seeds, folder), lambda content: read_journal(content, folder / "case.db"))


def _coded(tally: Tally, seeds: range, folder: Path) -> None:
    good, size = good_coded()
    _each(tally, coded_files(good, size, seeds), lambda case: read_coded(*case))


def _images(tally: Tally, seeds: range, folder: Path) -> None:
    _each(tally, pictures(seeds), lambda content: read_picture(content, folder / "case.png"))


def _folders(tally: Tally, seeds: range, folder: Path) -> None:
    _each(tally, folders(folder), read_folder)


def _paths(tally: Tally, seeds: range, folder: Path) -> None:
    _each(tally, paths(folder), lambda case: use(*case))


def _models(cases: Callable[[range], Iterator[Case]]) -> Callable[[Tally, range, Path], None]:
    def run(tally: Tally, seeds: range, folder: Path) -> None:
        try_models(tally, cases(seeds))

    return run


KINDS: dict[str, Callable[[Tally, range, Path], None]] = {
    "bundles": _bundles,
    "profiles": _profiles,
    "journals": _journals,
    "coded weights": _coded,
    "images": _images,
    "slides' folders": _folders,
    "paths": _paths,
    "ONNX and ORT files": _models(onnx_cases),
    "TFLite files": _models(tflite_cases),
    "null engine's files": _models(null_cases),
}
