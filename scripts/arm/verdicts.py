"""What this machine says of slides whose truth is known: one JSON object a line on stdout. Runs on any machine.

    python verdicts.py [--readings] SLIDES CHOICE ...

SLIDES has the folders that scripts/arm/test made: fields/ and cells/, each with the slides infected/ and clean/. A
CHOICE is FOLDER:VARIANT@ENGINE, or FOLDER alone for what the runtime chooses. A line has `step`, `seconds` and `found`:
what the command printed as JSON. `phantom` renders a small slide, to be compared by its digest; it and `doctor` are
left out with --readings.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def step(name: str, words: list[str]) -> None:
    start = time.monotonic()
    line = [sys.executable, "-m", "edge_runtime", *words, "--json"]
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{name}: edge_runtime {' '.join(words)}: exit code {done.returncode}\n{done.stderr}")
    tell(name, start, [json.loads(line) for line in done.stdout.splitlines()])


def tell(name: str, start: float, found: object) -> None:
    print(json.dumps({"step": name, "seconds": round(time.monotonic() - start, 1), "found": found}), flush=True)


def phantom() -> None:
    """A line with a digest of the pixels: PNG's compression may differ between versions of zlib, the pixels may not."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        words = ["phantom", folder, "--cells", "6", "--infected", "2", "--seed", "3"]
        subprocess.run([sys.executable, "-m", "edge_runtime", *words], stdout=subprocess.DEVNULL, check=True)
        from PIL import Image

        whole = hashlib.sha256()
        for path in sorted(Path(folder).iterdir()):
            with Image.open(path) as image:
                whole.update(image.tobytes())
    tell("phantom", start, whole.hexdigest())


def main() -> None:
    words = sys.argv[1:]
    if readings := "--readings" in words:
        words.remove("--readings")
    slides, *choices = words
    if not readings:
        step("doctor", ["doctor"])
        phantom()
    for choice in choices:
        folder, _, what = choice.partition(":")
        variant, _, engine = what.partition("@")
        named = ["--variant", variant, "--engine", engine] if variant else []
        paths = [f"{slides}/{folder}/{name}" for name in ("infected", "clean")]
        step(choice, ["run", "malaria", *paths, *named, *(["--cells"] if folder == "cells" else [])])


main()
