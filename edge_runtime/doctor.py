"""What this device is, which engines work on it, and whether it still gives the known answer.

The self-test is a laboratory's control slide: rendered slides whose truth is known go through the whole path, decode,
segment, classify, decide. It shows that this installation works as on the day it was made. It says nothing about the
clinic: rendered cells are not blood.
"""

from __future__ import annotations

import struct
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_runtime.bundle import load_bundle
from edge_runtime.engine import ENGINES, probe
from edge_runtime.errors import UsageError
from edge_runtime.profile import load_profile
from edge_runtime.session import open_session
from edge_runtime.units import format_bytes

if TYPE_CHECKING:
    from edge_runtime.child import Progress

# (name, cells, infected, blur in pixels, verdict that is right). A slide out of focus must be refused.
CONTROL_SLIDES = (
    ("infected", 300, 24, 0.0, "parasites_found"),
    ("clean", 520, 0, 0.0, "none_found"),
    ("out-of-focus", 88, 8, 6.0, "repeat"),
)


def examine(device: str = "this-device") -> dict[str, Any]:
    """Facts about this machine and its engines; `text` has them as lines for a person."""
    profile = load_profile(device)
    engines = []
    for name in ENGINES:
        if name == "null":
            continue
        found = probe(name)
        works = found.reason is None
        engines.append({"engine": name, "works": works, "version": found.version, "reason": found.reason})
    bits = struct.calcsize("P") * 8
    cores = " + ".join(f"{one.count} x {one.part}{f' at {one.mhz} MHz' if one.mhz else ''}" for one in profile.cores)
    text = [
        f"device    {profile.name}: {profile.title}",
        f"python    {sys.version.split()[0]}, {bits} bit, userland {profile.arch}",
        f"cpu       {cores}; {' '.join(profile.features) or 'no features known'}",
        f"memory    {format_bytes(profile.ram_bytes)}, up to {format_bytes(profile.budget.ram_bytes)} for a model",
        f"storage   up to {format_bytes(profile.budget.storage_bytes)} for bundles",
    ]
    text += [
        f"engine    {one['engine']}: {one['version'] if one['works'] else 'no: ' + str(one['reason'])}"
        for one in engines
    ]
    return {
        "device": profile.name,
        "title": profile.title,
        "python": sys.version.split()[0],
        "pointer_bits": bits,
        "arch": profile.arch,
        "features": list(profile.features),
        "ram_bytes": profile.ram_bytes,
        "budget_ram_bytes": profile.budget.ram_bytes,
        "budget_storage_bytes": profile.budget.storage_bytes,
        "engines": engines,
        "text": text,
    }


def self_test(bundle: str = "malaria", device: str = "this-device", progress: Progress | None = None) -> dict[str, Any]:
    """Read the control slides. `ok` when every verdict is the known one and the infected cells are counted in the
    interval that is given. Raises EdgeError where nothing can be read at all."""
    from edge_runtime.phantom import Phantom, write_slide

    kind = load_bundle(bundle).task["kind"]
    if kind != "slides":
        raise UsageError(f"{bundle}: found task {kind}, wanted slides: the self-test reads rendered slides")
    slides: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="edge-runtime-") as folder, open_session(bundle, device) as session:
        for seed, (name, cells, infected, blur, wanted) in enumerate(CONTROL_SLIDES, 1):
            where = Path(folder, name)
            write_slide(where, Phantom(cells, infected, seed, blur=blur))
            outcome = session.run(str(where), progress=progress)
            plain = outcome.to_json()
            found = outcome.error.message if outcome.error else str(outcome.prediction)
            ok = plain.get("verdict") == wanted
            if ok and wanted == "parasites_found":
                low, high = plain["interval_percent"]
                ok = low <= 100 * infected / cells <= high and abs(plain["cells"] - cells) <= 0.1 * cells
            elif ok and wanted == "repeat":  # refused for its focus, and not for a want of cells
                ok = plain["gate_distance"] > 1
            slides.append({"slide": name, "wanted": wanted, "found": found, "ok": ok})
        origin = session.origin
    return {
        "ok": all(one["ok"] for one in slides),
        "variant": origin.variant,
        "engine": f"{origin.engine} {origin.engine_version}",
        "slides": slides,
    }
