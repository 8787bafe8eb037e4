"""What a loop reads, and when: nothing early, nothing twice, nothing skipped, however the files come."""

from __future__ import annotations

import errno
import io
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from edge_runtime.errors import InputError, JournalError
from edge_runtime.items import Item, printable
from edge_runtime.journal import Journal
from edge_runtime.journal_check import verify
from edge_runtime.loop import run_loop, watch
from edge_runtime.results import Outcome
from edge_runtime.unfinished import _is_unfinished, is_temporary, is_unfinished
from tests.conftest import picture
from tests.unit.test_journal import limited, outcome


def encoded(format_: str, **options: object) -> bytes:
    out = io.BytesIO()
    noise = random.Random(1).randbytes(40 * 40 * 3)
    Image.frombytes("RGB", (40, 40), noise).save(out, format_, **options)
    return out.getvalue()


WHOLE = {
    "png": encoded("PNG"),
    "jpg": encoded("JPEG"),
    "progressive.jpg": encoded("JPEG", progressive=True),
    "webp": encoded("WEBP", lossless=True),
    "bmp": encoded("BMP"),
    "tif": encoded("TIFF"),
}
SMALL = b"\xff\xd8\xff\xdb\0\4xy\xff\xd9"  # a picture in a picture, as cameras put it into the header
THUMBED = WHOLE["jpg"][:2] + b"\xff\xe1" + (len(SMALL) + 2).to_bytes(2, "big") + SMALL + WHOLE["jpg"][2:]


@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_image_is_finished_and_one_cut_anywhere_is_not(name: str, tmp_path: Path):
    whole, path = WHOLE[name], tmp_path / name
    path.write_bytes(whole)
    assert not is_unfinished(path)
    for length in (0, 5, len(whole) // 3, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        # a TIFF is asked only where its table of contents is, and this one has it in front
        assert is_unfinished(path) or (name == "tif" and length > 5), length


@pytest.mark.parametrize("name", ["png", "jpg", "progressive.jpg"])
def test_room_set_aside_and_not_filled_is_not_finished(name: str, tmp_path: Path):
    whole, path = WHOLE[name], tmp_path / name
    for length in (0, 12, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length] + bytes(len(whole) - length))
        assert is_unfinished(path), length


def test_what_phones_put_before_and_behind_an_image(tmp_path: Path):
    path = tmp_path / "x.jpg"
    path.write_bytes(THUMBED[:-100])
    assert is_unfinished(path), "the end of the small picture is not that of the large one"
    path.write_bytes(THUMBED + b"a film" * 999)
    assert not is_unfinished(path)
    path.write_bytes(WHOLE["png"] + b"more")
    assert not is_unfinished(path)


BEGINNINGS = [b"", b"\xff\xd8", b"\xff\xd8\xff", b"BM", b"RIFF\0\0\0\0WEBP", b"\x89PNG\r\n\x1a\n", b"II*\0", b"MM\0*"]


@given(st.sampled_from(BEGINNINGS), st.binary(max_size=200))
def test_damage_is_no_error_here(beginning: bytes, noise: bytes):
    content = beginning + noise
    assert _is_unfinished(io.BytesIO(content), len(content)) in (True, False)


def test_what_cannot_be_read_is_left_to_the_reader(tmp_path: Path):
    assert not is_unfinished(tmp_path)
    assert not is_unfinished(tmp_path / "none")


@pytest.mark.parametrize(
    "name", ["a.jpg.part", "a.JPG.crdownload", "a.tmp", "a.jpg~", "~a.jpg", ".a.jpg.Xy12Zz", ".pending-17-a.jpg"]
)
def test_names_of_what_is_being_copied(name: str):
    assert is_temporary(name)
    assert not is_temporary("a.jpg")
    assert not is_temporary("ward.2")


# ---------------------------------------------------------------- a watched folder, on a clock that is made up


