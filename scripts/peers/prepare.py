"""Environments and model files: made once in the work folder, found again afterwards. Standard library alone."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from scripts.peers.catalogue import ENVIRONMENTS, SIZES, Conversion, Environment, conversions

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
# importlib.metadata knows what pip put where; pip itself and setuptools are in every environment and not counted
_COUNT = """
import importlib.metadata as metadata, json, os
found = {}
for one in metadata.distributions():
    name = one.metadata["Name"]
    if name.lower() not in ("pip", "setuptools", "wheel"):
        files = [str(one.locate_file(file)) for file in one.files or ()]
        found[name] = [one.version, sum(os.path.getsize(file) for file in files if os.path.isfile(file))]
print(json.dumps(found))
"""


class Failed(Exception):
    """What could not be made, in one line."""


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def surroundings(work: Path) -> dict[str, str]:
    """Environment variables of every process here: no telemetry, a home folder of its own, nothing of the caller's.

    What OpenVINO's tools read as a refusal is in that home; onnxruntime reads a variable.
    """
    consent = work / "home" / "intel" / "openvino_telemetry"
    consent.parent.mkdir(parents=True, exist_ok=True)
    consent.write_text("0")
    kept = _own()
    if "EDGE_RUNTIME_DATA" in kept:  # a relative one means the caller's folder
        kept["EDGE_RUNTIME_DATA"] = str(Path(kept["EDGE_RUNTIME_DATA"]).absolute())
    return kept | {"HOME": str(work / "home"), "ORT_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "1"}


def _own() -> dict[str, str]:
    """The caller's variables, which pip needs for its settings and cache, less those that bend another Python."""
    return {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "VIRTUAL_ENV"))}


def find_python(versions: tuple[str, ...]) -> str:
    """The path of the first version that runs: on the PATH, else among pyenv's and uv's. Raises Failed."""
    if not versions or f"{sys.version_info[0]}.{sys.version_info[1]}" in versions:
        return sys.executable
    for version in versions:
        places = [shutil.which(f"python{version}")]
        for folder in (".pyenv/versions", ".local/share/uv/python"):
            places += [str(one) for one in sorted(Path.home().glob(f"{folder}/*{version}.*/bin/python3"), reverse=True)]
        for place in filter(None, places):
            shown = subprocess.run(
                [place, "-c", "import sys; print(*sys.version_info[:2], sep='.')"], capture_output=True
            )
            if shown.stdout.decode().strip() == version:
                return place
    wanted = " or ".join(versions)
    raise Failed(f"needs Python {wanted}, found none; for example: uv python install {versions[0]}")


def _digest(*parts: bytes) -> str:
    whole = hashlib.sha256()
    for one in parts:
        whole.update(hashlib.sha256(one).digest())
    return whole.hexdigest()


def _checkout() -> bytes:
    files = [
        ROOT / "pyproject.toml",
        ROOT / "scripts" / "dependencies.py",
        *sorted((ROOT / "edge_runtime").rglob("*.py")),
    ]
    return b"".join(one.read_bytes() for one in files)


def environment(name: str, work: Path) -> Path:
    """The Python of an environment, made if it is not there. Raises Failed with pip's last line."""
    about: Environment = ENVIRONMENTS[name]
    folder = work / "env" / name
    python = folder / "bin" / "python"
    source = find_python(about.pythons)
    stamp = _digest(repr((about, source)).encode(), _checkout() if about.of_checkout else b"")
    if python.exists() and _read(folder / "made-for") == stamp:
        return python
    say(f"{name}: making its environment ...")
    shutil.rmtree(folder, ignore_errors=True)
    log = work / "log" / f"env-{name}.txt"
    _run([source, "-m", "venv", str(folder)], log, _own(), work, 300)
    pip = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--quiet"]
    for step in about.steps:
        _run([*pip, *(one.format(root=ROOT) for one in step)], log, _own(), work, 3600)
    (folder / "made-for").write_text(stamp)
    return python


def _read(path: Path) -> str:
    return path.read_text() if path.is_file() else ""


def _run(command: list[str], log: Path, variables: dict[str, str], work: Path, timeout_s: float) -> None:
    """A command with its output in a file. Raises Failed with the last line that says something."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "ab") as file:
        start = file.tell()
        try:
            done = subprocess.run(
                command, stdout=file, stderr=file, stdin=subprocess.DEVNULL, timeout=timeout_s,
                env=variables, cwd=work, check=False,
            ).returncode  # fmt: skip
        except subprocess.TimeoutExpired:
            raise Failed(f"took longer than {timeout_s:.0f} s; see {log.name}") from None
    if done:
        with open(log, "rb") as file:
            file.seek(start)
            raise Failed(last_words(file.read().decode(errors="replace"), done))


def last_words(text: str, code: int) -> str:
    """What a program that ended with `code` said last, in one line without paths of this machine."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "error" in line.lower()] or lines
    said = errors[-1] if errors else ""
    said = re.sub(r"(?:/[\w.+-]+){2,}/", ".../", said)
    ended = f"signal {-code}" if code < 0 else f"exit code {code}"
    return f"{ended}: {said[:160]}" if said else ended


def installed(python: Path) -> dict[str, tuple[str, int]]:
    """Distribution -> version and bytes on disk, compiled files included."""
    done = subprocess.run([str(python), "-I", "-c", _COUNT], capture_output=True, check=True)
    return {name: (version, size) for name, (version, size) in json.loads(done.stdout).items()}


def code(script: Path, target: str) -> str:
    """The text of one target of a script and of what several of them share: a change of another remakes nothing."""
    text = script.read_text()
    others = {one.words[0] for one in conversions(tuple(SIZES))} - {target}
    whole = [one for one in ast.parse(text).body if not isinstance(one, ast.Expr)]  # the docstring is one
    kept = [one for one in whole if not (isinstance(one, ast.FunctionDef) and one.name in others)]
    return "\n".join(ast.get_source_segment(text, one) or "" for one in kept)


def convert(one: Conversion, work: Path) -> None:
    """Make the files of a conversion if they are not there, or were made from something else. Raises Failed."""
    python = environment(one.environment, work)
    missing = [name for name in one.inputs if not (work / name).is_file()]
    if missing:
        raise Failed(f"needs {missing[0]}, which could not be made")
    texts = [code(HERE / one.script, one.words[0]).encode(), (HERE / "network.py").read_bytes()]
    content = [(work / name).read_bytes() for name in one.inputs]
    stamp = _digest(repr((one, ENVIRONMENTS[one.environment])).encode(), *texts, *content)
    mark = work / "made" / "-".join(one.words)
    if _read(mark) == stamp and all((work / name).is_file() for name in one.outputs):
        return
    say(f"{one.title}: making {', '.join(Path(name).name for name in one.outputs)} ...")
    began = time.monotonic()
    command = [str(python), str(HERE / one.script), *one.words, str(work)]
    _run(command, work / "log" / f"{'-'.join(one.words)}.txt", surroundings(work), work, 1800)
    absent = [name for name in one.outputs if not (work / name).is_file()]
    if absent:
        raise Failed(f"the converter ended well and left no {absent[0]}")
    mark.parent.mkdir(exist_ok=True)
    mark.write_text(stamp)
    say(f"{one.title}: {time.monotonic() - began:.0f} s")
