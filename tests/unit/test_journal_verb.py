"""The verb `journal`: its forms, its checks, and memory that does not grow with the journal."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from edge_runtime.cli import main
from edge_runtime.journal import Journal
from edge_runtime.journal_export import CSV_FIELDS
from tests.unit.test_fhir import OUTCOMES, check
from tests.unit.test_journal import EDITED, OPEN, damage, execute, outcome


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with Journal(tmp_path / "j.db") as book:
        assert book.add(outcome("again", error="again: broken"))
        assert book.add(outcome("again"))
        assert all(map(book.add, OUTCOMES.values()))
    return tmp_path / "j.db"


def journal(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> str:
    assert main(["journal", *map(str, arguments)]) == code
    said = capsys.readouterr()
    return said.err if code else said.out


def test_every_form_has_every_kind_of_outcome(path: Path, capsys: pytest.CaptureFixture[str]):
    count = len(OUTCOMES) + 1
    assert len(journal(capsys, path).splitlines()) == count
    rows = [json.loads(line) for line in journal(capsys, path, "--json").splitlines()]
    assert len(rows) == count
    table = list(csv.DictReader(io.StringIO(journal(capsys, path, "--csv"))))
    assert len(table) == count
    check(json.loads(journal(capsys, path, "--fhir")))
    assert len(journal(capsys, path, "--history", "--json").splitlines()) == count + 1
    for form in ("--json", "--csv", "--fhir"):
        assert "slide 1" not in journal(capsys, path, form, "--since", "2100-01-01")
        assert "slide 2" not in journal(capsys, path, form, "--item", "slide 1")
    assert set(table[0]) == set(CSV_FIELDS)
    assert table[0]["variant_digest"] == "cd" * 32
    assert table[0]["entry_hash"] == rows[0]["entry_hash"]


@pytest.mark.parametrize("name", ["=HYPERLINK(1)", "+1", "-1", "@x", "\tx", " =1", "\uff1d1"])
def test_a_spreadsheet_runs_nothing(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    with Journal(tmp_path / "j.db") as book:
        book.add(outcome(name, error=f"{name}: broken"))
    (row,) = csv.DictReader(io.StringIO(journal(capsys, tmp_path / "j.db", "--csv")))
    # errors have no control characters any more
    error = "\\tx: broken" if name == "\tx" else f"'{name}: broken"
    assert (row["item"], row["error"]) == (f"'{name}", error)


def test_verify_prints_the_head_and_takes_it_back(path: Path, capsys: pytest.CaptureFixture[str]):
    said = journal(capsys, path, "--verify")
    assert f"{len(OUTCOMES) + 3} entries, {len(OUTCOMES) + 2} outcomes; every hash fits" in said
    head = said.split("head ")[1].split()[0]
    assert f"the noted head is entry {len(OUTCOMES) + 3}" in journal(capsys, path, "--verify", "--head", head[:16])
    found = json.loads(journal(capsys, path, "--verify", "--json"))
    assert (found["ok"], found["head"]) == (True, head)
    assert "cut off or written anew" in journal(capsys, path, "--verify", "--head", "0" * 64, code=1)
    execute(path, *OPEN, EDITED.replace("=4", "=3"))
    assert "entry 3: its hash is not that" in journal(capsys, path, "--verify", code=1)
    main(["journal", str(path), "--verify", "--json"])
    assert json.loads(capsys.readouterr().out)["broken_entry"] == 3


def test_a_damaged_journal_is_rescued(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert "outcomes saved, 0 entries lost" in journal(capsys, path, "--rescue", tmp_path / "new.db")
    for page in range(1, 4):
        damage(path, page)
    assert "--rescue NEW.db" in journal(capsys, path, "--verify", code=1)


def test_a_copy_made_while_a_loop_records_has_all_of_it(path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "stick").mkdir()
    with Journal(path) as book:
        book.add(outcome("just now"))
        assert f"{book.head().number} entries" in journal(capsys, path, "--copy", tmp_path / "stick" / "new.db")
    assert [one.name for one in (tmp_path / "stick").iterdir()] == ["new.db"], "one file, and no log beside it"
    assert "just now" in journal(capsys, tmp_path / "stick" / "new.db", "--csv")
    assert "left as it is" in journal(capsys, path, "--copy", tmp_path / "stick" / "new.db", code=1)
    assert "nowhere" in journal(capsys, path, "--copy", tmp_path / "nowhere" / "new.db", code=1)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--csv", "--json"], "--csv and --json are 2 forms"),
        (["--head", "0" * 64], "--head goes with --verify"),
        (["--verify", "--since", "today"], "does not go with --since"),
        (["--verify", "--head", "xyz"], "hexadecimal"),
        (["--rescue", "new.db", "--csv"], "does not go with --csv"),
    ],
)
def test_what_does_not_go_together(options: list[str], said: str, path: Path, capsys: pytest.CaptureFixture[str]):
    assert said in journal(capsys, path, *options, code=2)


MEASURE = """
import os, sys
from edge_runtime.cli import main
assert main(sys.argv[1:]) == 0
status = open("/proc/self/status").read()
print(status.split("VmHWM:")[1].split()[0], file=sys.stderr)
"""


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A small and a large journal."""
    made = []
    for count in (10, 1500):
        made.append(tmp_path_factory.mktemp("journals") / f"{count}.db")
        with Journal(made[-1]) as book:
            book._db.execute("PRAGMA synchronous=off")
            for number in range(count):
                book.add(outcome(f"slide {number}", f"{number}"))
    return made


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="no /proc here: peak memory is not told")
@pytest.mark.parametrize("form", ["--csv", "--json", "--fhir", "--verify"])
def test_memory_does_not_grow_with_the_journal(form: str, two: list[Path]):
    peaks = []
    for path in two:
        command = [sys.executable, "-c", MEASURE, "journal", str(path), form]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        peaks.append(int(done.stderr))
    # SQLite keeps up to 2 MiB of pages; the rows alone would be 2 MiB of text and five times that as objects
    assert peaks[1] - peaks[0] < 4 << 10, f"{peaks} KiB"
