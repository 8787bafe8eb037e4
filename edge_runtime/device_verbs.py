"""What the verbs `doctor` and `predict` do with their options. Printing stands in cli.py."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_runtime.errors import UsageError

if TYPE_CHECKING:
    from edge_runtime.child import Progress
    from edge_runtime.operators import OperatorTable


def doctor(arguments: argparse.Namespace, progress: Progress | None) -> dict[str, Any]:
    """All that was found, plain; `text` as lines for a person, `code` to exit with."""
    from edge_runtime.doctor import calibrate_engines, examine, profile_of_this_device, self_test
    from edge_runtime.operators import to_json
    from edge_runtime.profile_file import check_profile, refuse_overwriting, write_profile

    out = arguments.write_profile
    if out is None and (arguments.name is not None or arguments.force):
        raise UsageError("--name and --force go with --write-profile FILE.toml")
    if out is not None:
        refuse_overwriting(out, arguments.force)
    found = examine(arguments.device, arguments.folder)
    text = found["text"]
    if out is not None:
        check_profile(profile_of_this_device(found, arguments.name), out)
    tables = calibrate_engines(found["engines"], progress) if arguments.calibrate else ()
    if arguments.calibrate:
        found["operators"] = [to_json(one) for one in tables]
        text += [f"operators {summary(one)}" for one in tables]
    if out is not None:
        profile = write_profile(profile_of_this_device(found, arguments.name, tables), out, force=arguments.force)
        found["profile"] = {"file": str(out), "name": profile.name}
        text.append(f"profile   {profile.name}, written to {out}")
    passed = True
    if arguments.self_test:
        found["self_test"] = self_test(arguments.bundle, arguments.device, progress)
        passed = found["self_test"]["ok"]
        text += [
            f"self-test: {'ok    ' if one['ok'] else 'FAILED'} {one['slide']}: {one['found']}"
            for one in found["self_test"]["slides"]
        ]
        text.append("self-test: it proves the path on this device (decode, segment, classify, decide), not the clinic")
    found["code"] = 0 if passed and any(one["works"] for one in found["engines"]) else 1
    return found


def summary(table: OperatorTable) -> str:
    """A table in a line: how many points, and the best speeds among them."""
    count = sum(map(len, table.points.values()))
    best: dict[str, float] = {}
    for name, points in table.points.items():
        kind, _, dtype = name.partition(".")
        if kind in ("conv", "conv1x1", "dense"):
            best[dtype] = max(best.get(dtype, 0.0), *(p.rows * p.depth * p.width / p.ns for p in points))
    speeds = ", ".join(f"{dtype} up to {speed:.3g} billion multiply-adds/s" for dtype, speed in best.items())
    threads = "1 thread" if table.threads == 1 else f"{table.threads} threads"
    call = f"{table.call_ns / 1e3:.3g} us a call"
    return f"{table.engine} {table.engine_version}: {count} points, {threads}; {speeds}; {call}"


def predict(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """One object for a model file, or for each variant of a bundle that the device's tables cover.

    Raises ProfileError where the profile has no table, InputError for a model that cannot be read, BudgetError never:
    an estimate refuses nothing.
    """
    from edge_runtime.compress.graph import ENGINE_OF, read_graph
    from edge_runtime.errors import ProfileError
    from edge_runtime.operators import predict as forecast
    from edge_runtime.profile import load_profile

    device = load_profile(arguments.device)
    tables = {one.engine: one for one in device.operators}
    if not tables:
        hint = "edge-runtime doctor --calibrate --write-profile FILE.toml, on that device"
        raise ProfileError(f"{device.name}: found no operator table, wanted one to predict from", hint=hint)
    made = []
    for name, format_, content in _models(arguments.model):
        table = tables.get(ENGINE_OF.get(format_, ""))
        if table is None:
            continue
        nodes = read_graph(content, format_, device.arch)
        found = forecast(table, nodes)
        made.append(
            {
                "model": name,
                "device": device.name,
                "engine": table.engine,
                "engine_version": table.engine_version,
                "threads": table.threads,
                "latency_ms": found.latency_ms,
                "basis": "estimated",
                "where": f"the operator table of {device.name}, measured {table.when}",
                "parts_ms": dict(found.parts_ms),
                "not_counted": list(found.unknown),
                "operators": len(nodes),
                "macs": sum(node.macs for node in nodes),
                "weight_bytes": sum(node.weight_bytes for node in nodes),
            }
        )
    if not made:
        raise ProfileError(f"{device.name}: its operator tables are of {', '.join(tables)}, which read no such model")
    return made


def _models(model: str) -> list[tuple[str, str, bytes]]:
    """(name, format, content) of a model file, or of every variant of a bundle."""
    path = Path(model)
    format_ = path.suffix.lower().removeprefix(".")
    if format_ in ("onnx", "tflite"):
        try:
            return [(str(path), format_, path.read_bytes())]
        except OSError as error:
            raise UsageError(f"{path}: {error.strerror}, wanted a model") from error
    from edge_runtime.bundle import load_bundle

    bundle = load_bundle(model)
    found = [one for one in bundle.variants if one.format in ("onnx", "tflite")]
    return [(f"{bundle.name} {one.name}", one.format, bundle.read(one.file)) for one in found]


def lines(found: dict[str, Any]) -> list[str]:
    """A prediction for a person."""
    from edge_runtime.units import format_ms

    threads = "1 thread" if found["threads"] == 1 else f"{found['threads']} threads"
    where = f"{found['engine']} {found['engine_version']}, {threads}"
    parts = sorted(found["parts_ms"].items(), key=lambda part: -part[1])
    said = [
        f"{found['model']}: {format_ms(found['latency_ms'])} on {where}, estimated from {found['where']}",
        "  " + ", ".join(f"{name} {format_ms(ms)}" for name, ms in parts if ms >= 0.01 * found["latency_ms"]),
    ]
    missing = ", ".join(found["not_counted"])
    return said + ([f"  not counted, as the table does not have them: {missing}"] if missing else [])
