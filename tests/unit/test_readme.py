"""The README tells the truth: its figures are the recorded ones, its sample output is what comes out, its code runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from edge_runtime.cli import VERBS
from edge_runtime.parser import make_parser
from tests.conftest import ROOT
from tests.unit.test_cli import cli

TEXT = (ROOT / "README.md").read_text()


def test_its_figures_are_those_of_the_recorded_runs():
    done = subprocess.run([sys.executable, "scripts/readme.py", "--check"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_its_sample_output_is_what_comes_out(tmp_path: Path):
    """The commands of scripts/run, whose output the first screen shows."""
    script = (ROOT / "scripts" / "run").read_text()
    for words in re.findall(r"^edge (phantom .*)$", script, re.M):
        assert cli(*words.split(), cwd=tmp_path).returncode == 0
    done = cli("run", "malaria", "infected", "clean", cwd=tmp_path)
    shown = [line for line in TEXT.splitlines() if line.startswith(("infected  ", "clean  "))]
    assert shown == done.stdout.splitlines()[:2]


def test_its_commands_are_understood():
    for line in re.findall(r"^\$ edge-runtime (.*?)(?: +#.*)?$", TEXT, re.M):
        make_parser(VERBS).parse_args(line.split())


def test_the_python_in_it_names_what_there_is():
    import edge_runtime

    names = set(re.findall(r"\bedge\.(\w+)", TEXT))
    assert names
    assert names <= set(edge_runtime.__all__)
