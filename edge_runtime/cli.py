"""`edge-runtime VERB`: parse, call one public function, print.

Data on stdout, talk on stderr, `--json` for machines, no questions. Exit 0 done, 1 something could not be done,
2 usage, 3 does not fit the budget. Verbs import what they need: --help, devices and journal load no numpy, no engine.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_runtime.errors import EdgeError, UsageError
from edge_runtime.parser import make_parser
from edge_runtime.store_verbs import store
from edge_runtime.trust_verbs import keys, said_of, sign

if TYPE_CHECKING:
    from edge_runtime.bundle import Decoded
    from edge_runtime.child import Progress
    from edge_runtime.profile import DeviceProfile
    from edge_runtime.results import Outcome
    from edge_runtime.session import Session


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code."""
    arguments = make_parser(VERBS).parse_args(argv)
    signal.signal(signal.SIGTERM, _terminate)
    try:
        code: int = arguments.verb(arguments)
        sys.stdout.flush()
        return code
    except EdgeError as error:
        _say(f"edge-runtime: {error}")
        return error.exit_code
    except _Terminated as stop:  # how a service is told to end: a loop is made for it
        _say(f"edge-runtime: {stop.args[0] if stop.args else 'ended as it was told to'}")
        return 0 if arguments.verb is _loop else 143
    except KeyboardInterrupt as stop:
        _say(f"edge-runtime: {stop.args[0] if stop.args else 'stopped'}")
        return 130
    except BrokenPipeError:  # `edge-runtime ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # a full disk behind stdout, a folder that may not be read
        _say(f"edge-runtime: {error}")
        return 1


def _say_over(text: str) -> None:
    """Rewrite the line on the terminal."""
    sys.stderr.write(f"\r{text}\x1b[K")
    sys.stderr.flush()


class _Terminated(KeyboardInterrupt):
    """SIGTERM."""


def _terminate(*_: object) -> None:
    raise _Terminated


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _print(plain: object) -> None:
    print(json.dumps(plain, ensure_ascii=False), flush=True)


# ---------------------------------------------------------------- devices, doctor


def _devices(arguments: argparse.Namespace) -> int:
    from edge_runtime.profile import list_profiles, load_profile

    if arguments.name:
        return _show_device(load_profile(arguments.name), arguments.json)
    for one in list_profiles():
        if arguments.json:
            _print(_device_json(one))
        else:
            from edge_runtime.units import format_bytes

            cores = " + ".join(f"{group.count} x {group.part}" for group in one.cores)
            print(
                f"{one.name:<32} {one.arch:<8} {cores:<32} use up to {format_bytes(one.budget.ram_bytes):>8} RAM, "
                f"{format_bytes(one.budget.storage_bytes):>8} storage"
            )
    return 0


def _device_json(profile: DeviceProfile) -> dict[str, Any]:
    from dataclasses import asdict

    return asdict(profile)


def _show_device(profile: DeviceProfile, as_json: bool) -> int:
    plain = _device_json(profile)
    if as_json:
        _print(plain)
        return 0
    if profile.operators:
        from edge_runtime.device_verbs import summary

        plain["operators"] = [summary(one) for one in profile.operators]
    sources = plain.pop("sources")
    for key, value in plain.items():
        source = sources.get(key) or sources.get(key.removesuffix("_bytes"))
        about = f"   [{source['sure']}: {source['where']}]" if source else ""
        print(f"{key:<14} {json.dumps(value, ensure_ascii=False)}{about}")
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    from edge_runtime.device_verbs import doctor

    with _progress("percent" if arguments.calibrate else "images") as progress:
        found = doctor(arguments, progress)
    if arguments.json:
        _print({key: value for key, value in found.items() if key not in ("text", "code")})
    else:
        print("\n".join(found["text"]))
    return int(found["code"])


def _predict(arguments: argparse.Namespace) -> int:
    from edge_runtime.device_verbs import lines, predict

    for found in predict(arguments):
        if arguments.json:
            _print(found)
        else:
            print("\n".join(lines(found)))
    return 0


# ---------------------------------------------------------------- inspect, fit, pack


