"""The journal's chain: append-only, checked, migrated, and honest about a full disk and a damaged file."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.errors import InputError, JournalError, UsageError
from edge_runtime.journal import Journal
from edge_runtime.journal_check import verify
from edge_runtime.journal_file import GENESIS, connect_to_write, entry_hash
from edge_runtime.journal_rescue import rescue
from edge_runtime.results import Origin, Outcome, Prediction

ORIGIN = Origin("means 1.0", "ab" * 32, "fp32", "null", "1", "test", "cd" * 32, 1, 1 << 28, "ef" * 32)
WHEN = "2026-11-25T10:00:00+00:00"


def outcome(item: str = "slide-1", digest: str = "d1", error: str | None = None, when: str = WHEN) -> Outcome:
    prediction = None if error else Prediction("image", "red", {"labels": [{"label": "red", "score": 1.0}]})
    return Outcome(item, digest, when, ORIGIN, prediction, InputError(error) if error else None)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A journal with an error, three outcomes, and one in the error's place."""
    with Journal(tmp_path / "j.db") as book:
        for one in (outcome("a", "1"), outcome("b", "2", "blurred"), outcome("c", "3"), outcome("d", "4")):
            assert book.add(one, "mark")
        assert book.add(outcome("b", "2"))
    return tmp_path / "j.db"


def execute(path: Path, *statements: str) -> list[Any]:
    db = sqlite3.connect(path, isolation_level=None)
    try:
        return [db.execute(one).fetchall() for one in statements][-1]
    finally:
        db.close()


def test_an_error_stays_in_the_history_and_the_views_show_what_came_in_its_place(path: Path):
    with Journal(path) as book:
        assert not book.add(outcome("b", "2", "once more")), "what was read is not replaced by an error"
        shown = [(one["item"], one["error"], one.get("replaces")) for one in book.outcomes()]
        assert shown == [("a", None, None), ("c", None, None), ("d", None, None), ("b", None, 3)]
        assert [one["error"] and one["error"]["message"] for one in book.history()] == [None, "blurred", *[None] * 3]
        assert len(book) == 4
        report = verify(book)
    assert (report.problem, report.outcomes, report.head.number) == ("", 5, 6)


def test_the_hash_can_be_worked_out_by_anybody(path: Path):
    previous = GENESIS
    for number, kind, content, found in execute(path, "SELECT number, kind, content, hash FROM entries"):
        previous = entry_hash(previous, number, kind, content)
        assert previous == found
    done = subprocess.run(["sha256sum"], input=f"{GENESIS} 1 start\n".encode() + first(path), capture_output=True)
    assert done.stdout.decode().split()[0] == execute(path, "SELECT hash FROM entries WHERE number=1")[0][0]


def first(path: Path) -> bytes:
    content: str = execute(path, "SELECT content FROM entries WHERE number=1")[0][0]
    return content.encode()


