"""The instrument: what a model costs on this machine, measured so that it can be repeated and trusted.

    from edge_runtime.bench import run_bench
    rows = run_bench(["malaria"], "this-device", engines=["litert"], threads=[1, 2])

`rows` are plain JSON objects (rows.py). What is timed is the package's own path to the engine, in fresh guarded
processes under the device's memory limit.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edge_runtime.bench.cases import Case, find_cases
from edge_runtime.bench.record import make_rows
from edge_runtime.bench.rows import Row
from edge_runtime.bench.run import OFFICIAL, QUICK, Measured, Notice, Protocol, run_cases
from edge_runtime.bench.sustained import invalid_because, judge, run_sustained
from edge_runtime.errors import EdgeError, UsageError
from edge_runtime.items import Item, find_items
from edge_runtime.probe import read_machine
from edge_runtime.profile import DeviceProfile, load_profile
from edge_runtime.sensors import read_state, read_ticks, steal_percent

if TYPE_CHECKING:
    from edge_runtime.power import Recorder

__all__ = ["OFFICIAL", "QUICK", "Protocol", "run_bench"]


def run_bench(
    models: Sequence[str],
    device: DeviceProfile | str = "this-device",
    *,
    variants: Sequence[str] = (),
    engines: Sequence[str] = (),
    threads: Sequence[int] = (),
    protocol: Protocol = QUICK,
    item: str | None = "",
    sustained_s: float | None = None,
    recorder: Recorder | None = None,
    notice: Notice | None = None,
    interrupted: list[KeyboardInterrupt] | None = None,
) -> list[Row]:
    """Measure models x variants x engines x threads; one row each, in that order.

    `item`: what the task of a bundle reads; "" is one made up, None is no task. `sustained_s`: then every case runs so
    long, one after the other. Raises EdgeError where nothing can be measured; a case that fails alone is a row with
    `valid` false and the reason. `interrupted`: a list that an interrupt is put into, and the rows are of what was
    measured until then; without, it is raised.
    """
    profile = load_profile(device) if isinstance(device, str) else device
    cases = find_cases(models, profile, variants=variants, engines=engines, threads=threads)
    if notice:
        notice(f"{len(cases)} to measure: {'; '.join(one.label for one in cases)}")
    before, ticks = read_state(), read_ticks()
    with _item(cases, item) as found:
        protocol = replace(protocol, item=found)
        free = read_machine().available_bytes
        done = run_cases(cases, protocol, profile, recorder=recorder, free_bytes=free, notice=notice)
        curves = _sustain(done, sustained_s, profile, recorder, notice) if sustained_s and not done.interrupted else {}
    if done.interrupted:
        if interrupted is None:
            raise done.interrupted
        interrupted.append(done.interrupted)
    rows = make_rows(done, profile, before, read_state(), steal_percent(ticks, read_ticks()))
    for row in rows:
        if row["label"] in curves:
            row["sustained"] = curves[row["label"]]
            row["protocol"]["form"] = "sustained"
            row["invalid"] = list(dict.fromkeys([*row["invalid"], *invalid_because(row["sustained"]["points"])]))
            row["valid"] = not row["invalid"]
    return rows


def _sustain(
    done: Measured, seconds: float, device: DeviceProfile, recorder: Recorder | None, notice: Notice | None
) -> dict[str, dict[str, object]]:
    curves = {}
    for one in done.gathered:
        if one.error is not None or done.interrupted:
            continue
        if notice:
            notice(f"{one.case.label}: {seconds:.0f} s without a rest")
        points: list[dict[str, object]] = []
        try:
            run_sustained(points, one.case, seconds, done.protocol, device, recorder=recorder, notice=notice)
        except KeyboardInterrupt as interrupt:
            done.interrupted = interrupt
        except EdgeError as error:
            one.error = error
        if points:
            curves[one.case.label] = judge(points)
    return curves


# What a task reads where nobody says what: a slide of so many rendered cells, or a made-up photograph.
_MADE_UP_CELLS = 100
_MADE_UP_PHOTOGRAPH = (1600, 1200)


@contextlib.contextmanager
def _item(cases: Sequence[Case], item: str | None) -> Iterator[Item | None]:
    """The item for the tasks of the bundles among the cases; what is made up is removed afterwards."""
    kinds = {str(one.bundle.task["kind"]) for one in cases if one.bundle}
    if item is None or not kinds:
        yield None
    elif item:
        found = find_items([item])
        if len(found) != 1:
            raise UsageError(f"{item}: found {len(found)} items, wanted one: an image, or the folder of one slide")
        found[0].images()  # raises InputError now, and not after a minute of measuring
        yield found[0]
    elif len(kinds) > 1:
        raise UsageError(f"found bundles of the tasks {', '.join(sorted(kinds))}, wanted one kind, or an item for all")
    else:
        with tempfile.TemporaryDirectory(prefix="edge-runtime-") as folder:
            yield _made_up(kinds.pop(), Path(folder))


def _made_up(kind: str, folder: Path) -> Item:
    if kind == "slides":
        from edge_runtime.phantom import Phantom, write_slide

        write_slide(folder / "slide", Phantom(_MADE_UP_CELLS, 4, 1))
        return Item(f"a rendered slide of {_MADE_UP_CELLS} cells", (folder / "slide",))
    from PIL import Image

    width, height = _MADE_UP_PHOTOGRAPH
    noise = Image.effect_noise((width // 4, height // 4), 60).resize((width, height)).convert("RGB")
    noise.save(folder / "photograph.jpg", quality=85)
    return Item(f"a made-up photograph of {width} x {height}", (folder / "photograph.jpg",))
