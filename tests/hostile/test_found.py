"""What hostile files found in this package, each in a few lines: the test that would have caught it."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import sqlite3
import stat
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from edge_runtime.bundle import load_bundle
from edge_runtime.cli import main
from edge_runtime.engine import EngineOptions, find_engine
from edge_runtime.errors import BundleError, EdgeError, EngineError, InputError, JournalError, UsageError
from edge_runtime.guard import Child, Limits, check_time_limit
from edge_runtime.items import Item, find_items, printable
from edge_runtime.journal import Journal
from edge_runtime.program import open_program
from tests.conftest import null_model
from tests.hostile.bundles import header_of, rehashed
from tests.hostile.suite import small_bundle
from tests.hostile.texts import good_journal


def test_a_pipe_is_not_waited_for(tmp_path: Path):
    os.mkfifo(tmp_path / "x.png")
    item = Item("x", (tmp_path / "x.png",))
    with pytest.raises(InputError, match="found a pipe, wanted a file"):
        item.digest()
    with pytest.raises(BundleError, match="found a pipe"):
        load_bundle(tmp_path / "x.png")
    for create in (True, False):
        with pytest.raises(JournalError, match="found a pipe or a device"):
            Journal(tmp_path / "x.png", create=create)
    os.mkfifo(tmp_path / "clinic.db-wal")
    with pytest.raises(JournalError, match="clinic.db-wal"):
        Journal(tmp_path / "clinic.db")


@pytest.mark.parametrize("name", ["n" * 300, "a\0b", "a\ud800"])
def test_names_that_no_file_can_have(name: str):
    for work in (load_bundle, open_program, Journal, lambda path: find_items([path])[0].digest()):
        with pytest.raises(EdgeError):
            work(f"{name}.onnx")
    assert printable(name).isprintable()


def test_numbers_without_end_in_a_bundle(tmp_path: Path):
    good = small_bundle(tmp_path)
    for number in ("1" + "0" * 400, "1e999", "-1e999"):
        text = json.dumps(header_of(good)).replace('"mean": [0.0', f'"mean": [{number}').encode()
        assert number.encode() in text
        (tmp_path / "x.edge").write_bytes(rehashed(good, text))
        with pytest.raises(BundleError, match="finite|digits"):
            load_bundle(tmp_path / "x.edge")


def test_a_bundle_that_goes_away(tmp_path: Path):
    small_bundle(tmp_path)
    bundle = load_bundle(tmp_path / "good.edge")
    bundle.path.unlink()
    with pytest.raises(BundleError, match="No such file"):
        bundle.verify()


def test_a_damaged_row_hides_no_other(tmp_path: Path):
    path = tmp_path / "clinic.db"
    good_journal(path)
    bad = {3: "'{'", 5: "x'ff'", 7: "7", 9: "'[]'", 11: "'{}'", 13: "CAST(x'7bff' AS TEXT)"}
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("DROP TRIGGER entries_stay")
        for number, value in bad.items():
            db.execute(f"UPDATE entries SET content={value} WHERE number={number}")
        db.commit()
    with Journal(path, create=False) as journal:
        rows = journal.outcomes()
        assert len([next(rows) for _ in range(34)]) == 34
        with pytest.raises(JournalError, match="6 entries are no outcomes.*: 3, 5, 7, 9, 11, 13"):
            next(rows)


def test_damaged_pages_of_a_journal(tmp_path: Path):
    """Some show when it is opened, and some only at the rows that they hold."""
    path = tmp_path / "clinic.db"
    content = good_journal(path)
    page = int.from_bytes(content[16:18], "big")
    said = []
    for at in range(page, len(content), page):
        path.write_bytes(content[:at] + b"\xff" * page + content[at + page :])
        with contextlib.suppress(JournalError), Journal(path, create=False) as journal:
            rows = journal.outcomes()
            next(rows)
            try:
                list(rows)
            except JournalError as error:
                said.append(error.message)
    assert any("malformed" in one for one in said)


def test_errors_print_no_control_characters():
    assert str(EngineError("found \x1b[31m\u202e")) == "found \\x1b[31m\\u202e"
    assert str(EngineError("one\ntwo", hint="three")) == "one\ntwo\n  try: three"


def test_what_an_engine_prints_is_no_sign_of_life():
    child = Child("tests.hostile.test_found:chatterbox", {}, Limits())
    try:
        child.ready()
        child.limits = replace(child.limits, silence_s=1)
        with pytest.raises(EngineError, match="the time limit"):
            child.call("talk", {})
    finally:
        child.close()


@pytest.mark.parametrize(
    ("op", "said"), [("dies", "died of SIGKILL"), ("garbage", "cannot be read"), ("other", "cannot be read")]
)
def test_answers_that_are_cut_or_nonsense(op: str, said: str):
    child = Child("tests.hostile.test_found:chatterbox", {}, Limits())
    try:
        child.ready()
        with pytest.raises(EngineError, match=said):
            child.call(op, {})
        assert not child.alive
    finally:
        child.close()


def answer_pipe() -> int:
    """The descriptor that answers go to, in the child: a pipe for writing that is not its stderr."""
    for fd in range(3, 40):
        with contextlib.suppress(OSError):
            there = os.fstat(fd)
            writes = fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_WRONLY
            if writes and stat.S_ISFIFO(there.st_mode) and there.st_ino != os.fstat(2).st_ino:
                return fd
    raise LookupError


class Chatterbox:
    def handle(self, op: str, meta: dict[str, Any], arrays: dict[str, Any], progress: Any) -> Any:
        import time

        if op == "dies":
            os.write(answer_pipe(), b'\0\0\0\x20{"meta"')
            os.kill(os.getpid(), 9)
        if op in ("garbage", "other"):
            text = b"\xff" * 8 if op == "garbage" else b"[[1, 2]]"
            os.write(answer_pipe(), b"\0\0\0\x08" + text)
            time.sleep(60)
        while True:
            os.write(2, b"still here\n")
            time.sleep(0.05)


def chatterbox(spec: dict[str, Any]) -> Chatterbox:
    return Chatterbox()


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_time_limits_that_are_none(seconds: float):
    with pytest.raises(UsageError, match="10 ms to 24 h"):
        check_time_limit(seconds)


def test_the_time_limit_of_a_verb(means: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for limit, said in (("5", "wanted a number with one of the units"), ("1us", "wanted 10 ms to 24 h")):
        assert main(["run", str(means), str(tmp_path), "--time-limit", limit]) == 2
        assert said in capsys.readouterr().err


def test_the_null_engine_reads_no_enormous_file(tmp_path: Path):
    path = tmp_path / "x.null"
    path.touch()
    os.truncate(path, 64 << 30)
    with pytest.raises(EngineError, match="found more than 1048576 bytes"):
        find_engine("null").load(path, EngineOptions())
    for plain in ({"fill": 10**400}, {"outputs": [None]}, {"outputs": "x"}):
        with pytest.raises(EngineError):
            find_engine("null").load(json.dumps(json.loads(null_model()) | plain).encode(), EngineOptions())
    strange = json.loads(null_model()) | {"outputs": [{"name": "y", "shape": [1], "dtype": "no such"}]}
    with pytest.raises(EngineError, match="null engine"):
        find_engine("null").load(json.dumps(strange).encode(), EngineOptions()).run({"image": None})  # type: ignore[dict-item]


def test_an_image_that_grows_while_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "x.png").write_bytes(bytes(2000))
    kind = os.stat(tmp_path / "x.png").st_mode
    monkeypatch.setattr(os, "fstat", lambda _: SimpleNamespace(st_size=10, st_mode=kind))
    with pytest.raises(InputError, match="grew while it was read"):
        Item("x", (tmp_path / "x.png",)).digest()