OPEN = ("DROP TRIGGER entries_stay", "DROP TRIGGER entries_last")
EDITED = "UPDATE entries SET content=replace(content, 'red', 'blue') WHERE number=4"
DAMAGE: dict[str, tuple[tuple[str, ...], int | None, str]] = {
    "an edit": ((*OPEN, EDITED), 4, "it was changed"),
    "another time": ((*OPEN, "UPDATE entries SET recorded='2020' WHERE number=2"), 2, "filed under the time 2020"),
    "a deletion": ((*OPEN, "DELETE FROM entries WHERE number=3"), 3, "entry 3 is missing"),
    "a deletion, renumbered": (
        (*OPEN, "DELETE FROM entries WHERE number=3", "UPDATE entries SET number=number-1 WHERE number>3"),
        3,
        "it was changed",
    ),
    "an insertion": (("INSERT INTO entries VALUES (7, '', 'outcome', '{}', 'x')",), 7, "it was changed"),
    "the first": ((*OPEN, "DELETE FROM entries WHERE number=1"), 1, "entry 1 is missing"),
    "two swapped": (
        (*OPEN, "UPDATE entries SET number=-1 WHERE number=2", "UPDATE entries SET number=2 WHERE number=4")
        + ("UPDATE entries SET number=4 WHERE number=-1",),
        2,
        "it was changed",
    ),
    "an item that was never read": (("INSERT INTO items VALUES ('z', '9', '', 0, 99)",), None, "some have no entry"),
    "an item hidden": (("DELETE FROM items WHERE item='c'",), 4, "the index does not show it"),
    "an error called read": (("UPDATE items SET failed=1 WHERE item='c'",), 4, "whether it was an error"),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_what_was_changed_later_shows(name: str, path: Path):
    statements, entry, said = DAMAGE[name]
    execute(path, *statements)
    with Journal(path, create=False) as book:
        report = verify(book)
    assert report.broken_entry == entry
    assert said in report.problem


def test_an_edit_with_its_own_hash_made_anew_shows_at_the_next(path: Path):
    (row,) = execute(path, *OPEN, EDITED, "SELECT number, kind, content FROM entries WHERE number=4")
    previous = execute(path, "SELECT hash FROM entries WHERE number=3")[0][0]
    execute(path, f"UPDATE entries SET hash='{entry_hash(previous, *row)}' WHERE number=4")
    with Journal(path, create=False) as book:
        report = verify(book)
    assert (report.broken_entry, "or entry 4 was written anew" in report.problem) == (5, True)


def test_rows_cut_off_show_by_a_noted_head_alone(path: Path):
    with Journal(path, create=False) as book:
        head = book.head()
        assert verify(book, head.hash[:16]).found_head == head.number == 6
        with pytest.raises(UsageError, match="wanted 16 to 64"):
            verify(book, "abc")
    execute(path, *OPEN, "DELETE FROM entries WHERE number=5", "DELETE FROM entries WHERE number=6")
    execute(path, "DELETE FROM items WHERE entry>=5", "UPDATE items SET failed=1 WHERE item='b'")
    execute(path, "INSERT INTO items VALUES ('b', '2', '', 1, 3)")
    with Journal(path, create=False) as book:
        assert verify(book).problem == ""
        assert "cut off or written anew" in verify(book, head.hash).problem


def test_the_database_itself_refuses_edits(path: Path):
    for statement in (EDITED, "DELETE FROM entries WHERE number=2"):
        with pytest.raises(sqlite3.IntegrityError, match="entries are not"):
            execute(path, statement)


# ---------------------------------------------------------------- version 1

VERSION_1 = (
    "CREATE TABLE outcomes (id INTEGER PRIMARY KEY, item TEXT NOT NULL, item_digest TEXT NOT NULL, fingerprint TEXT "
    "NOT NULL, recorded TEXT NOT NULL, verdict TEXT, error TEXT, outcome TEXT NOT NULL CHECK (json_valid(outcome)), "
    "UNIQUE (item, item_digest))",
    "CREATE INDEX outcomes_by_time ON outcomes (recorded)",
)


@pytest.fixture
def old(tmp_path: Path) -> Path:
    db = sqlite3.connect(tmp_path / "old.db")
    for statement in VERSION_1:
        db.execute(statement)
    for item, error in (("é", None), ("b", "blurred"), ("c", None)):
        plain = {"schema": 1, **outcome(item, f"of {item}", error).to_json()}
        text = json.dumps(plain, ensure_ascii=False)
        values = (item, f"of {item}", f"mark {item}", WHEN, None, error, text)
        db.execute("INSERT INTO outcomes VALUES (NULL, ?, ?, ?, ?, ?, ?, ?)", values)
    db.execute("PRAGMA user_version=1")
    db.commit()
    db.close()
    return tmp_path / "old.db"


def test_a_journal_of_the_first_version_is_read_as_it_is_and_chained_when_written(old: Path):
    before = [row for (row,) in execute(old, "SELECT outcome FROM outcomes ORDER BY id")]
    with Journal(old, create=False) as book:
        assert [one["item"] for one in book.outcomes()] == ["é", "b", "c"]
        assert len(book) == 3
        with pytest.raises(JournalError, match="no hashes"):
            verify(book)
    assert execute(old, "PRAGMA user_version") == [(1,)], "reading changes nothing"
    with Journal(old) as book:
        assert book.knows("é", fingerprint="mark é")
        assert book.knows("b", digest="of b")
        assert not book.knows("b", digest="of b", failed=False)
        assert book.add(outcome("b", "of b"))
        report = verify(book)
        assert (report.problem, report.taken_over, report.outcomes) == ("", 3, 4)
    assert [row for (row,) in execute(old, "SELECT content FROM entries WHERE number BETWEEN 2 AND 4")] == before


def test_a_migration_that_finds_no_room_leaves_the_old_file(old: Path, monkeypatch: pytest.MonkeyPatch):
    limited(monkeypatch, "PRAGMA max_page_count=6")
    with pytest.raises(JournalError, match="no room is left"):
        Journal(old)
    assert execute(old, "PRAGMA user_version", "SELECT count(*) FROM outcomes") == [(3,)]


def test_another_programs_database_is_left_alone(tmp_path: Path):
    for number, version in enumerate((0, 1, 2)):
        other = tmp_path / f"{number}.db"
        execute(other, "CREATE TABLE patients (name)", f"PRAGMA user_version={version}")
        with pytest.raises(JournalError, match="tables patients, wanted a journal"):
            Journal(other)
        assert execute(other, "SELECT count(*) FROM sqlite_master") == [(1,)]


# ---------------------------------------------------------------- a full disk, a damaged file


def limited(monkeypatch: pytest.MonkeyPatch, *statements: str) -> None:
    """Connections made from now on begin with these statements."""
    connect = sqlite3.connect

    def connected(*arguments: Any, **options: Any) -> sqlite3.Connection:
        db = connect(*arguments, **options)
        for one in statements:
            db.execute(one)
        return db

    monkeypatch.setattr(sqlite3, "connect", connected)


def test_a_full_disk_is_one_clear_error_and_takes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch):
    pages = execute(path, "PRAGMA page_count")[0][0]
    with monkeypatch.context() as patch:
        limited(patch, f"PRAGMA max_page_count={pages + 1}")
        with Journal(path) as book:
            large = (replace(outcome(f"more {number}"), extra={"filling": "x" * 3000}) for number in range(1000))
            with pytest.raises(JournalError, match="no room is left for it; this was not recorded") as caught:
                all(map(book.add, large))
            added = len(book) - 4
            assert "df -h" in str(caught.value.hint)
            assert not book.knows(f"more {added}")
            assert len(book) == 4 + added
    with Journal(path) as book:
        assert len(book) == 4 + added
        assert book.add(outcome(f"more {added}"))
        assert verify(book).problem == ""


