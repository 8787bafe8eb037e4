"""The command line, run as a user runs it: output, exit codes, and what each verb loads."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import edge_runtime
from edge_runtime.cli import main
from edge_runtime.compress.costs import foresee
from edge_runtime.journal_export import CSV_FIELDS
from edge_runtime.packing import pack_folder
from tests.conftest import picture


def cli(*arguments: object, **options: Any) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "edge_runtime", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, **options)


@pytest.mark.parametrize("verb", [["--help"], ["devices"], ["journal", "JOURNAL"], ["run", "--help"]])
def test_these_load_neither_numpy_nor_an_engine(verb: list[str], means: Path, tmp_path: Path):
    picture(tmp_path / "in" / "a.png", (255, 0, 0))
    journal = tmp_path / "j.db"
    assert cli("loop", means, tmp_path / "in", "--journal", journal, "--once", "--settle", "0s").returncode == 0
    code = (
        "import sys\nfrom edge_runtime.cli import main\n"
        "try: main([one.replace('JOURNAL', sys.argv[1]) for one in sys.argv[2:]])\n"
        "except SystemExit: pass\n"
        "heavy = {'numpy', 'PIL', 'psutil', 'onnxruntime', 'ai_edge_litert', 'tflite_runtime'} & set(sys.modules)\n"
        "sys.exit(str(sorted(heavy)) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(journal), *verb], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout


def test_import_loads_none_of_them_and_every_name_is_there():
    assert len(edge_runtime.__all__) <= 20
    assert all(callable(getattr(edge_runtime, name)) for name in edge_runtime.__all__)
    done = subprocess.run(
        [sys.executable, "-c", "import sys, edge_runtime; print('numpy' in sys.modules, 'sqlite3' in sys.modules)"],
        capture_output=True,
        text=True,
    )
    assert done.stdout == "False False\n"


def test_run_prints_json_lines_and_counts(means: Path, tmp_path: Path):
    picture(tmp_path / "a.png", (0, 255, 0))
    (tmp_path / "b.png").write_bytes(b"no")
    done = cli("run", means, tmp_path / "a.png", tmp_path / "b.png", "--json")
    first, second = map(json.loads, done.stdout.splitlines())
    assert first["labels"][0]["label"] == "green"
    assert second["error"]["type"] == "InputError"
    assert done.returncode == 1, "an item that could not be read makes the exit code 1"
    assert "2 items: 1 error, 1 read" in done.stderr


def test_the_same_for_a_person(means: Path, tmp_path: Path):
    done = cli("run", means, picture(tmp_path / "a.png", (0, 255, 0)))
    assert "green 1.000" in done.stdout
    assert "means 1.0, fp32 on onnxruntime" in done.stderr
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["run", "none.edge", "x.png"], 1, "No such file"),
        (["run", "MEANS", "none.png"], 1, "found nothing there"),
        (["run", "MEANS", "x.png", "--device", "none"], 1, "edge-runtime devices"),
        (["run", "MEANS", "x.png", "--engine", "none"], 2, "wanted one of onnxruntime"),
        (["run", "MEANS", "x.png", "--variant", "none"], 1, "it has fp32"),
        (["run", "MEANS", "x.png", "--threads", "0"], 2, "wanted 1 or more"),
        (["run", "MEANS", "x.png", "--slide-name", "("], 2, "wanted a regular expression"),
        (["fit", "MEANS", "--device", "tests/unit/tiny.toml"], 1, "tiny.toml"),
        (["inspect", "README.md"], 1, "wanted an .edge bundle"),
        (["journal", "none.db"], 1, "found no journal"),
        (["loop", "MEANS", "none", "--journal", "JOURNAL"], 1, "wanted one to watch"),
        (["loop", "MEANS", ".", "--journal", "JOURNAL", "--settle", "3"], 2, "with one of the units"),
        (["pack", "nowhere", "-o", "x.edge"], 1, "wanted a description"),
        (["run", "MEANS", "x.png", "--threads", "100000"], 2, "wanted 1 to 64"),
        (["run", "MEANS", "x.png", "--cells"], 2, "--cells goes with --json"),
        (["inspect", "MEANS", "--card", "--json"], 2, "give one of them"),
        (["doctor", "--self-test", "--bundle", "MEANS"], 2, "wanted slides"),
        (["phantom", "/proc/nowhere"], 2, "wanted a folder to write to"),
        (["juggle"], 2, "invalid choice"),
        ([], 2, "required"),
    ],
)
def test_bad_requests_get_one_clear_error(
    arguments: list[str], code: int, said: str, means: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    named = {"MEANS": str(means), "JOURNAL": str(tmp_path / "j.db")}
    try:
        found = main([named.get(one, one) for one in arguments])
    except SystemExit as error:
        found = int(str(error.code))
    assert found == code
    assert said in capsys.readouterr().err


def test_fit_exits_3_with_the_reasons_where_nothing_fits(means: Path, tmp_path: Path):
    text = (Path(__file__).parents[2] / "device_profiles" / "raspberry-pi-zero-2w.toml").read_text()
    small = tmp_path / "small.toml"
    small.write_text(text.replace('ram = "192MiB"', 'ram = "20MiB"').replace("raspberry-pi-zero-2w", "small"))
    done = cli("fit", means, "--device", small)
    assert done.returncode == 3
    assert "nothing fits" in done.stdout
    assert "the device allows 20 MiB" in done.stderr
    assert cli("run", means, "x.png", "--device", small).returncode == 3


def test_fit_inspect_devices_doctor_pack_for_machines(means: Path, models: Path, tmp_path: Path):
    fit = json.loads(cli("fit", means, "--device", "raspberry-pi-5", "--json").stdout)
    assert fit["choice"]["engine"] == "onnxruntime"
    assert {one["cost"]["basis"] for one in fit["candidates"]} == {"estimated"}
    assert json.loads(cli("inspect", means, "--json").stdout)["name"] == "means"
    assert cli("inspect", means, "--card").stdout == "# Means\n"
    devices = [json.loads(line) for line in cli("devices", "--json").stdout.splitlines()]
    assert len(devices) >= 16
    shown = json.loads(cli("devices", "show", "this-device", "--json").stdout)
    assert shown["name"] == "this-device"
    assert all(one["works"] for one in json.loads(cli("doctor", "--json").stdout)["engines"])
    packed = json.loads(cli("pack", models, "-o", tmp_path / "x.edge", "--json").stdout)
    assert packed["digest"] == pack_folder(models, tmp_path / "y.edge", None, foresee).digest


def test_the_journal_in_three_forms(means: Path, tmp_path: Path):
    picture(tmp_path / "in" / "a.png", (255, 0, 0))
    (tmp_path / "in" / "b.png").write_bytes(b"no")
    journal = tmp_path / "j.db"
    assert cli("loop", means, tmp_path / "in", "--journal", journal, "--once", "--settle", "0s").returncode == 0
    assert "red 1.000" in cli("journal", journal).stdout
    assert [json.loads(line)["schema"] for line in cli("journal", journal, "--json").stdout.splitlines()] == [1, 1]
    rows = list(csv.DictReader(io.StringIO(cli("journal", journal, "--csv").stdout)))
    assert tuple(rows[0]) == CSV_FIELDS
    assert "wanted an image" in rows[1]["error"]
    assert cli("journal", journal, "--since", "2100-01-01").stdout == ""


def test_a_closed_pipe_is_not_an_error():
    done = subprocess.run(f"{sys.executable} -m edge_runtime devices | head -1", shell=True, capture_output=True)
    assert done.returncode == 0
    assert done.stderr == b""


def test_a_full_disk_behind_stdout_is_an_error_in_words():
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full on this system")
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-m", "edge_runtime", "devices"], stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 1
    assert b"No space left" in done.stderr
    assert b"Traceback" not in done.stderr


def test_every_verb_has_help():
    for verb in ("devices", "doctor", "inspect", "fit", "predict", "run", "loop", "journal", "pack", "phantom"):
        assert "--json" in cli(verb, "--help").stdout
