"""What each variant of a bundle takes on each engine that works here, measured: for `pack --measure`.

Each reads an item in a fresh process, one image at a time and on one thread; the figure is the median of its peak
resident memory. What was predicted for other architectures moves by what this one differs from its own prediction.
"""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edge_runtime.budget import ESTIMATED, MEASURED, Cost
from edge_runtime.engine import ENGINES, find_engine, probe
from edge_runtime.errors import UsageError
from edge_runtime.packing import with_costs
from edge_runtime.profile import THIS_DEVICE, Budget, load_profile
from edge_runtime.session import open_session
from edge_runtime.units import format_bytes

if TYPE_CHECKING:
    from edge_runtime.bundle import Bundle, Variant

RENDERED = "rendered"
PHOTOGRAPH = (4000, 3000)
_MOST = 64 << 30  # no limit: this is how limits are found


@dataclass(frozen=True)
class Measured:
    """`ram_bytes`: the median; `spread_bytes`: between the least and the most."""

    variant: str
    engine: str
    engine_version: str
    arch: str
    ram_bytes: int
    spread_bytes: int


def measure(bundle: Bundle, item: str, repeat: int = 3) -> Iterator[Measured]:
    """Every variant on every engine that reads it and works here. Raises what the item's reading raises."""
    device = load_profile(THIS_DEVICE)
    device = replace(device, engines=ENGINES, budget=Budget(_MOST, _MOST), threads=1)
    for variant in bundle.variants:
        for engine in ENGINES:
            if engine == "null" or variant.format not in find_engine(engine).FORMATS or probe(engine).reason:
                continue
            peaks = []
            for _ in range(repeat):
                with open_session(
                    bundle, device, engine=engine, variant=variant.name, threads=1, measure=False, lean=True
                ) as session:
                    outcome = session.run(item)
                    if outcome.error:
                        raise outcome.error
                    peaks.append(session.peak_ram_bytes)
                    version = session.origin.engine_version
            spread = max(peaks) - min(peaks)
            yield Measured(variant.name, engine, version, device.arch, round(statistics.median(peaks)), spread)


def measured(bundle: Bundle, item: str, where: str, notice: Callable[[str], None], repeat: int = 3) -> Bundle:
    """The bundle again, with the costs that were measured here. `item`: a path, or RENDERED for one that is made."""
    found: dict[str, dict[str, Cost]] = {}
    with _item(bundle, item) as path:
        for one in measure(bundle, path, repeat):
            variant = bundle.variant(one.variant)
            key = f"{one.engine}/{one.arch}"
            about = f"{where or 'the machine that packed it'}; {one.engine_version}"
            cost = Cost(one.ram_bytes, variant.file.size, None, None, MEASURED, about)
            found.setdefault(one.variant, {})[key] = cost
            found[one.variant] |= _moved(variant, one.engine, key, cost)
            spread = f"repeated within {format_bytes(one.spread_bytes)}"
            notice(f"{one.variant} on {one.engine}: {format_bytes(one.ram_bytes)}, {spread}")
    return with_costs(bundle, found)


def _moved(variant: Variant, engine: str, key: str, cost: Cost) -> dict[str, Cost]:
    """Other architectures' predictions, by what this one's missed."""
    predicted = variant.costs.get(key)
    if predicted is None or predicted.basis != ESTIMATED:
        return {}
    missed = cost.ram_bytes - predicted.ram_bytes
    return {
        other: one._replace(ram_bytes=max(0, one.ram_bytes + missed), where=f"measured on {key}, moved by prediction")
        for other, one in variant.costs.items()
        if other != key and other.split("/")[0] == engine and one.basis == ESTIMATED
    }


@contextmanager
def _item(bundle: Bundle, asked: str) -> Iterator[str]:
    if asked != RENDERED:
        if not Path(asked).exists():
            raise UsageError(f"{asked}: found nothing there, wanted an item to measure with")
        yield asked
        return
    with tempfile.TemporaryDirectory(prefix="edge-runtime-") as folder:
        yield str(render(bundle, Path(folder)))


def render(bundle: Bundle, folder: Path) -> Path:
    """An item as phones give it, JPEGs of 12 megapixels: a slide of three fields, or one photograph."""
    from PIL import Image

    if bundle.task["kind"] != "slides":
        path = folder / "photograph.jpg"
        Image.effect_noise(PHOTOGRAPH, 64).convert("RGB").save(path, quality=85)
        return path
    from edge_runtime.phantom import Phantom, write_slide

    slide = folder / "slide"
    write_slide(slide, Phantom(250, 10, 1))
    for path in sorted(slide.glob("*.png")):
        with Image.open(path) as field:
            field.resize(PHOTOGRAPH).save(path.with_suffix(".jpg"), quality=85)
        path.unlink()
    return slide