LIMITED = """
import resource, sys
from edge_runtime.journal import Journal
from tests.unit.test_journal import outcome
with Journal(sys.argv[1]) as book:
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), -1))
    for number in range(1000):
        book.add(outcome(f"more {number}"))
        print(number, flush=True)
"""


@pytest.mark.parametrize("limit_kb", [40, 64, 100])
def test_a_file_that_may_not_grow_loses_nothing_that_was_acknowledged(path: Path, limit_kb: int):
    done = subprocess.run([sys.executable, "-c", LIMITED, path, str(limit_kb << 10)], capture_output=True, text=True)
    assert "JournalError" in done.stderr
    with Journal(path) as book:
        names = {one["item"] for one in book.outcomes()}
        assert verify(book).problem == ""
    assert {f"more {number}" for number in done.stdout.split()} <= names


def damage(path: Path, page: int) -> None:
    with path.open("r+b") as file:
        file.seek(4096 * page)
        file.write(b"\xff" * 4096)


def test_a_damaged_file_is_said_with_the_way_to_rescue_it(path: Path):
    damage(path, 1)
    uses: list[Callable[[Journal], object]] = [lambda book: list(book.outcomes()), verify]
    for use in (*uses, lambda book: book.add(outcome("more"))):
        with Journal(path) as book, pytest.raises(JournalError, match="damaged") as caught:
            use(book)
        assert f"journal {path} --rescue NEW.db" in str(caught.value.hint)


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """200 outcomes in some hundred pages."""
    with Journal(tmp_path / "large.db") as book:
        book._db.execute("PRAGMA synchronous=off")
        for number in range(200):
            book.add(replace(outcome(f"{number}", f"{number}"), extra={"long": "x" * 900}))
    return tmp_path / "large.db"


