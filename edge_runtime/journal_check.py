"""Whether a journal's chain is whole: every hash worked out anew, and the index compared with the entries."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from edge_runtime.errors import JournalError, UsageError
from edge_runtime.journal import Head
from edge_runtime.journal_file import GENESIS, entry_hash

if TYPE_CHECKING:
    from edge_runtime.journal import Journal

# Half of a hash's first half is more than anybody can forge; a person may copy it by hand.
LEAST_DIGITS = 16


class Report(NamedTuple):
    """`found_head` is the number of the entry that a noted head is; None where none was asked for.

    `broken_entry` is the first entry that does not fit, and `problem` says how; None and "" where all is whole.
    A rescued journal: `lost` has the first and the last of each gap, `changed` the entries that did not fit their hash
    before, which is a `problem`, and `old_head` the number and the hash of the last entry then.
    """

    head: Head
    outcomes: int
    taken_over: int
    found_head: int | None
    broken_entry: int | None = None
    problem: str = ""
    changed: tuple[int, ...] = ()
    lost: tuple[tuple[int, int], ...] = ()
    old_head: Head | None = None

    def to_json(self) -> dict[str, Any]:
        plain = self._asdict() | {"ok": not self.problem, "head": self.head.hash, "entries": self.head.number}
        plain["old_head"] = self.old_head._asdict() if self.old_head else None
        return dict(sorted(plain.items()))


def verify(journal: Journal, head: str | None = None) -> Report:
    """Read all of it, one entry at a time. `head`: a hash noted before, or its first digits (16 or more).

    Raises UsageError for a head that is none, JournalError for a journal without hashes or a file that is damaged.
    """
    if head is not None:
        head = head.strip().lower()
        if not LEAST_DIGITS <= len(head) <= 64 or set(head) - set("0123456789abcdef"):
            raise UsageError(
                f"head: found {head!r}, wanted {LEAST_DIGITS} to 64 hexadecimal digits, as --verify prints"
            )
    if journal.version < 2:
        raise JournalError(
            f"{journal.path}: found a journal of version {journal.version}, whose rows have no hashes",
            hint=f"edge-runtime loop BUNDLE FOLDER --journal {journal.path}, which chains them from then on",
        )
    (said,) = next(journal._rows("PRAGMA quick_check(1)"))
    if said != "ok":
        rescue = f"stop the loop, then: edge-runtime journal {journal.path} --rescue NEW.db"
        raise JournalError(f"{journal.path}: the file itself is damaged: {said}", hint=rescue)
    with _Snapshot(journal):
        return _Check(journal, head).run()


class _Snapshot:
    """One moment of a journal that a loop may be writing to."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def __enter__(self) -> None:
        list(self._journal._rows("BEGIN"))

    def __exit__(self, *_: object) -> None:
        list(self._journal._rows("ROLLBACK"))


class _Check:
    def __init__(self, journal: Journal, head: str | None) -> None:
        self._journal, self._head = journal, head
        self._last = Head(0, GENESIS)
        self._outcomes = self._shown = self._taken_over = 0
        self._found_head: int | None = None
        self._changed: tuple[int, ...] = ()
        self._lost: list[tuple[int, int]] = []
        self._old_head: Head | None = None

    def run(self) -> Report:
        rows = self._journal._rows("SELECT number, recorded, kind, content, hash FROM entries ORDER BY number")
        for number, recorded, kind, content, found in rows:
            problem = self._chained(number, kind, content, found, recorded) or self._indexed(
                number, recorded, kind, content
            )
            if problem:
                return self._report(self._last.number + 1, problem)
            self._last = Head(number, found)
            if self._head is not None and found.startswith(self._head):
                self._found_head = number
        (items,) = next(self._journal._rows("SELECT count(*) FROM items"))
        if items != self._shown:
            return self._report(None, f"the index has {items} items, the entries {self._shown}: some have no entry")
        if not self._last.number:
            return self._report(1, "there is no entry, not even the first")
        if self._changed:
            more = " ..." if len(self._changed) > 10 else ""
            return self._report(
                None,
                f"every hash fits, but when it was rescued, {len(self._changed)} of its entries were not as they were "
                f"recorded: {', '.join(map(str, self._changed[:10]))}{more}",
            )
        if self._head is not None and self._found_head is None:
            if self._old_head and self._old_head.hash.startswith(self._head):
                return self._report(None, f"the hash {self._head} is the head that it had before it was rescued")
            return self._report(
                None, f"no entry has the hash {self._head}: entries were cut off or written anew since it was noted"
            )
        return self._report(None, "")

    def _report(self, broken: int | None, problem: str) -> Report:
        about = (self._changed, tuple(self._lost), self._old_head)
        return Report(self._last, self._outcomes, self._taken_over, self._found_head, broken, problem, *about)

    def _chained(self, number: int, kind: str, content: str, found: str, recorded: str) -> str:
        last = self._last
        if number != last.number + 1 and not (kind == "lost" and _about(content).get("from") == last.number + 1):
            return f"entry {last.number + 1} is missing: the next one there is entry {number}"
        if not isinstance(content, str) or entry_hash(last.hash, number, kind, content) != found:
            before = f", or entry {last.number} was written anew" if last.number else ""
            return f"its hash is not that of its contents after entry {last.number}: it was changed{before}"
        if (kind == "start") != (number == 1) or kind not in ("start", "lost", "outcome"):
            return f"found an entry of kind {kind!r} there"
        if recorded != _about(content).get("when"):
            return f"it is filed under the time {recorded}, its contents say {_about(content).get('when')}"
        if kind == "lost":
            self._lost.append((last.number + 1, number))
        return ""

    def _indexed(self, number: int, recorded: str, kind: str, content: str) -> str:
        try:
            plain = json.loads(content)
            if kind == "start":
                self._taken_over = int(plain["taken_over"])
                self._changed = tuple(int(one) for one in plain.get("changed", ()))
                if head := plain.get("old_head"):
                    self._old_head = Head(int(head["entry"]), str(head["hash"]))
            if kind in ("start", "lost"):
                return ""
            item, digest, failed = plain["item"], plain["item_digest"], plain["error"] is not None
        except (ValueError, TypeError, KeyError):
            return "its contents are not an outcome"
        self._outcomes += 1
        query = "SELECT failed, entry FROM items WHERE item=? AND item_digest=?"
        shown = next(self._journal._rows(query, item, digest), None)
        if shown and shown[1] == number:
            self._shown += 1
            return "" if bool(shown[0]) == failed else "the index says otherwise whether it was an error"
        if not failed:
            return "the index does not show it, and it is no error"
        if shown is None and not digest:  # nothing could be read then; something could later
            shown = next(self._journal._rows("SELECT failed, max(entry) FROM items WHERE item=?", item), None)
        if shown is None or (shown[1] or 0) < number:
            return "the index does not show it, and nothing came in its place"
        return ""


def _about(content: str) -> dict[str, Any]:
    """Empty for what is no JSON object."""
    try:
        plain = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return plain if isinstance(plain, dict) else {}
