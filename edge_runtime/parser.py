"""The words of the command line: verbs, options and their help. What a verb does stands in cli.py."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

from edge_runtime import __version__
from edge_runtime.compress_options import add_compress
from edge_runtime.journal_verbs import add_journal
from edge_runtime.meter_options import add_meter, add_pace
from edge_runtime.store_verbs import add_store
from edge_runtime.trust_verbs import add_keys, add_sign

Verb = Callable[[argparse.Namespace], int]
SLIDE_NAME_HELP = (
    "a regular expression: images below PATH whose names match it alike are one slide "
    "(its first group, where it has one); for cell images of many slides in one folder"
)


def make_parser(run: Mapping[str, Verb]) -> argparse.ArgumentParser:
    """The parser; `run` has the function of each verb, which gets the parsed arguments and returns the exit code."""
    top = argparse.ArgumentParser(
        prog="edge-runtime",
        description="Run compressed models on the devices that people really have, inside their memory and storage.",
        epilog="Exit codes: 0 done, 1 something could not be done, 2 usage, 3 does not fit the device's budget, "
        "130 or 143 stopped by Ctrl-C or SIGTERM (a loop ends with 0 then).",
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"edge-runtime {__version__}")
    verbs = top.add_subparsers(metavar="VERB", required=True)

    def verb(name: str, about: str) -> argparse.ArgumentParser:
        made = verbs.add_parser(name, help=about, description=about, allow_abbrev=False)
        made.set_defaults(verb=run[name])
        made.add_argument("--json", action="store_true", help="JSON, one object a line, on stdout")
        return made

    one = verb("devices", "list the device profiles, or show one with the source of each fact")
    shows = one.add_subparsers(metavar="[show NAME]")
    show = shows.add_parser("show", help="one profile, with the source of each fact", allow_abbrev=False)
    show.add_argument("name", metavar="NAME", help="a profile's name, a .toml file, or this-device")
    show.add_argument("--json", action="store_true", help="JSON on stdout")
    one.set_defaults(name=None)

    one = verb("doctor", "say what this device is and which engines work on it")
    _device(one)
    one.add_argument("--self-test", action="store_true", help="read rendered slides whose answer is known")
    one.add_argument("--bundle", default="malaria", help="the bundle for the self-test (default: malaria)")
    one.add_argument("--folder", type=Path, help="measure the storage of this folder (default: the home folder)")
    one.add_argument("--write-profile", type=Path, metavar="FILE.toml", help="write a device profile of this machine")
    one.add_argument("--name", help="the profile's name (default: from the board's model or the CPU)")
    one.add_argument("--force", action="store_true", help="replace FILE.toml if there is one")
    one.add_argument(
        "--calibrate",
        action="store_true",
        help="measure single operators on each engine, some 20 s each (more on slow devices), for `predict`",
    )

    one = verb("inspect", "show what is in a bundle, and check every digest")
    _bundle(one)
    one.add_argument("--card", action="store_true", help="print the model card")

    one = verb("fit", "which variant on which engine fits a device, and why the others do not")
    _bundle(one)
    _device(one)
    one.add_argument("--engine", help="consider this engine only")
    one.add_argument("--here", action="store_true", help="count only engines that work on this machine")
    one.add_argument("--measure", action="store_true", help="race what fits on this machine, as `run` does once")

    one = verb("bench", "measure latency, memory, start-up and energy, so that it can be repeated and trusted")
    one.add_argument("model", nargs="+", help="a bundle, an .onnx or a .tflite file; with --rows, files of rows")
    _device(one)
    what = one.add_argument_group("what to measure", "lists, with commas, make the cross product")
    what.add_argument("--variant", type=_words, default=[], metavar="A,B", help="of a bundle (default: all)")
    what.add_argument("--engine", type=_words, default=[], metavar="A,B", help="default: all that read it here")
    what.add_argument(
        "--threads", type=_numbers, default=[], metavar="1,4", help="of one inference (default: what a session takes)"
    )
    what.add_argument("--batch", type=_numbers, default=[], metavar="1,8", help="sizes for throughput (default: 1,8)")
    what.add_argument("--shape", action="append", default=[], metavar="NAME=1x128", help="an input's free sizes")
    what.add_argument("--item", metavar="PATH", help="the image or slide for the whole task (default: one made up)")
    what.add_argument("--no-task", action="store_true", help="time the model alone")
    how = one.add_argument_group("how")
    how.add_argument("--official", action="store_true", help="5 windows of 10 s and more, as MLPerf Tiny does")
    how.add_argument("--rounds", type=_positive, help="fresh processes a case at the least (default: 5)")
    how.add_argument("--sustained", metavar="20m", help="then so long without a rest, with clock and temperature")
    how.add_argument("--cpus", type=_cores, default=[], metavar="0,1", help="bind to these cores")
    add_meter(one)
    out = one.add_argument_group("what to do with the rows", "one a case; a table, where nothing else is asked for")
    out.add_argument("-o", "--output", metavar="FILE.jsonl", help="keep them: JSON, one a line")
    out.add_argument("--html", metavar="FILE.html", help="a report with plots: one file, no network")
    out.add_argument("--csv", action="store_true", help="CSV on stdout")
    out.add_argument("--markdown", action="store_true", help="a Markdown table on stdout")
    out.add_argument("--compare", metavar="OLD.jsonl", help="say what changed beyond the noise; exit 1 for the worse")
    out.add_argument("--rows", action="store_true", help="measure nothing: show rows that were kept")

    one = verb("predict", "a model's latency on a device, estimated from its operator table; for the workstation")
    one.add_argument("model", help="an .onnx or .tflite file, or a bundle")
    one.add_argument("--device", required=True, metavar="FILE.toml", help="a profile by doctor --calibrate")

    one = verb("run", "read slides or images")
    _bundle(one)
    one.add_argument("paths", nargs="+", metavar="PATH", help="an image, a slide's folder, or a folder of slides")
    _model(one)
    add_meter(one)
    one.add_argument("--cells", action="store_true", help="with --json, also the score of every cell")

    one = verb("loop", "watch a folder, read what appears, record it; picks up where it stopped")
    _bundle(one)
    one.add_argument("folder", help="each sub-folder and each image in it is an item")
    one.add_argument("--journal", required=True, metavar="FILE", help="the SQLite file to record to")
    _model(one)
    one.add_argument("--once", action="store_true", help="read what is there and end")
    one.add_argument("--retry", action="store_true", help="read again what was recorded with an error")
    one.add_argument(
        "--settle", default="3s", metavar="3s", help="read an item when nothing in it changed so long (default: 3s)"
    )
    one.add_argument("--poll", default="1s", metavar="1s", help="how often to look (default: 1s)")
    add_meter(one)
    add_pace(one)

    add_journal(verb("journal", "print what was recorded, or prove that nothing of it was changed"))

    one = verb("pack", "make a bundle from a folder with a bundle.json, its models and a card")
    one.add_argument("folder")
    one.add_argument("-o", "--output", required=True, metavar="FILE.edge")
    one.add_argument(
        "--measure",
        nargs="?",
        const="rendered",
        metavar="ITEM",
        help="measure here what each variant takes in memory, on this item or a rendered one (else it is predicted)",
    )
    one.add_argument("--where", default="", help='with --measure: what this machine is, such as "a Raspberry Pi 4"')

    add_store(verb("store", "installed bundles, under the device's storage budget"))
    add_keys(verb("keys", "the keys that sign bundles, and those that this device accepts"))
    add_sign(verb("sign", "sign a bundle, for devices that accept given keys only; for the workstation"))

    one = verb("compress", "make a trained model smaller, by recipes, and judge what came out; for the workstation")
    add_compress(one)

    one = verb("phantom", "render a slide with known infected cells: proves the path, not the clinic")
    one.add_argument("folder")
    one.add_argument("--cells", type=_count, default=1000)
    one.add_argument("--infected", type=_count, default=0)
    one.add_argument("--seed", type=_count, default=1)
    return top


def _bundle(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "bundle",
        help="a .edge file, the NAME or NAME@VERSION of an installed one, or malaria, which came with the package",
    )


def _device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="this-device", metavar="NAME", help="whose budget (default: this-device)")


def _model(parser: argparse.ArgumentParser) -> None:
    _device(parser)
    parser.add_argument("--engine", help="onnxruntime, litert or null (default: as `fit` says)")
    parser.add_argument("--variant", help="one of the bundle's variants (default: as `fit` says)")
    parser.add_argument(
        "--threads", type=_positive, help="of one inference (default: one for small models, else the device's)"
    )
    parser.add_argument(
        "--no-measure", action="store_true", help="choose by rule, and not by a race of some seconds on this machine"
    )
    parser.add_argument(
        "--time-limit",
        default="5min",
        metavar="5min",
        help="give an item up when its next image takes the model longer (default: 5min)",
    )
    parser.add_argument("--slide-name", metavar="REGEX", help=SLIDE_NAME_HELP)


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"found {text!r}, wanted a whole number")
    return int(text)


def _words(text: str) -> list[str]:
    found = [word.strip() for word in text.split(",")]
    if not all(found):
        raise argparse.ArgumentTypeError(f"found {text!r}, wanted names with commas between them")
    return found


def _numbers(text: str) -> list[int]:
    return [_positive(word) for word in _words(text)]


def _cores(text: str) -> list[int]:
    return [_count(word) for word in _words(text)]


def _positive(text: str) -> int:
    if not _count(text):
        raise argparse.ArgumentTypeError("found 0, wanted 1 or more")
    return int(text)