class Clock:
    """The time that `watch` sees: asleep, it does what is due."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.due: list[tuple[float, Callable[[], object]]] = []

    def at(self, seconds: float, action: Callable[[], object]) -> None:
        self.due.append((1000.0 + seconds, action))

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        until = self.now + max(seconds, 0.01)
        for when, action in sorted((one for one in self.due if one[0] <= until), key=lambda one: one[0]):
            self.now = max(self.now, when)
            action()
        self.due = [one for one in self.due if one[0] > until]
        self.now = until
        assert self.now < 9000, "nothing is given"

    @property
    def seconds(self) -> float:
        return self.now - 1000


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr("edge_runtime.loop.time", made)
    return made


def test_photographs_taken_one_by_one_are_not_a_slide_each(clock: Clock, tmp_path: Path):
    """One every 8 seconds, longer than the settle time: the first is given early, and then the whole."""
    for number in range(30):
        clock.at(8 * number, lambda number=number: picture(tmp_path / "slide" / f"{number}.png", (number, 0, 0)))
    given = []
    for item in watch(tmp_path):
        given.append(len(item.images()))
        if given[-1] == 30:
            break
    assert len(given) <= 3


def test_a_file_whose_end_is_missing_is_waited_for_longer_than_it_settles(clock: Clock, tmp_path: Path):
    path, whole, told = tmp_path / "a.jpg", WHOLE["jpg"], []
    path.write_bytes(whole[:500])
    clock.at(40, lambda: path.write_bytes(whole))
    assert next(watch(tmp_path, notice=told.append)).name == "a.jpg"
    assert 43 <= clock.seconds < 45 + 3 * 40
    assert told == ["a.jpg: a.jpg is not finished; waiting for it, 60 s at most"]


@pytest.mark.parametrize("left", ["cut.jpg", "b.jpg.part"])
def test_what_never_ends_is_given_at_last(left: str, clock: Clock, tmp_path: Path):
    picture(tmp_path / "slide" / "a.png", (1, 2, 3))
    (tmp_path / "slide" / left).write_bytes(WHOLE["jpg"][:500])
    assert next(watch(tmp_path, once=True)).name == "slide"
    assert 60 <= clock.seconds < 65


def test_a_file_that_has_not_got_its_name_holds_its_slide(clock: Clock, tmp_path: Path):
    picture(tmp_path / "slide" / "a.png", (1, 2, 3))
    partial = tmp_path / "slide" / "b.png.part"
    partial.write_bytes(b"")
    for second in range(1, 100):
        clock.at(second, lambda second=second: partial.write_bytes(bytes(second)))  # slow, and it grows
    clock.at(100, lambda: partial.replace(picture(tmp_path / "slide" / "b.png", (4, 5, 6))))
    clock.at(101, lambda: picture(tmp_path / "slide" / "b.png", (4, 5, 6)))
    assert len(next(watch(tmp_path)).images()) == 2
    assert clock.seconds >= 103


def test_a_new_folder_is_not_read_before_there_is_something_in_it(clock: Clock, tmp_path: Path):
    (tmp_path / "slide").mkdir()
    clock.at(20, lambda: picture(tmp_path / "slide" / "a.png", (1, 2, 3)))
    assert len(next(watch(tmp_path)).images()) == 1
    assert 23 <= clock.seconds < 26


@pytest.mark.parametrize("when", [1, 2**31 - 10])
def test_the_dates_of_files_do_not_matter(when: int, clock: Clock, tmp_path: Path):
    """A share whose clock is behind, a device whose clock was never set: what is old may still be growing."""
    path = picture(tmp_path / "a.png", (1, 2, 3))
    whole = path.read_bytes()
    for second in range(10):

        def write(second: int = second) -> None:
            path.write_bytes(whole + bytes(second))
            os.utime(path, (when, when))

        clock.at(second, write)
    assert next(watch(tmp_path)).images()[0].stat().st_size == len(whole) + 9


def test_a_slide_replaced_by_one_of_its_size_and_date_is_given_again(clock: Clock, tmp_path: Path):
    def replace(colour: tuple[int, int, int]) -> None:
        new = picture(tmp_path / ".new.bmp", colour)
        os.utime(new, (1_600_000_000, 1_600_000_000))
        new.replace(tmp_path / "a.bmp")

    replace((1, 2, 3))
    items = watch(tmp_path)
    before = next(items).digest()
    clock.at(60, lambda: replace((4, 5, 6)))
    assert next(items).digest() != before


def test_an_item_replaced_by_one_of_its_size_and_date_while_it_is_read_is_not_recorded(tmp_path: Path):
    path = picture(tmp_path / "in" / "a.bmp", (1, 2, 3))
    os.utime(path, (1_600_000_000, 1_600_000_000))

    class Slow(Reader):
        def run(self, item: Item, **_: object) -> Outcome:
            read = super().run(item)
            picture(path, (4, 5, 6))
            os.utime(path, (1_600_000_000, 1_600_000_000))
            return read

    with Journal(tmp_path / "j.db") as book:
        assert not list(run_loop(Slow(), [Item("a.bmp", (path,))], book))  # type: ignore[arg-type]


def test_names_that_look_alike_when_printed_are_two_items(clock: Clock, tmp_path: Path):
    for number, name in enumerate((b"a\xff.png", b"a\\xff.png", b"a\xa0.png", b"a\xc2\xa0.png", b"a\\b.png")):
        picture(tmp_path / os.fsdecode(name), (number, 0, 0))
    names = [item.name for item in watch(tmp_path, once=True)]
    assert sorted(names) == ["a\\\\xff.png", "a\\b.png", "a\\u00a0.png", "a\\xa0.png", "a\\xff.png"]


NAME = st.lists(
    st.sampled_from([b"\\", b"x", b"u", b"n", b"0", b"f", b"\n", b"\xff", b"\xa0", b"\xc2\xa0", b"\xc2\x9f"])
)


@given(NAME, NAME)
def test_each_name_is_printed_as_one_of_its_own(first: list[bytes], second: list[bytes]):
    one, other = b"".join(first), b"".join(second)
    assert (printable(os.fsdecode(one)) == printable(os.fsdecode(other))) == (one == other)


def test_names_that_are_not_items(clock: Clock, tmp_path: Path):
    for name in ("slide.part", "slide.tmp", ".hidden", "~slide"):
        picture(tmp_path / name / "a.png", (1, 2, 3))
    picture(tmp_path / "slide" / "a.png", (1, 2, 3))
    assert [item.name for item in watch(tmp_path, once=True)] == ["slide"]


# ---------------------------------------------------------------- the loop


class Reader:
    """A session that reads nothing: what the loop does around it is what counts."""

    def run(self, item: Item, **_: object) -> Outcome:
        return outcome(item.name, item.digest())


def read(folder: Path, book: Journal) -> list[str]:
    return [one.item for one in run_loop(Reader(), watch(folder, once=True, settle_s=0), book)]  # type: ignore[arg-type]


def test_another_picture_of_the_same_name_size_and_date_is_read(tmp_path: Path):
    """As from a camera that has no clock and writes files of one size."""
    with Journal(tmp_path / "j.db") as book:
        for colour in ((255, 0, 0), (0, 255, 0)):
            path = tmp_path / "in" / "IMG_1.bmp"
            picture(path, colour)
            os.utime(path, (1_600_000_000, 1_600_000_000))
            assert read(tmp_path / "in", book) == ["IMG_1.bmp"]
            assert read(tmp_path / "in", book) == []


@pytest.mark.parametrize("count", [3, 30])
def test_what_is_counted_is_on_the_disk_before_its_verdict(count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    slide, synced = tmp_path / "in" / "slide", set()
    for number in range(count):
        picture(slide / f"{number}.png", (number, 0, 0))
    paths = {slide, slide.parent, *slide.iterdir()}

    class Libc:  # the call for all of the file system is there for many alone
        def syncfs(self, fd: int) -> int:
            assert count > 3
            if os.fstat(fd).st_dev == os.stat(slide).st_dev:
                synced.update(os.stat(path).st_ino for path in paths)
            return 0

    def add(self: Journal, *words: Any) -> bool:
        assert {os.stat(path).st_ino for path in paths} <= synced
        return kept(self, *words)

    kept = Journal.add
    with Journal(tmp_path / "j.db") as book, monkeypatch.context() as patch:
        patch.setattr(Journal, "add", add)
        patch.setattr("ctypes.CDLL", lambda *_, **__: Libc())
        patch.setattr(os, "fsync", lambda fd: synced.add(os.fstat(fd).st_ino))
        assert read(tmp_path / "in", book) == ["slide"]


@pytest.mark.parametrize(("number", "count"), [(errno.EINVAL, 3), (errno.EIO, 3), (errno.EIO, 30)])
def test_what_the_disk_does_not_take_is_not_recorded(
    number: int, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    def fail(fd: int) -> None:
        raise OSError(number, os.strerror(number))

    for place in range(count):
        picture(tmp_path / "in" / "slide" / f"{place}.png", (place, 0, 0))
    with Journal(tmp_path / "j.db") as book, monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fail)
        patch.setattr("ctypes.CDLL", lambda *_, **__: type("Libc", (), {"syncfs": staticmethod(lambda _: -1)}))
        patch.setattr("ctypes.get_errno", lambda: number)
        if number == errno.EINVAL:  # a file system that cannot
            assert read(tmp_path / "in", book) == ["slide"]
        else:
            with pytest.raises(InputError, match="the disk did not take it"):
                read(tmp_path / "in", book)
            assert len(book) == 0
        patch.undo()
        assert read(tmp_path / "in", book) == ([] if number == errno.EINVAL else ["slide"])


def test_a_renamed_folder_is_recorded_under_its_new_name_and_marked(tmp_path: Path):
    picture(tmp_path / "in" / "New folder" / "a.png", (1, 2, 3))
    with Journal(tmp_path / "j.db") as book:
        assert read(tmp_path / "in", book) == ["New folder"]
        (tmp_path / "in" / "New folder").rename(tmp_path / "in" / "slide 7")
        assert read(tmp_path / "in", book) == ["slide 7"]
        assert [one.get("same_contents_as", {}).get("item") for one in book.outcomes()] == [None, "New folder"]


def test_a_full_disk_ends_the_loop_and_the_item_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    for number in range(100):
        picture(tmp_path / "in" / f"{number:03}.png", (number, 0, 0), (2, 2))
    with monkeypatch.context() as patch:
        limited(patch, "PRAGMA max_page_count=20", "PRAGMA synchronous=off")
        with Journal(tmp_path / "j.db") as book, pytest.raises(JournalError, match="no room is left"):
            read(tmp_path / "in", book)
    with Journal(tmp_path / "j.db") as book:
        before = [one["item"] for one in book.outcomes()]
        assert 0 < len(before) < 100
        assert before + read(tmp_path / "in", book) == [f"{number:03}.png" for number in range(100)]
        assert verify(book).problem == ""


LOOP = """
import sys
from edge_runtime.journal import Journal
from edge_runtime.loop import run_loop, watch
from edge_runtime.results import Origin, Outcome, Prediction
class Reader:
    def run(self, item, **_):
        origin = Origin("means 1.0", "ab", "nothing", "null", "1", "test")
        return Outcome(item.name, item.digest(), "2026-11-25T10:00:00+00:00", origin, Prediction("image", "", {}))