@pytest.mark.parametrize("page", [5, 20, 40])
def test_all_but_a_damaged_page_is_rescued_with_its_numbers(page: int, large: Path, tmp_path: Path):
    with Journal(large, create=False) as book:
        whole = {one["entry"]: one["item"] for one in book.outcomes()}
    damage(large, page)
    done = rescue(large, tmp_path / "new.db")
    lost_entries = [number for first, last in done.lost for number in range(first, last + 1)]
    assert len(lost_entries) < 10
    assert bool(done.lost) == (page > 5), "the fifth has the index"
    assert done.changed == []
    with Journal(tmp_path / "new.db") as book:
        assert {one["entry"]: one["item"] for one in book.outcomes()}.items() <= whole.items()
        assert len(book) == done.saved == 200 - len(lost_entries)
        report = verify(book)
        assert (report.problem, report.taken_over) == ("", 200)
        for lost in lost_entries:
            assert book.add(outcome(whole[lost], f"{lost - 2}")), "what was lost can be read again"
    with pytest.raises(JournalError, match="left as it is"):
        rescue(large, tmp_path / "new.db")


def test_what_was_edited_is_rescued_and_named(path: Path, tmp_path: Path):
    execute(path, *OPEN, EDITED)
    head = execute(path, "SELECT hash FROM entries WHERE number=6")[0][0]
    assert rescue(path, tmp_path / "new.db") == (5, [], [4])
    assert rescue(tmp_path / "new.db", tmp_path / "again.db") == (5, [], [4]), "another rescue does not whiten it"
    with Journal(tmp_path / "new.db", create=False) as book:
        report = verify(book)
        assert "1 of its entries were not as they were recorded: 4" in report.problem
        assert (report.changed, report.old_head) == ((4,), (6, head))
        assert report.to_json()["ok"] is False


@pytest.mark.parametrize("number", [2**62, 60])
def test_a_row_number_that_is_damage_makes_no_file_without_end(number: int, path: Path, tmp_path: Path):
    execute(path, *OPEN, f"UPDATE entries SET number={number} WHERE number=6")
    done = rescue(path, tmp_path / "new.db")
    assert done.lost == ([] if number > 60 else [(6, 59)])
    assert (tmp_path / "new.db").stat().st_size < 1 << 17
    assert rescue(tmp_path / "new.db", tmp_path / "again.db").lost == done.lost
    for name in ("new.db", "again.db"):
        with Journal(tmp_path / name) as book:
            assert book.add(outcome("e", "5"))
            report = verify(book)
            assert (report.problem, report.lost) == ("", tuple(done.lost))


@pytest.mark.parametrize("content", ["[]", "3", '{"changed": 3, "from": [], "when": 4}'])
def test_what_is_no_entry_is_rescued_without_an_error_of_its_own(content: str, path: Path, tmp_path: Path):
    execute(path, *OPEN, f"UPDATE entries SET content='{content}', kind='lost' WHERE number IN (1, 6)")
    assert rescue(path, tmp_path / "new.db").lost == [(6, 6)]


