"""`edge-runtime compress`: its words, and what it does with them. Apart from cli.py: the device needs none of it."""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

from edge_runtime.errors import UsageError


def add_compress(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, nargs="?", help="an .onnx, .tflite, .pt2 or .keras file, or a bundle")
    parser.add_argument("--passes", action="store_true", help="list every pass with its settings, and end")
    parser.add_argument(
        "--recipe", action="append", default=[], metavar="FILE.json", help="what to do; several make several variants"
    )
    parser.add_argument(
        "--calibrate", type=Path, metavar="DATA", help="a folder of images (with --like) or an .npz of model inputs"
    )
    parser.add_argument("--judge", type=Path, metavar="DATA", help="other items, with labels, to judge the result on")
    parser.add_argument(
        "--like", type=Path, metavar="BUNDLE", help="a bundle or bundle.json with task and preprocessing"
    )
    parser.add_argument("--device", metavar="NAME", help="a profile: settings are chosen for its processor and engines")
    parser.add_argument("--engines", metavar="A,B", help="onnxruntime, litert (default: both, or the device's)")
    parser.add_argument("-o", "--output", type=Path, metavar="OUT", help="OUT.edge, or a folder for plain model files")
    parser.add_argument("--quick", action="store_true", help="do not measure speed, memory and robustness")
    parser.add_argument(
        "--steps", type=Path, metavar="DIR", help="keep finished steps there, for runs that begin alike"
    )
    parser.add_argument("--fresh", action="store_true", help="do not take up the steps of an interrupted run")


def compress(arguments: argparse.Namespace, say: Callable[[str], None]) -> int:
    """Exit code 0, or 1 where some of several recipes were refused. Raises EdgeError's children."""
    from edge_runtime.compress.artifact import need_packages

    need_packages()
    if arguments.passes:
        return _list_passes(arguments.json)
    if not arguments.model or not arguments.output:
        raise UsageError("compress needs a MODEL and -o OUT", hint="edge-runtime compress --help")
    from edge_runtime.compress.recipe import Target, load_recipe
    from edge_runtime.compress.report import as_text
    from edge_runtime.compress.run import ENGINES, Job
    from edge_runtime.compress.run import compress as run

    model = arguments.model
    if not model.suffix:  # a bundle by its name, as every other verb takes it
        from edge_runtime.bundle import find_bundle

        model = find_bundle(str(model))
    arch, engines = "", tuple(ENGINES)
    if arguments.device:
        from edge_runtime.profile import load_profile

        profile = load_profile(arguments.device)
        arch = profile.arch
        engines = tuple(one for one in ENGINES if one in profile.engines) or ENGINES
    if arguments.engines:
        engines = tuple(word.strip() for word in arguments.engines.split(","))
    job = Job(
        model=model,
        recipes=tuple(load_recipe(Path(one)) for one in arguments.recipe),
        out=arguments.output,
        calibrate=arguments.calibrate,
        judge=arguments.judge,
        like=arguments.like or (model if model.suffix == ".edge" else None),
        target=Target(arch, engines),
        speed=not arguments.quick,
        robust=not arguments.quick,
        resume=not arguments.fresh,
        steps=arguments.steps,
    )
    report = run(job, progress=_bar if sys.stderr.isatty() else None, notice=say)
    if arguments.json:
        print(json.dumps(report, ensure_ascii=False))
    else:
        print("\n".join(as_text(report, arguments.output)))
    return 1 if report["refused"] else 0


def _bar(done: int, total: int, words: str) -> None:
    filled = 30 * done // max(1, total)
    end = "" if done < total else "\r\x1b[K"
    sys.stderr.write(f"\r[{'#' * filled}{'.' * (30 - filled)}] {done} of {total} {words[:40]}\x1b[K{end}")
    sys.stderr.flush()


def _list_passes(as_json: bool) -> int:
    import dataclasses

    from edge_runtime.compress.passes import PASSES
    from edge_runtime.compress.recipe import find_pass

    for name in PASSES:
        kind = find_pass(name)
        settings = {
            one.name: None if one.default is dataclasses.MISSING else one.default for one in dataclasses.fields(kind)
        }
        module = sys.modules[kind.__module__].__doc__ or ""
        about = " ".join(module.strip().partition("\n\n")[0].split())
        fields = " ".join((kind.__doc__ or "").split())
        items = "sometimes" if isinstance(kind.needs_items, property) else "always" if kind.needs_items else "never"
        if as_json:
            plain = {"pass": name, "about": about, "fields": fields, "needs_items": items}
            print(json.dumps(plain | {"reads": kind.reads, "writes": kind.writes, "settings": settings}))
        else:
            words = ", ".join(f"{key}={value!r}" for key, value in settings.items())
            print(f"{name}: {'/'.join(kind.reads)} -> {kind.writes or 'the same'}; needs items: {items}")
            for text in (about, words, fields):
                print(textwrap.fill(text, 116, initial_indent="    ", subsequent_indent="    ") or "    no settings")
    return 0