def _inspect(arguments: argparse.Namespace) -> int:
    from edge_runtime.bundle import find_bundle, read_bundle
    from edge_runtime.fields import UNPRINTABLE
    from edge_runtime.task import find_task
    from edge_runtime.units import format_bytes

    if arguments.card and arguments.json:
        raise UsageError("--card prints Markdown and --json JSON: give one of them")
    bundle = read_bundle(find_bundle(arguments.bundle))  # also one that this device would refuse: to see why
    bundle.verify()
    trust = said_of(arguments.bundle, bundle)
    code = 0 if trust["good"] else 1
    task = find_task(bundle)
    for one in bundle.variants:
        task.check(one.inputs, one.outputs)
    if arguments.card:
        card = bundle.read(bundle.file("card.md")).decode(errors="replace").replace("\r\n", "\n")
        sys.stdout.write(UNPRINTABLE.sub(lambda found: found[0] if found[0] in "\n\t" else "\ufffd", card))
        return 0
    if arguments.json:
        _print(bundle.to_json() | {key: trust[key] for key in ("origin", "signatures", "refused_here")})
        return code
    print(f"{bundle.path}: {bundle.name} {bundle.version}, task {bundle.task['kind']}, {format_bytes(bundle.size)}")
    print(f"digest {bundle.digest}; every file matches its digest")
    print("; ".join(trust["text"]))
    if bundle.labels:
        print(f"labels {', '.join(bundle.labels[:20])}{' ...' if len(bundle.labels) > 20 else ''}")
    for one in bundle.variants:
        recipe = " > ".join(str(step.get("pass", "?")) for step in one.recipe) or "as trained"
        tensors = f"{', '.join(map(str, one.inputs))} -> {', '.join(map(str, one.outputs))}"
        size = format_bytes(one.file.size)
        if one.file.coded:
            size += f" entropy-coded, {format_bytes(one.file.coded.size)} decoded"
        print(f"\n{one.name}: {one.format}, {size}, {recipe}\n  {tensors}")
        for key, value in one.metrics.items():
            print(f"  {key} = {value}")
        for key, cost in one.costs.items():
            print(f"  cost on {key}: {format_bytes(cost.ram_bytes)} RAM ({cost.basis}: {cost.where})")
    return code


def _fit(arguments: argparse.Namespace) -> int:
    from edge_runtime.bundle import load_bundle
    from edge_runtime.planner import explain, plan
    from edge_runtime.profile import THIS_DEVICE, load_profile

    device = load_profile(arguments.device)
    here = arguments.here or device.name == THIS_DEVICE
    bundle = load_bundle(arguments.bundle)
    found = plan(bundle, device, engine=arguments.engine, here=here)
    if arguments.measure:
        from edge_runtime.choice import choose

        found = choose(bundle, device, found, notice=_say)
    if arguments.json:
        _print(found.to_json())
    else:
        for line in explain(found):
            print(line)
    found.demand()
    return 0


def _pack(arguments: argparse.Namespace) -> int:
    from edge_runtime.packing import pack_folder
    from edge_runtime.units import format_bytes

    bundle = pack_folder(Path(arguments.folder), Path(arguments.output), _encode, _foresee)
    if arguments.measure:
        from edge_runtime.costing import measured

        bundle = measured(bundle, arguments.measure, arguments.where, _say)
    if arguments.json:
        _print(bundle.to_json())
    else:
        variants = ", ".join(one.name for one in bundle.variants)
        print(f"{bundle.path}: {format_bytes(bundle.size)}, variants {variants}, digest {bundle.digest}")
    return 0


def _encode(model: bytes, format_: str) -> tuple[bytes, Decoded]:
    from edge_runtime.compress.code import for_bundle

    return for_bundle(model, format_)


def _foresee(model: bytes, format_: str, task: str) -> dict[str, dict[str, Any]]:
    from edge_runtime.compress.costs import foresee

    return foresee(model, format_, task)


def _compress(arguments: argparse.Namespace) -> int:
    from edge_runtime.compress_options import compress

    return compress(arguments, _say)


def _bench(arguments: argparse.Namespace) -> int:
    from edge_runtime.cli_bench import bench

    return bench(arguments)


# ---------------------------------------------------------------- run, loop, journal


def _open(arguments: argparse.Namespace) -> Session:
    from edge_runtime.session import open_session
    from edge_runtime.units import parse_ms

    session = open_session(
        arguments.bundle,
        arguments.device,
        engine=arguments.engine,
        variant=arguments.variant,
        threads=arguments.threads,
        measure=False if arguments.no_measure else None,
        time_limit_s=parse_ms(arguments.time_limit, "time limit", "5min") / 1e3,
        notice=_say,
    )
    for refused in session.refused:
        _say(f"edge-runtime: passed over: {refused}")
    origin = session.origin
    _say(f"{origin.bundle}, {origin.variant} on {origin.engine} {origin.engine_version}, for {origin.device}")
    return session


