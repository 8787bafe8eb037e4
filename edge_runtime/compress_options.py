"""`edge-runtime compress`: its words, and what it does with them. Apart from cli.py: the device needs none of it."""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from edge_runtime.errors import UsageError

if TYPE_CHECKING:
    from edge_runtime.compress.run import Job
    from edge_runtime.profile import DeviceProfile


def add_compress(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, nargs="?", help="an .onnx, .tflite, .pt2 or .keras file, or a bundle")
    parser.add_argument("--passes", action="store_true", help="list every pass with its settings, and end")
    parser.add_argument(
        "--recipe", action="append", default=[], metavar="FILE.json", help="what to do; several make several variants"
    )
    parser.add_argument(
        "--calibrate", type=Path, metavar="DATA", help="a folder of images (with --like) or an .npz of model inputs"
    )
    parser.add_argument(
        "--train",
        type=Path,
        metavar="DATA",
        help="items for passes that learn (default: those to calibrate on)",
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
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _EXAMPLE
    group = parser.add_argument_group("search", "make the model fit --device, and lose no more than --max-drop")
    group.add_argument(
        "--max-drop",
        type=float,
        metavar="POINTS",
        help="search recipes, cheapest first; this many points of the score may be lost (--recipe: search only these)",
    )
    group.add_argument(
        "--score",
        choices=("accuracy", "f1", "precision", "recall", "change"),
        help="which score counts (default: accuracy; f1 where a class is rare: of two, under a fifth; without labels: "
        "decisions kept). change: of a model whose outputs are numbers, how far they move, in hundredths of their "
        "standard deviation (root mean square)",
    )
    group.add_argument(
        "--minutes", type=float, metavar="N", help="go on for a better front; starts nothing new after N minutes"
    )
    group.add_argument("--thorough", action="store_true", help="go on until nothing is left to try")
    group.add_argument(
        "--measure", action="store_true", help="time the front of what is good enough, here, and let it count"
    )
    group.add_argument("--closest", action="store_true", help="write what is closest where nothing is good enough")
    group.add_argument(
        "--most", type=int, metavar="N", help="files in the bundle at most, for each engine (default: 3)"
    )
    group.add_argument(
        "--test", type=Path, metavar="DATA", help="yet other items: what is chosen is judged on them, once, and shown"
    )
    group.add_argument(
        "--false-positives",
        type=float,
        metavar="TIMES",
        help="slides: so many times the original's false positives at 90%% sensitivity may be (default: 1.25)",
    )
    group.add_argument(
        "--detection",
        type=float,
        metavar="TIMES",
        help="slides: so many times the original's limit of detection may be (default: 1.1)",
    )


_EXAMPLE = """\
example: the smallest files for a tablet that lose at most half a point of accuracy
  edge-runtime compress model.onnx --like bundle.json --calibrate train.npz --judge val.npz \\
      --device lenovo-tab-2-a7-10 --max-drop 0.5 -o out.edge
Give the float model: of a .tflite file, or of one that is quantized, only the coding of its weights can be tried.
It ends after the class of cost in which the first answer was found, or as --minutes and --thorough say. Ctrl-C: the
same command goes on where it was. What is chosen is the best of many on the items that it was judged on: --test says
what it loses on others. Exit code 3: nothing is good enough; it says what is closest and what that takes.
"""
_SEARCH_ONLY = ("score", "minutes", "thorough", "measure", "closest", "most", "false_positives", "detection", "test")


def compress(arguments: argparse.Namespace, say: Callable[[str], None]) -> int:
    """Exit code 0, or 1 where some of several recipes were refused. Raises EdgeError's children."""
    from edge_runtime.compress.artifact import need_packages

    need_packages()
    if arguments.passes:
        return _list_passes(arguments.json)
    if not arguments.model or not arguments.output:
        raise UsageError("compress needs a MODEL and -o OUT", hint="edge-runtime compress --help")
    _check_search(arguments)
    from edge_runtime.compress.recipe import Target, load_recipe
    from edge_runtime.compress.report import as_text
    from edge_runtime.compress.run import ENGINES, Job
    from edge_runtime.compress.run import compress as run

    model = arguments.model
    if not model.suffix:  # a bundle by its name, as every other verb takes it
        from edge_runtime.bundle import find_bundle

        model = find_bundle(str(model))
    arch, engines, profile = "", tuple(ENGINES), None
    if arguments.device:
        from edge_runtime.profile import load_profile

        profile = load_profile(arguments.device)
        arch = profile.arch
        engines = tuple(one for one in ENGINES if one in profile.engines) or ENGINES
    if arguments.engines:
        engines = tuple(word.strip() for word in arguments.engines.split(","))
    if profile is not None and (strange := [one for one in engines if one not in profile.engines]):
        raise UsageError(
            f"found {' and '.join(strange)}, which {profile.name} does not have, wanted {' or '.join(profile.engines)}",
            hint="leave out --engines: the device's own are taken",
        )
    job = Job(
        model=model,
        recipes=tuple(load_recipe(Path(one)) for one in arguments.recipe),
        out=arguments.output,
        calibrate=arguments.calibrate,
        train=arguments.train,
        judge=arguments.judge,
        like=arguments.like or (model if model.suffix == ".edge" else None),
        target=Target(arch, engines),
        speed=not arguments.quick,
        robust=not arguments.quick,
        resume=not arguments.fresh,
        steps=arguments.steps,
    )
    if arguments.max_drop is not None:
        return _search(arguments, job, profile, say)
    report = run(job, progress=_bar if sys.stderr.isatty() else None, notice=say)
    if arguments.json:
        print(json.dumps(report, ensure_ascii=False))
    else:
        print("\n".join(as_text(report, arguments.output)))
    return 1 if report["refused"] else 0


def _check_search(arguments: argparse.Namespace) -> None:
    """Raises UsageError for options that do not go together, each with the one that is missing or wrong."""
    given = [name for name in _SEARCH_ONLY if getattr(arguments, name) not in (None, False)]
    if arguments.max_drop is None:
        if given:
            words = ", ".join(f"--{name.replace('_', '-')}" for name in given)
            raise UsageError(f"found {words} without --max-drop: they are of a search", hint="add --max-drop 0.5")
        return
    if not arguments.device:
        raise UsageError("--max-drop searches for a device, found none", hint="add --device NAME: edge-runtime devices")
    for name, least in (("max_drop", 0.0), ("minutes", 0.0), ("false_positives", 1.0), ("detection", 1.0), ("most", 1)):
        value = getattr(arguments, name)
        if value is not None and not least <= value < 1e6:
            raise UsageError(f"--{name.replace('_', '-')}: found {value:g}, wanted {least:g} or more")
    if arguments.thorough and arguments.minutes is not None:
        raise UsageError("found --thorough and --minutes, wanted one: how long a search goes on")
    for name in ("judge", "calibrate", "train"):
        if (
            arguments.test
            and getattr(arguments, name)
            and arguments.test.resolve() == getattr(arguments, name).resolve()
        ):
            raise UsageError(f"found the same items for --test and --{name}, wanted others", hint="hold some back")


def _search(arguments: argparse.Namespace, job: Job, profile: DeviceProfile | None, say: Callable[[str], None]) -> int:
    """Exit code 0, or 3 where nothing is good enough."""
    from edge_runtime.compress.goal import Goal
    from edge_runtime.compress.report import as_text
    from edge_runtime.compress.search import search
    from edge_runtime.compress.slide_figures import Rules

    assert profile is not None
    rules = Rules()
    goal = Goal(
        device=profile,
        max_drop=arguments.max_drop,
        score=arguments.score,
        rules=Rules(
            rules.false_positives if arguments.false_positives is None else arguments.false_positives,
            rules.detection if arguments.detection is None else arguments.detection,
        ),
        minutes=arguments.minutes,
        thorough=arguments.thorough,
        measure=arguments.measure,
        closest=arguments.closest,
        most=arguments.most or 3,
        test=arguments.test,
    )
    found = search(job, goal, progress=_bar if sys.stderr.isatty() else None, notice=say)
    if arguments.json:
        print(json.dumps(found.report or {"search": found.search}, ensure_ascii=False))
    else:
        print("\n".join([*found.words, *(as_text(found.report, arguments.output) if found.report else ())]))
    return 0 if found.answers else 3


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
