"""What this device is, which engines work on it, and whether it still gives the known answer.

The self-test is a laboratory's control slide: rendered slides whose truth is known go through the whole path, decode,
segment, classify, decide. It shows that this installation works as on the day it was made. It says nothing about the
clinic: rendered cells are not blood.
"""

from __future__ import annotations

import struct
import sys
import tempfile
import time
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_runtime import cgroup, sandbox
from edge_runtime.bundle import load_bundle
from edge_runtime.disk import DiskSpeed, measure_disk
from edge_runtime.engine import ENGINES, probe
from edge_runtime.errors import TrustError, UsageError
from edge_runtime.facts import CoreGroup, clock_facts, core_groups, int8_meaning
from edge_runtime.guard import Limits
from edge_runtime.keys import library
from edge_runtime.micro.measure import calibrate
from edge_runtime.power import detect_meter
from edge_runtime.probe import home, read_machine
from edge_runtime.profile import THIS_DEVICE, Measured, Source, load_profile
from edge_runtime.profile_file import slug
from edge_runtime.sensors import read_state
from edge_runtime.session import open_session
from edge_runtime.trust import accepted_keys
from edge_runtime.units import format_bytes, format_ms

if TYPE_CHECKING:
    from edge_runtime.child import Progress
    from edge_runtime.operators import OperatorTable
    from edge_runtime.profile import DeviceProfile

# (name, cells, infected, blur in pixels, verdict that is right). A slide out of focus must be refused.
CONTROL_SLIDES = (
    ("infected", 300, 24, 0.0, "parasites_found"),
    ("clean", 520, 0, 0.0, "none_found"),
    ("out-of-focus", 88, 8, 6.0, "repeat"),
)


def examine(device: str = "this-device", folder: Path | None = None) -> dict[str, Any]:
    """Facts about this machine and its engines; `text` has them as lines for a person.

    `device`: whose budget is shown. `folder`: whose storage is measured (some 2 s, 8 MiB), by default the home folder.
    """
    profile = load_profile(device)
    machine = read_machine()
    groups = core_groups(machine.each_core)
    words = load_profile(THIS_DEVICE).features if device != THIS_DEVICE else profile.features
    dot, meaning = int8_meaning(machine.arch, words)
    disk = measure_disk(folder or home())
    clock = clock_facts(time.time())
    place = cgroup.find_place()
    found = {
        "device": profile.name,
        "title": profile.title,
        "python": sys.version.split()[0],
        "pointer_bits": struct.calcsize("P") * 8,
        "arch": machine.arch,
        "features": list(words),
        "cores": [asdict(group) for group in groups],
        "allowed_cores": machine.allowed_cores,
        "int8_dot_product": dot,
        "int8": meaning,
        "ram_bytes": machine.ram_bytes,
        "available_ram_bytes": machine.available_bytes,
        "budget_ram_bytes": profile.budget.ram_bytes,
        "budget_storage_bytes": profile.budget.storage_bytes,
        "memory_limit": {"by": "cgroup" if place.parent else "rlimit", "about": cgroup.describe(place)},
        "disk": asdict(disk),
        "clock": clock,
        "state": read_state().to_json(),
        "power_meter": detect_meter(),
        "battery_mah": machine.battery_mah,
        "engines": _engines(),
        "network": sandbox.examine(),
        "trust": _trust(),
    }
    return found | {"text": _lines(found, groups, disk)}


def _engines() -> list[dict[str, Any]]:
    made = []
    for name in ENGINES:
        if name != "null":
            found = probe(name)
            works = found.reason is None
            made.append({"engine": name, "works": works, "version": found.version, "reason": found.reason})
    return made


def _lines(found: dict[str, Any], groups: tuple[CoreGroup, ...], disk: DiskSpeed) -> list[str]:
    clock, heat = found["clock"], found["state"]["temperature_c"]
    free = "" if disk.free_bytes is None else f"{format_bytes(disk.free_bytes)} free, "
    steps = f"steps of {clock['monotonic_step_us']:.3g} us"
    keeps = "a clock keeps" if clock["keeps_time_without_power"] else "no clock keeps"
    meter = found["power_meter"] if found["power_meter"] != "none" else "none found: energy can be modelled only"
    features = " ".join(found["features"]) or "no features known"
    throttled = found["state"]["throttled"]
    return [
        f"device    {found['device']}: {found['title']}",
        f"python    {found['python']}, {found['pointer_bits']} bit, userland {found['arch']}",
        *(f"cpu       {_group(one)}" for one in groups),
        f"cpu       this process may use {found['allowed_cores']}; {features}",
        f"int8      {found['int8']}",
        f"memory    {format_bytes(found['ram_bytes'])}, {format_bytes(found['available_ram_bytes'])} free now, "
        f"up to {format_bytes(found['budget_ram_bytes'])} for a model",
        f"memory    the limit is held by {found['memory_limit']['about']}",
        f"storage   {free}up to {format_bytes(found['budget_storage_bytes'])} for bundles",
        f"storage   {_disk(disk)}",
        f"clock     {clock['utc']}, {'plausible' if clock['plausible'] else 'WRONG: ' + clock['why']}; "
        f"{keeps} time without power; {steps}",
        f"heat      {'not told by this system' if heat is None else f'{heat:.0f} degrees Celsius'}; "
        f"throttling {'not told by this system' if throttled is None else ' '.join(throttled) or 'none'}",
        f"meter     {meter}",
        f"network   {found['network']['text']}",
        f"trust     {found['trust']['text']}",
        *(
            f"engine    {one['engine']}: {one['version'] if one['works'] else 'no: ' + str(one['reason'])}"
            for one in found["engines"]
        ),
    ]


