"""`edge-runtime bench`: measure, keep, compare, show. Apart from cli.py because it has the most to say of all verbs."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edge_runtime.errors import UsageError
from edge_runtime.units import parse_ms

if TYPE_CHECKING:
    from edge_runtime.bench.rows import Row


def bench(arguments: argparse.Namespace) -> int:
    """Exit code 0; 1 where a case could not be measured or got slower or larger than in the run compared with."""
    from edge_runtime.bench import OFFICIAL, QUICK, run_bench
    from edge_runtime.bench.compare import compare
    from edge_runtime.bench.show import as_csv, as_markdown, as_table, read_jsonl, write_jsonl
    from edge_runtime.meter_options import open_recorder

    forms = [name for name in ("json", "csv", "markdown") if getattr(arguments, name)]
    if len(forms) > 1:
        raise UsageError(f"--{' and --'.join(forms)} are different forms: give one of them")
    # what is written at the end is tried before minutes of measuring
    old = read_jsonl(arguments.compare, _say) if arguments.compare else []
    interrupted: list[KeyboardInterrupt] = []
    for path in (arguments.output, arguments.html):
        _check_writable(path)
    if arguments.rows:
        rows = [row for path in arguments.model for row in read_jsonl(path, _say)]
        if not rows:
            raise UsageError(f"{', '.join(arguments.model)}: found no rows, wanted files that bench -o wrote")
    else:
        protocol = OFFICIAL if arguments.official else QUICK
        if arguments.rounds:
            protocol = replace(
                protocol, rounds=arguments.rounds, most_rounds=max(arguments.rounds, protocol.most_rounds)
            )
        if arguments.batch:
            protocol = replace(protocol, batches=tuple(arguments.batch))
        protocol = replace(protocol, shapes=_shapes(arguments.shape))
        sustained_s = parse_ms(arguments.sustained, "sustained") / 1e3 if arguments.sustained else None
        with ExitStack() as stack:
            _pin(arguments.cpus, stack)
            if old:
                _check_common(old, arguments, protocol.shapes)
            rows = run_bench(
                arguments.model,
                arguments.device,
                variants=arguments.variant,
                engines=arguments.engine,
                threads=arguments.threads,
                protocol=protocol,
                item=None if arguments.no_task else arguments.item or "",
                sustained_s=sustained_s,
                recorder=stack.enter_context(open_recorder(arguments, _say)),
                notice=_say,
                interrupted=interrupted,
            )
    if forms == ["json"]:
        for row in rows:
            print(json.dumps(row, ensure_ascii=False))
    else:
        show = {"csv": as_csv, "markdown": as_markdown}.get(forms[0] if forms else "", as_table)
        sys.stdout.write(show(rows).rstrip("\n") + "\n")
    sys.stdout.flush()
    if arguments.output:
        write_jsonl(arguments.output, rows)
    if arguments.html:
        _write_html(arguments.html, rows)
    if interrupted:
        raise interrupted[0]
    failed = [row for row in rows if row.get("error") or row["latency_ms"] is None]
    regressions = 0
    if arguments.compare:
        changes = compare(old, rows)
        regressions = sum(one.regression for one in changes)
        for one in changes:
            _say(json.dumps(one.to_json()) if arguments.json else f"against {arguments.compare}: {one}")
    return 1 if failed or regressions else 0


def _check_common(old: list[Row], arguments: argparse.Namespace, shapes: dict[str, list[int]]) -> None:
    """Refuse now, and not after minutes, where no case of the old run is measured again."""
    from edge_runtime.bench.cases import find_cases
    from edge_runtime.bench.compare import key, key_of, nothing_common
    from edge_runtime.profile import load_profile

    chosen = {"variants": arguments.variant, "engines": arguments.engine, "threads": arguments.threads}
    cases = find_cases(arguments.model, load_profile(arguments.device), **chosen)
    keys = {
        key(one.bundle.name if one.bundle else None, one.variant, one.path.name, shapes, one.engine, one.threads)
        for one in cases
    }
    if not keys & {key_of(row) for row in old}:
        raise nothing_common(old, [one.label for one in cases])


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _check_writable(path: str | None) -> None:
    if path and (Path(path).is_dir() or not os.access(Path(path).absolute().parent, os.W_OK)):
        raise UsageError(f"{path}: found no folder that can be written to there, wanted a file to write")


def _write_html(path: str, rows: list[Row]) -> None:
    from edge_runtime.bench.html import as_html

    command = "edge-runtime " + shlex.join(sys.argv[1:])
    Path(path).write_text(as_html(rows, "edge_runtime benchmark", command), encoding="utf-8")


def _shapes(words: list[str]) -> dict[str, list[int]]:
    """['tokens=1x128'] -> {'tokens': [1, 128]}."""
    found = {}
    for word in words:
        name, equals, sizes = word.rpartition("=")
        parts = sizes.split("x")
        if not (name and equals and all(part.isdecimal() and 0 < int(part) < 10**6 for part in parts)):
            raise UsageError(f"shape: found {word!r}, wanted an input's name and its sizes: tokens=1x128")
        found[name] = [int(part) for part in parts]
    return found


def _pin(cpus: list[int], stack: ExitStack) -> None:
    if not cpus:
        return
    if not hasattr(os, "sched_setaffinity"):
        raise UsageError("cpus: this system cannot bind a process to cores")
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, cpus)
    except (OSError, ValueError, OverflowError) as error:
        raise UsageError(f"cpus: found {cpus}, wanted some of {sorted(before)}") from error
    stack.callback(os.sched_setaffinity, 0, before)
