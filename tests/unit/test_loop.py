"""The journal and the loop: exactly once, nothing lost, nothing read early."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import edge_runtime as edge
from edge_runtime.errors import EdgeError, InputError, JournalError, UsageError
from edge_runtime.journal import Journal, parse_since
from edge_runtime.loop import run_loop, watch
from tests.conftest import picture, small_device

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, colour in COLOURS.items():
        picture(tmp_path / "in" / f"{name}.png", colour)
    return tmp_path / "in"


def read(means: Path, folder: Path, journal: Path) -> list[str]:
    with edge.open_session(means, small_device()) as session, Journal(journal) as book:
        return [one.item for one in run_loop(session, watch(folder, once=True, settle_s=0), book)]


def test_every_item_once_and_again_only_when_it_changed(means: Path, folder: Path, tmp_path: Path):
    journal = tmp_path / "j.db"
    assert len(read(means, folder, journal)) == 3
    assert read(means, folder, journal) == []
    os.utime(folder / "red.png", (1, 1))  # copied again: other times, the same contents
    assert read(means, folder, journal) == []
    picture(folder / "red.png", (1, 2, 3))
    assert read(means, folder, journal) == ["red.png"]
    with Journal(journal) as book:
        assert len(book) == 4


def test_a_bad_item_is_recorded_once_and_the_others_are_read(means: Path, folder: Path, tmp_path: Path):
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n broken")
    (folder / "empty-slide").mkdir()
    picture(folder / "mixed" / "one.png", (1, 2, 3))
    picture(folder / "mixed" / "deeper" / "two.png", (1, 2, 3))  # would be passed over
    assert len(read(means, folder, tmp_path / "j.db")) == 6
    assert read(means, folder, tmp_path / "j.db") == []
    with Journal(tmp_path / "j.db") as book:
        errors = {one["item"]: one["error"] for one in book.outcomes() if one["error"]}
    assert errors["broken.png"]["type"] == errors["empty-slide"]["type"] == "InputError"
    assert "found no image" in errors["empty-slide"]["message"]
    assert "beside folders of images (deeper ...)" in errors["mixed"]["message"]


def test_half_copied_and_hidden_files_are_not_read_early(folder: Path):
    growing = folder / "growing.png"
    stop = threading.Event()

    def copy() -> None:
        while not stop.is_set():
            with growing.open("ab") as stream:
                stream.write(b"more")
            time.sleep(0.02)

    (folder / ".hidden.png").write_bytes(b"x")
    (folder / "notes.txt").write_text("x")
    writer = threading.Thread(target=copy)
    writer.start()
    try:
        items = watch(folder, settle_s=0.4, poll_s=0.05)
        early = {next(items).name for _ in range(3)}
        assert early == {"red.png", "green.png", "blue.png"}
        stop.set()
        assert next(items).name == "growing.png"
    finally:
        stop.set()
        writer.join()


def test_an_item_that_changes_while_it_is_read_is_not_recorded_as_what_it_was(
    means: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    run = edge.Session.run
    first = []

    def run_and_change(self: edge.Session, item: edge.Item, **options: Any) -> edge.Outcome:
        outcome = run(self, item, **options)
        if item.name == "red.png" and not first:
            first.append(picture(folder / "red.png", (0, 0, 255), (9, 9)))
        return outcome

    monkeypatch.setattr(edge.Session, "run", run_and_change)
    assert sorted(read(means, folder, tmp_path / "j.db")) == ["blue.png", "green.png", "red.png"]
    with Journal(tmp_path / "j.db") as book:
        (red,) = (one for one in book.outcomes() if one["item"] == "red.png")
    assert red["labels"][0]["label"] == "blue"


def test_a_folder_or_a_slide_that_goes_away_and_comes_back(folder: Path, tmp_path: Path):
    told: list[str] = []
    items = watch(folder, settle_s=0, poll_s=0.01, notice=told.append)
    assert [next(items).name for _ in range(3)] == ["blue.png", "green.png", "red.png"]
    away = folder.rename(tmp_path / "away")
    threading.Timer(0.2, lambda: away.rename(folder)).start()
    assert next(items).name == "blue.png"
    assert len(told) == 1
    with pytest.raises(InputError, match="wanted one to watch"):
        watch(tmp_path / "nowhere")


def test_names_that_are_not_utf8_and_names_with_newlines(means: Path, tmp_path: Path):
    for name in (b"bad\xff.png", b"two\nlines.png"):
        picture(tmp_path / "in" / os.fsdecode(name), (255, 0, 0))
    assert read(means, tmp_path / "in", tmp_path / "j.db") == ["bad\\xff.png", "two\\nlines.png"]
    assert read(means, tmp_path / "in", tmp_path / "j.db") == []


def test_a_model_that_cannot_be_started_again_is_not_charged_to_the_slide(means: Path, folder: Path, tmp_path: Path):
    copy = tmp_path / "means.edge"
    copy.write_bytes(means.read_bytes())
    with edge.open_session(copy, small_device()) as session, Journal(tmp_path / "j.db") as book:
        copy.unlink()
        session._running().close()
        with pytest.raises(EdgeError):
            next(run_loop(session, watch(folder, once=True, settle_s=0), book))
        assert len(book) == 0


def test_a_loop_that_is_told_to_end_ends_well(means: Path, folder: Path, tmp_path: Path):
    command = [sys.executable, "-m", "edge_runtime", "loop", str(means), str(folder), "--settle", "0s"]
    with subprocess.Popen([*command, "--journal", str(tmp_path / "j.db")], stdout=subprocess.PIPE, text=True) as loop:
        assert loop.stdout
        for _ in range(3):
            loop.stdout.readline()
        loop.terminate()
        assert loop.wait(20) == 0


def test_a_killed_loop_resumes_to_exactly_the_full_set(means: Path, tmp_path: Path):
    incoming = tmp_path / "in"
    for number in range(40):
        picture(incoming / f"{number:02}.png", (number, 0, 0))
    command = [sys.executable, "-m", "edge_runtime", "loop", str(means), str(incoming)]
    command += ["--journal", str(tmp_path / "j.db"), "--once", "--settle", "0s", "--json"]
    acknowledged: list[str] = []
    for stop_after in (3, 5, None):
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
            assert process.stdout
            for count, line in enumerate(process.stdout, 1):
                acknowledged.append(json.loads(line)["item"])
                if count == stop_after:
                    process.send_signal(signal.SIGKILL)
                    break
    with Journal(tmp_path / "j.db") as book:
        recorded = [one["item"] for one in book.outcomes()]
    assert sorted(recorded) == sorted(path.name for path in incoming.iterdir())
    assert set(acknowledged) <= set(recorded)


def test_the_journal_is_durable_and_says_what_it_is(tmp_path: Path):
    with Journal(tmp_path / "j.db") as book:
        assert book._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert book._db.execute("PRAGMA synchronous").fetchone() == (2,)
    (tmp_path / "text.db").write_text("not a database, but long enough to be taken for one " * 9)
    with pytest.raises(JournalError, match="cannot be used as a journal"):
        Journal(tmp_path / "text.db")
    with pytest.raises(JournalError, match="found no journal"):
        Journal(tmp_path / "none.db", create=False)
    with sqlite3.connect(tmp_path / "new.db") as db:
        db.execute("PRAGMA user_version=99")
    db.close()
    with pytest.raises(JournalError, match="journal version 99"):
        Journal(tmp_path / "new.db")


def test_a_journal_that_cannot_be_written_is_read_or_says_why_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with Journal(tmp_path / "j.db"):
        pass
    connect = sqlite3.connect

    def read_only(path: str, **options: Any) -> sqlite3.Connection:
        if "mode=ro" in str(path):  # as on a medium that has no room for the files beside it
            raise sqlite3.OperationalError("unable to open database file")
        return connect(path, **options)

    monkeypatch.setattr(sqlite3, "connect", read_only)
    with Journal(tmp_path / "j.db", create=False) as book:
        assert list(book.outcomes()) == []
    (tmp_path / "j.db-wal").write_bytes(b"rows")
    with pytest.raises(JournalError, match="copy j.db and j.db-wal"):
        Journal(tmp_path / "j.db", create=False)


def test_two_loops_on_one_journal_record_an_item_once(means: Path, folder: Path, tmp_path: Path):
    with edge.open_session(means, small_device()) as session:
        outcome = session.run(folder / "red.png")
    with Journal(tmp_path / "j.db") as first, Journal(tmp_path / "j.db") as second:
        assert first.add(outcome)
        assert not second.add(outcome)


@pytest.mark.parametrize("text", ["today", "yesterday", "7d", "12h", "2026-01-31", "2026-01-31T10:00"])
def test_since_is_understood(text: str):
    assert parse_since(text).endswith("+00:00")


@pytest.mark.parametrize("text", ["", "tomorrow", "7", "99999999999d", "2026-13-01"])
def test_since_that_is_not_is_refused(text: str):
    with pytest.raises(UsageError, match="wanted today, yesterday"):
        parse_since(text)


def test_a_folder_that_is_not_there():
    with pytest.raises(InputError, match="wanted one to watch"):
        next(watch("nowhere"))