def _trust() -> dict[str, Any]:
    """`keys`: the ids that are accepted, None where none is demanded; `library`: what checks signatures here."""
    checker = library()
    found: dict[str, Any] = {"library": checker, "keys": []}
    checks = f"signatures are checked by {checker}" if checker else "no library here that checks signatures"
    try:
        keys = accepted_keys()
    except TrustError as error:
        return found | {"text": f"every bundle is refused: {error.message}"}
    if keys is None:
        return found | {"keys": None, "text": f"bundles need no signature; {checks}"}
    who = ", ".join(map(str, keys)) or "nobody"
    text = f"bundles must be signed by {who}; {checks}{'' if checker else ': every bundle is refused'}"
    return found | {"keys": [one.id for one in keys], "text": text}


def _group(one: CoreGroup) -> str:
    role = "" if one.role == "equal" else f" ({one.role})"
    most = f", up to {one.mhz} MHz" if one.mhz else ", highest clock not told"
    now = f", now {one.mhz_now} MHz" if one.mhz_now else ""
    return f"{one.count} x {one.part}{role}{most}{now}, governor {one.governor or 'not told'}"


def _disk(disk: DiskSpeed) -> str:
    if disk.write_bytes_per_s is None or disk.fsync_ms is None or disk.fsync_worst_ms is None:
        return f"speed not measured: {disk.why}"
    read = "not read"
    if disk.read_bytes_per_s is not None:
        how = {True: " (from the page cache, not the storage)", False: "", None: " (perhaps from the page cache)"}
        read = f"{format_bytes(disk.read_bytes_per_s)}/s{how[disk.cached]}"
    return (
        f"written with fsync {format_bytes(disk.write_bytes_per_s)}/s, read {read}; "
        f"fsync of a journal's row {format_ms(disk.fsync_ms)}, the worst {format_ms(disk.fsync_worst_ms)}"
    )


def calibrate_engines(engines: list[dict[str, Any]], progress: Progress | None = None) -> tuple[OperatorTable, ...]:
    """The operator table of each engine that works, one thread, some 20 s each, under this device's memory limit."""
    works = [one["engine"] for one in engines if one["works"]]
    limits = Limits(ram_bytes=load_profile(THIS_DEVICE).budget.ram_bytes)
    tables = []
    for number, name in enumerate(works):

        def show(done: int, total: int | None, before: int = number) -> None:
            if progress:
                progress((100 * before + done) // len(works), 100)

        tables.append(calibrate(name, limits=limits, progress=show))
    return tuple(tables)


def profile_of_this_device(
    found: dict[str, Any], name: str | None = None, tables: tuple[OperatorTable, ...] = ()
) -> DeviceProfile:
    """A profile of this machine with what `examine` found, to be written by profile_file.write_profile.

    `name`: by default made from the board's model or the CPU's name. Facts of the system are "read", rules "derived".
    """
    device = load_profile(THIS_DEVICE)
    model = device.title if device.kind != "computer" else device.soc
    disk, when = found["disk"], datetime.now(UTC).isoformat(timespec="seconds")
    measured = Measured(
        when,
        found["available_ram_bytes"],
        round(disk["write_bytes_per_s"]) if disk["write_bytes_per_s"] else None,
        round(disk["read_bytes_per_s"]) if disk["read_bytes_per_s"] and disk["cached"] is False else None,
        disk["fsync_ms"],
    )
    sources = {
        name: replace(one, sure="read") if one.where.startswith("probed") else one
        for name, one in device.sources.items()
    }
    said = f"doctor, {when}"
    sources["measured"] = Source(f"{said}: free RAM, and 8 MiB written and read in {disk['folder']}", "measured")
    if tables:
        sources["operators"] = Source(f"{said}: chains of single operators, each engine in its own process", "measured")
    works = tuple(one["engine"] for one in found["engines"] if one["works"] and one["engine"] in device.engines)
    if works:
        versions = ", ".join(f"{one['engine']} {one['version']}" for one in found["engines"] if one["works"])
        sources["engines"] = Source(f"probed: imported in a process of their own: {versions}", "measured")
    return replace(
        device,
        name=slug(model) if name is None else name,
        engines=works or device.engines,
        sources=sources,
        measured=measured,
        operators=tables,
        notes="Written by doctor on the device itself. The budget follows what was free then.",
    )


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