@pytest.mark.parametrize("number", [1, 6])
def test_the_time_that_an_entry_is_filed_under_is_that_of_its_contents(number: int, path: Path, tmp_path: Path):
    execute(path, *OPEN, "UPDATE entries SET number=8 WHERE number=6")
    rescue(path, tmp_path / "new.db")
    execute(tmp_path / "new.db", *OPEN, f"UPDATE entries SET recorded='2020' WHERE number={number + number // 6}")
    with Journal(tmp_path / "new.db", create=False) as book:
        assert "filed under the time 2020" in verify(book).problem


def test_nothing_comes_of_nothing(tmp_path: Path):
    (tmp_path / "noise.db").write_bytes(bytes(range(256)) * 64)
    with pytest.raises(JournalError, match="can be read"):
        rescue(tmp_path / "noise.db", tmp_path / "new.db")
    assert not (tmp_path / "new.db").exists()


def test_a_journal_of_the_first_version_is_rescued(old: Path, tmp_path: Path):
    assert rescue(old, tmp_path / "new.db") == (3, [], [])
    with Journal(tmp_path / "new.db") as book:
        assert verify(book).problem == ""


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: path, "there is no folder"),
        (lambda path: path.parent.mkdir() or path.mkdir(), "found a folder, wanted a file"),
    ],
)
def test_a_place_where_no_file_can_be(make: Callable[[Path], object], said: str, tmp_path: Path):
    make(tmp_path / "nowhere" / "j.db")
    with pytest.raises(JournalError, match=said):
        Journal(tmp_path / "nowhere" / "j.db")


def _replaced(path: Path) -> None:
    path.rename(path.with_name("moved.db"))
    path.write_bytes(path.with_name("moved.db").read_bytes())


@pytest.mark.parametrize(
    "spoil",
    [
        lambda path: path.rename(path.with_name("moved.db")),
        lambda path: path.unlink(),
        _replaced,
        lambda path: path.with_name(f"{path.name}-wal").unlink(),
    ],
)
def test_a_journal_moved_away_takes_no_more_rows(spoil: Callable[[Path], object], path: Path):
    with Journal(path) as book:
        assert book.add(outcome("e", "5"))
        spoil(path)
        with pytest.raises(JournalError, match="was moved, replaced or deleted"):
            book.add(outcome("f", "6"))


def test_the_file_alone_has_every_row_also_while_it_is_open(path: Path):
    """People copy it with a file manager, or rename it at the end of the month, and leave the log behind."""
    with Journal(path) as book:
        assert book.add(outcome("e", "5"))
        alone = path.with_name("alone") / "copy.db"
        alone.parent.mkdir()
        alone.write_bytes(path.read_bytes())
        with Journal(alone, create=False) as copy:
            assert [one["item"] for one in copy.outcomes()] == [one["item"] for one in book.outcomes()]
            assert verify(copy).problem == ""


