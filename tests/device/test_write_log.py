"""A made-up log of writes: what a cut leaves of it, and what is seen of it. The whole test is scripts/arm/powercut."""

from __future__ import annotations

import random
import shutil
import struct
from pathlib import Path

import pytest

from edge_runtime import Item, Journal, open_session
from scripts.arm.after_cut import Remembering, judge
from scripts.arm.write_log import BLOCK_BYTES, FLUSH, MAGIC, Disk, WriteLog, mark, read_log

from ..conftest import picture

END_BYTES = 4 * BLOCK_BYTES


def block(letter: str) -> bytes:
    return letter.encode() * BLOCK_BYTES


def make_log(path: Path, writes: list[tuple[int, bytes]]) -> WriteLog:
    """(block, content); without content a flush."""
    made = struct.pack("<QQQI", MAGIC, 1, len(writes), BLOCK_BYTES).ljust(BLOCK_BYTES, b"\0")
    for at, content in writes:
        flags = 0 if content else FLUSH
        made += struct.pack("<QQQQ", at, len(content) // BLOCK_BYTES, flags, 0).ljust(BLOCK_BYTES, b"\0") + content
    path.write_bytes(made)
    return read_log(path, END_BYTES)


@pytest.fixture
def log(tmp_path: Path) -> WriteLog:
    writes = [(0, block("a")), (0, b""), (1, block("b")), (4, mark({"item": "x"})), (0, block("c")), (0, b"")]
    return make_log(tmp_path / "log", writes)


def after(log: WriteLog, folder: Path, place: int, chance: random.Random | None) -> bytes:
    image, cut = folder / "start", folder / "cut"
    image.write_bytes(bytes(END_BYTES))
    disk = Disk(log, image)
    first, _ = disk.unflushed(place)
    disk.forward(first)
    cut.write_bytes(image.read_bytes())
    disk.write_some(cut, first, place, chance)
    return cut.read_bytes()


def test_a_mark_has_its_place_between_the_writes(log: WriteLog) -> None:
    assert list(log.marks()) == [(3, {"item": "x"})]


@pytest.mark.parametrize(("place", "wanted"), [(0, "\0\0"), (1, "a\0"), (3, "ab"), (5, "cb"), (6, "cb")])
def test_every_write_before_the_cut_is_there(log: WriteLog, tmp_path: Path, place: int, wanted: str) -> None:
    found = after(log, tmp_path, place, None)
    assert found[::BLOCK_BYTES][:2].decode() == wanted
    assert len(found) == END_BYTES  # a mark is no part of the disk


def test_only_what_was_not_flushed_is_lost_or_torn(log: WriteLog, tmp_path: Path) -> None:
    seen = set()
    for seed in range(60):
        found = after(log, tmp_path, 5, random.Random(seed))
        first, second = (found[at : at + BLOCK_BYTES] for at in (0, BLOCK_BYTES))
        assert first.strip(b"c").strip(b"a") == b""  # flushed before: never gone, torn only by what came after
        assert second.strip(b"b").strip(b"\0") == b""
        seen.add((len(set(first)), len(set(second))))
    assert (2, 1) in seen and (1, 2) in seen  # torn ones
    assert after(log, tmp_path, 6, random.Random(1))[: 2 * BLOCK_BYTES] == block("c") + block("b")


def test_what_is_no_log_is_refused(tmp_path: Path, log: WriteLog) -> None:
    whole = log.path.read_bytes()
    for content in (b"", b"x" * 9000, whole[: 2 * BLOCK_BYTES]):
        (tmp_path / "bad").write_bytes(content)
        with pytest.raises(ValueError, match="bad"):
            read_log(tmp_path / "bad", END_BYTES)


def test_what_a_cut_may_not_do_is_seen(tmp_path: Path, means: Path) -> None:
    again, tree, names = tmp_path / "again", tmp_path / "tree", ("a.png", "b.png")
    for name in names:
        picture(again / name, (200, 0, 0))
    with open_session(means, "this-device", engine="null", variant="nothing") as real:
        session = Remembering(real)
        found = {name: session.run(Item(name, (again / name,))) for name in names}
        plain = {name: one.to_json() for name, one in found.items()}

        def ask(*rows: str, **changes: object) -> set[str]:
            """With these rows in the journal, where the first one was acknowledged."""
            shutil.rmtree(tree, ignore_errors=True)
            (tree / "incoming").mkdir(parents=True)
            with Journal(tree / "clinic.db") as journal:
                for name in rows:
                    journal.add(found[name])
            return judge(tree, [{**plain["a.png"], **changes}], plain, session, again)

        assert ask("a.png") == ask("b.png", "a.png") == set()
        assert ask("b.png") == {"lost"}
        picture(tree / "incoming" / "a.png", (1, 2, 3))  # what the cut left of it is not what was counted
        with Journal(tree / "clinic.db") as journal:
            journal.add(found["a.png"])
        assert judge(tree, [plain["a.png"]], plain, session, again) == {"recounted"}
        assert ask("a.png", item_digest="other") == {"changed"}
        (tree / "clinic.db").write_bytes(b"x" * 4096)
        assert judge(tree, [], plain, session, again) == {"unreadable"}
        picture(again / "c.png", (0, 0, 0))
        assert ask("a.png") == {"incomplete"}
