"""Measure the peers and this package: the same trained models, the same images, one interleaved run.

    scripts/bench_peers [--work DIR] [--rounds N] [--only NAME,...] [--models NAME,...]

From nothing it makes an environment for each engine and for the converters, trains the larger model, converts, checks
that every engine gives the float model's answers, and measures: one thread, one core, a fresh process each time.
All that is kept in the work folder, so a second run starts to measure at once. A peer that cannot be installed,
converted or run is a row with the reason. A whole run writes models/peers.jsonl, from which `python scripts/readme.py`
writes the README's table; a run of a part writes rows.jsonl in the work folder.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scripts.peers.catalogue import PEERS, ROUNDS, SIZES, Conversion, Peer, conversions
from scripts.peers.measure import Candidate, compare_outputs, machine, measure, rows
from scripts.peers.prepare import ROOT, Failed, convert, environment, installed, say
from scripts.peers.table import show

RECORD = ROOT / "models" / "peers.jsonl"


def parse(words: list[str] | None = None) -> argparse.Namespace:
    """Raises SystemExit with code 2 for names that there are not."""
    summary, _, rest = str(__doc__).partition("\n")
    parser = argparse.ArgumentParser(
        "bench_peers", description=summary + rest, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = sorted({one.environment for one in PEERS})
    work = ROOT / "build" / "peers"
    parser.add_argument("--work", type=Path, default=work, help="environments and models; default build/peers")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"fresh processes of each row; default {ROUNDS}")
    parser.add_argument("--only", type=_list(names), default=names, help=f"environments: {', '.join(names)}")
    parser.add_argument("--models", type=_list(list(SIZES)), default=list(SIZES), help=", ".join(SIZES))
    parser.add_argument("--prepare", action="store_true", help="make environments and models, measure nothing")
    parser.add_argument("-o", "--output", type=Path, help="where the rows go")
    options = parser.parse_args(words)
    if options.rounds < 1:
        parser.error(f"--rounds: found {options.rounds}, wanted 1 or more")
    options.whole = set(options.only) == set(names) and set(options.models) == set(SIZES)
    if "onnxruntime" not in options.only:
        options.only = ["onnxruntime", *options.only]  # all are compared with it
    options.work = options.work.absolute()
    return options


def _list(known: list[str]):  # type: ignore[no-untyped-def]
    def parsed(text: str) -> list[str]:
        found = [one.strip() for one in text.split(",") if one.strip()]
        wrong = [one for one in found if one not in known]
        if wrong or not found:
            raise argparse.ArgumentTypeError(f"found {text!r}, wanted some of {', '.join(known)}")
        return found

    return parsed


def needed(one: Conversion, peers: list[Peer], work: Path, all_of_them: list[Conversion]) -> bool:
    """Whether a peer loads what this makes, or something that is made from it."""
    wanted = {
        f"models/{model}/{file}" for peer in peers for model in SIZES for files in peer.files.values() for file in files
    }
    if any(output in wanted or output.startswith("images/") for output in one.outputs):
        return True
    return any(set(one.outputs) & set(other.inputs) for other in all_of_them if other is not one)


def prepare(candidates: list[Candidate], models: tuple[str, ...], work: Path) -> None:
    """Environments and files; what fails is the reason of those that need it."""
    made: dict[str, Path | str] = {}
    packages = {}
    for name in dict.fromkeys(one.peer.environment for one in candidates):
        try:
            made[name] = python = environment(name, work)
            packages[name] = installed(python)
        except (Failed, OSError) as error:
            say(f"{name}: {error}")
            made[name] = f"cannot be installed: {error}"
    chain = conversions(models)
    reasons: dict[str, str] = {}
    for conversion in chain:
        if not needed(conversion, [one.peer for one in candidates], work, chain):
            continue
        try:
            convert(conversion, work)
        except (Failed, OSError) as error:
            say(f"{conversion.title}: {error}")
            reasons |= dict.fromkeys(conversion.outputs, f"conversion failed: {error}")
    for one in candidates:
        python_or_reason = made[one.peer.environment]
        if isinstance(python_or_reason, str):
            one.reason = one.reason or python_or_reason
        else:
            one.python, one.packages = python_or_reason, packages[one.peer.environment]
        for file in one.files(work):
            one.reason = one.reason or reasons.get(str(file.relative_to(work)))


def main() -> int:
    options = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # an exception, so that what runs is ended too
    began = time.monotonic()
    images = Path(os.environ.get("EDGE_RUNTIME_DATA") or ROOT.parent / "shared" / "data", "malaria-cells")
    if not (images / "manifest.csv").is_file():
        say(f"{images}: found no malaria-cells there; set EDGE_RUNTIME_DATA to the folder that holds it")
        return 1
    options.work.mkdir(parents=True, exist_ok=True)
    lock = open(options.work / "lock", "w")  # noqa: SIM115  (held until the end)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        say(f"{options.work}: another run is using it; wait for it, or give another folder with --work")
        return 1
    models = tuple(options.models)
    candidates = [
        Candidate(peer, model, precision, reason=peer.not_measured.get(precision))
        for model in models
        for peer in PEERS
        if peer.environment in options.only
        for precision in ("fp32", "int8")
    ]
    prepare(candidates, models, options.work)
    say(f"prepared in {time.monotonic() - began:.0f} s")
    if options.prepare:
        return 0
    about = machine()
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # the children inherit it
    compare_outputs(candidates, options.work)
    measure(candidates, options.work, options.rounds)
    found = rows(candidates, options.work, options.rounds, about)
    output = options.output or (RECORD if options.whole else options.work / "rows.jsonl")
    output.write_text("".join(json.dumps(row) + "\n" for row in found))
    print(show(found))
    say(f"{output}: {len(found)} rows in {time.monotonic() - began:.0f} s")
    if output == RECORD:
        say("python scripts/readme.py writes them into README.md")
    return 0 if any(row["latency_ms"] for row in found) else 1


if __name__ == "__main__":
    sys.exit(main())