def _run(arguments: argparse.Namespace) -> int:
    from edge_runtime.items import find_items
    from edge_runtime.loop import run_item
    from edge_runtime.meter_options import open_recorder

    worst = 0
    counts: dict[str, int] = {}
    if arguments.cells and not arguments.json:
        raise UsageError("--cells goes with --json")
    items = find_items(arguments.paths, arguments.slide_name)
    energies: list[float | None] = []
    with open_recorder(arguments, _say) as recorder, _open(arguments) as session, _progress() as progress:
        for item in items:
            outcome = run_item(session, item, details=arguments.cells, progress=progress, recorder=recorder)
            _show(outcome, arguments.json)
            energies.append(outcome.energy_mj)
            key = "error" if outcome.error else str(outcome.to_json().get("verdict", "read"))
            counts[key] = counts.get(key, 0) + 1
            worst = max(worst, outcome.error.exit_code if outcome.error else 0)
        peak = session.peak_ram_bytes
    if sum(counts.values()) > 1:
        from edge_runtime.units import format_bytes, format_mj

        totals = ", ".join(f"{count} {key}" for key, count in sorted(counts.items()))
        text = f"{sum(counts.values())} items: {totals}; peak memory {format_bytes(peak)}"
        known = [one for one in energies if one is not None]
        if recorder and len(known) == len(energies):
            text += f"; {format_mj(sum(known) / len(known))} an item, gross ({recorder.sensor.basis})"
        elif recorder:
            text += f"; no energy for {len(energies) - len(known)} of them"
        _say(text) if arguments.json else print(text)
    return worst


def _loop(arguments: argparse.Namespace) -> int:
    from edge_runtime.facts import clock_facts
    from edge_runtime.journal import Journal
    from edge_runtime.loop import run_loop, watch
    from edge_runtime.meter_options import make_pacer, open_recorder
    from edge_runtime.units import parse_ms

    settle_s = parse_ms(arguments.settle, "settle", "3s") / 1e3
    poll_s = parse_ms(arguments.poll, "poll", "1s") / 1e3
    items = watch(
        arguments.folder,
        once=arguments.once,
        settle_s=settle_s,
        poll_s=poll_s,
        slide_name=arguments.slide_name,
        notice=_say,
    )
    with (
        Journal(arguments.journal) as journal,
        open_recorder(arguments, _say) as recorder,
        _open(arguments) as session,
        _progress() as progress,
    ):
        pacer = make_pacer(arguments, recorder, _say)
        if why := clock_facts(time.time())["why"]:
            _say(f"the clock says {time.strftime('%Y-%m-%d %H:%M')}: {why}")
        _say(f"watching {arguments.folder}, recording to {arguments.journal}, {len(journal)} recorded before")
        outcomes = run_loop(
            session, items, journal, retry=arguments.retry, progress=progress, recorder=recorder, pacer=pacer
        )
        for outcome in outcomes:
            _show(outcome, arguments.json)
    return 0


def _journal(arguments: argparse.Namespace) -> int:
    from edge_runtime.journal_verbs import journal

    return journal(arguments)


def _show(outcome: Outcome, as_json: bool) -> None:
    if sys.stderr.isatty():
        _say_over("")
    if as_json:
        _print(outcome.to_json())
        return
    if outcome.error:
        said = str(outcome.error)
        _say(said if said.startswith(outcome.item) else f"{outcome.item}: {said}")
    else:
        print(f"{outcome.item:<24} {outcome.prediction}", flush=True)


# ---------------------------------------------------------------- phantom


def _phantom(arguments: argparse.Namespace) -> int:
    from dataclasses import asdict

    from edge_runtime.phantom import Phantom, write_slide

    settings = Phantom(arguments.cells, arguments.infected, arguments.seed)
    truth = write_slide(arguments.folder, settings)
    if arguments.json:
        _print({"folder": arguments.folder, **asdict(truth)})
    else:
        print(f"{arguments.folder}: a rendered slide, {settings.cells} cells, {settings.infected} infected")
    return 0


# ---------------------------------------------------------------- progress


@contextmanager
def _progress(what: str = "images") -> Iterator[Progress | None]:
    """A line on stderr that rewrites itself, on a terminal only."""
    if not sys.stderr.isatty():
        yield None
        return

    last = [0]

    def show(done: int, total: int | None) -> None:
        if done != last[0] and total and total > 1:
            filled = 30 * done // total
            _say_over(f"[{'#' * filled}{'.' * (30 - filled)}] {done} of {total} {what} ")
        last[0] = done

    try:
        yield show
    finally:
        _say_over("")


VERBS = {
    "devices": _devices,
    "doctor": _doctor,
    "inspect": _inspect,
    "fit": _fit,
    "predict": _predict,
    "bench": _bench,
    "run": _run,
    "loop": _loop,
    "journal": _journal,
    "pack": _pack,
    "store": store,
    "keys": keys,
    "sign": sign,
    "compress": _compress,
    "phantom": _phantom,
}
