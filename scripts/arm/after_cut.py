"""What a power cut may not do to the loop's disk, asked of the files that are left of it."""

from __future__ import annotations

import shutil
import sqlite3
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

Outcomes = dict[str, dict[str, Any]]
SAME = ("verdict", "cells", "infected", "item_digest", "variant", "engine", "bundle_digest")
# damaged: the file system; lost, changed: what was acknowledged; the rest: what the loop ends with, started again
FAULTS = (
    *("damaged", "unreadable", "lost", "changed"),
    *("recounted", "doubled", "incomplete", "other_verdicts", "read_again"),
)


class Remembering:
    """The reader here, which reads the same contents once: after each of hundreds of cuts they are the same slides."""

    def __init__(self, session: Any) -> None:
        self.session = session
        self.known: dict[str, Any] = {}

    def run(self, item: Any, **words: Any) -> Any:
        key = item.digest()
        if key not in self.known:
            self.known[key] = self.session.run(item, **words)
        return replace(self.known[key], item=item.name)


def judge(
    tree: Path, acknowledged: list[dict[str, Any]], reference: Outcomes, session: Any = None, again: Path | None = None
) -> set[str]:
    """What is wrong (of FAULTS) with the files of a disk after a cut: incoming/ and clinic.db in `tree`.

    `reference` has what every slide's outcome should be. Where a `session` is given, the loop is started again, first
    with what the cut left (on a copy of the journal), then with the slides of the folder `again` copied once more.
    """
    from edge_runtime import EdgeError, Journal, run_loop, watch

    faults: set[str] = set()
    path = tree / "clinic.db"
    try:
        with Journal(path) as journal:
            rows = list(journal.outcomes())
        db = sqlite3.connect(path)
        if db.execute("PRAGMA integrity_check").fetchall() != [("ok",)]:
            faults.add("unreadable")
        db.close()
    except (EdgeError, sqlite3.Error):
        return {"unreadable", *(["lost"] if acknowledged else [])}
    found = {one["item"]: one for one in rows}
    for one in acknowledged:
        if one["item"] not in found:
            faults.add("lost")
        elif any(found[one["item"]].get(key) != value for key, value in one.items()):
            faults.add("changed")
    if session is None:
        return faults
    if _recounts(tree, set(found)):
        faults.add("recounted")
    if again:
        shutil.copytree(again, tree / "incoming", dirs_exist_ok=True)
    with Journal(path) as journal:
        for _ in run_loop(session, watch(tree / "incoming", once=True, settle_s=0), journal):
            pass
        if any(run_loop(session, watch(tree / "incoming", once=True, settle_s=0), journal)):
            faults.add("read_again")
        rows = list(journal.outcomes())
    names = Counter(one["item"] for one in rows)
    faults |= {"doubled"} if max(names.values()) > 1 else set()
    faults |= {"incomplete"} if names.keys() != reference.keys() else set()
    if any(one.get(key) != reference[one["item"]].get(key) for one in rows for key in SAME if one["item"] in reference):
        faults.add("other_verdicts")
    return faults


class _ReadAgain(Exception):
    pass


class _Nothing:
    """In the reader's place where nothing is to be read."""

    def run(self, item: Any, **_: Any) -> Any:
        raise _ReadAgain(item.name)


def _recounts(tree: Path, recorded: set[str]) -> bool:
    """Whether the loop, started before anybody copies anything again, reads a slide that is in the journal."""
    from edge_runtime import Journal, run_loop, watch

    for suffix in ("", "-wal"):
        if (file := tree / f"clinic.db{suffix}").exists():
            shutil.copyfile(file, tree / f"copy.db{suffix}")
    items = [item for item in watch(tree / "incoming", once=True, settle_s=0) if item.name in recorded]
    with Journal(tree / "copy.db") as journal:
        try:
            return any(run_loop(_Nothing(), items, journal))  # type: ignore[arg-type]
        except _ReadAgain:
            return True