def test_another_program_that_holds_it_is_named_as_the_reason(path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("edge_runtime.journal_file.BUSY_MS", 50)
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    with Journal(path) as book, pytest.raises(JournalError, match="another program has held it"):
        book.add(outcome("late"))
    holder.close()


def test_the_connection_that_writes_is_durable_and_its_folder_is_synced(path: Path, monkeypatch: pytest.MonkeyPatch):
    synced: list[Path] = []
    monkeypatch.setattr("edge_runtime.journal_file.sync_folder", synced.append)
    with Journal(path.with_name("new.db")) as book:
        assert book._one("PRAGMA journal_mode") == ("wal",)
        assert book._one("PRAGMA synchronous") == (2,)
        assert synced == [path.parent]
    with Journal(path.with_name("new.db")):
        assert len(synced) == 1, "once, when it is made"
    db = connect_to_write(Path(":memory:"))  # like a file system without shared memory: it has no such log
    assert db.execute("PRAGMA synchronous").fetchone() == (3,)
    db.close()


# ---------------------------------------------------------------- what the journal alone knows


def test_names_contents_and_clocks_that_come_back(tmp_path: Path):
    with Journal(tmp_path / "j.db") as book:
        # later than the journal's own first entry, which has today's date
        book.add(outcome("old name", "1", when="2126-11-25T10:00:00+00:00"))
        book.add(outcome("new name", "1", when="2126-11-25T09:00:00+00:00"))  # renamed; and the clock lost an hour
        book.add(outcome("old name", "2", when="2126-11-25T09:00:05+00:00"))  # photographed again
        first, second, third = book.outcomes()
    assert not {"replaces", "earlier_entry", "same_contents_as", "clock_back_s"} & set(first)
    assert second["same_contents_as"] == {"entry": 2, "item": "old name"}
    assert second["clock_back_s"] == 3600
    assert third["earlier_entry"] == 2
    assert "clock_back_s" not in third


def test_a_slide_that_could_not_be_opened_and_then_could_is_one_slide(tmp_path: Path):
    with Journal(tmp_path / "j.db") as book:
        book.add(outcome("slide", "", "found no image"))
        assert book.knows("slide", digest="")
        book.add(outcome("slide", "1"))
        assert [one.get("replaces") for one in book.outcomes()] == [2]
        assert verify(book).problem == ""


def test_a_message_that_is_not_utf8_is_recorded(tmp_path: Path):
    with Journal(tmp_path / "j.db") as book:
        assert book.add(outcome(error="in/bad\udcff.png: No such file"))
        (one,) = book.outcomes()
    assert one["error"]["message"].encode()


def test_outcomes_by_name_and_time(path: Path):
    with Journal(path) as book:
        assert [one["item"] for one in book.outcomes(item="[ab]")] == ["a", "b"]
        assert [one["item"] for one in book.outcomes(item="c")] == ["c"]
        assert list(book.outcomes("2100-01-01")) == []


def test_two_processes_make_one_chain(tmp_path: Path):
    code = (
        "import sys\nfrom edge_runtime.journal import Journal\nfrom tests.unit.test_journal import outcome\n"
        "with Journal(sys.argv[1]) as book:\n"
        "    for number in range(40): book.add(outcome(f'{number}', sys.argv[2] if number % 2 else 'same'))\n"
    )
    both = [subprocess.Popen([sys.executable, "-c", code, tmp_path / "j.db", name]) for name in ("x", "y")]
    assert [one.wait(60) for one in both] == [0, 0]
    with Journal(tmp_path / "j.db") as book:
        report = verify(book)
        assert (report.problem, report.outcomes, len(book)) == ("", 60, 60)


def test_outcomes_that_a_wrong_clock_hides_from_since_are_counted(tmp_path: Path):
    with Journal(tmp_path / "j.db") as book:
        book.add(outcome("before the clock was set", "1", when="1970-01-01T00:03:00+00:00"))
        book.add(outcome("right", "2", when="2126-11-25T10:00:00+00:00"))
        book.add(outcome("set back", "3", when="2126-11-24T10:00:00+00:00"))
        assert [one["item"] for one in book.outcomes("2126-11-25")] == ["right"]
        assert book.misdated("2126-11-25") == 2


def test_a_journal_that_another_makes_at_this_moment_is_waited_for():
    from edge_runtime.journal_file import _to_wal

    class Busy:
        tries = 0

        def execute(self, words: str) -> Any:
            self.tries += 1
            if self.tries < 3:
                raise sqlite3.OperationalError("database is locked")
            return iter_of("wal")

    def iter_of(mode: str) -> Any:
        return sqlite3.connect(":memory:").execute(f"SELECT '{mode}'")

    assert _to_wal(Busy()) == "wal"  # type: ignore[arg-type]