with Journal(sys.argv[1]) as book:
    print("open", flush=True)
    for one in run_loop(Reader(), watch(sys.argv[2], once=True, settle_s=0), book):
        print(one.item, flush=True)
"""


def test_killed_at_any_moment_each_item_is_there_once(tmp_path: Path):
    """SIGKILL after a random time, as often as this is set to, and then until a run gets through."""
    count, kills, moments = 40, int(os.environ.get("EDGE_RUNTIME_KILLS", 8)), random.Random()
    for number in range(count):
        picture(tmp_path / "in" / f"{number:03}.png", (number, 0, 0), (2, 2))
    command = [sys.executable, "-c", LOOP, str(tmp_path / "j.db"), str(tmp_path / "in")]
    acknowledged: list[str] = []
    for kill in range(kills + 1):
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout
            process.stdout.readline()
            if kill < kills:
                time.sleep(moments.uniform(0, 0.02))
                process.send_signal(signal.SIGKILL)
            acknowledged += process.stdout.read().splitlines()
        with Journal(tmp_path / "j.db", create=False) as book:
            assert verify(book).problem == ""
            recorded = [one["item"] for one in book.history()]
        assert set(acknowledged) <= set(recorded)
    assert recorded == [f"{number:03}.png" for number in range(count)]


def test_a_folder_that_cannot_be_read_is_one_error(tmp_path: Path):
    with pytest.raises(InputError, match="wanted one to watch"):
        watch(tmp_path / "none")
