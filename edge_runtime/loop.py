"""Items from a watched folder, through a session, into a journal; may be cut at any moment.

Nothing is remembered but the journal: after a power cut the folder is looked at again, what the journal has is passed
over, and the item that was being read is read again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edge_runtime.errors import InputError, MeterError
from edge_runtime.items import Item, find_items, is_image, printable
from edge_runtime.unfinished import is_temporary

if TYPE_CHECKING:
    from edge_runtime.child import Progress
    from edge_runtime.journal import Journal
    from edge_runtime.pace import Pacer
    from edge_runtime.power import Recorder
    from edge_runtime.results import Outcome
    from edge_runtime.session import Session

Notice = Callable[[str], None]
SETTLE_S = 3.0
POLL_S = 1.0
# Pauses in copying are waited out several times over. A longer one is no pause: what comes after it is another time.
PATIENCE = 3
MOST_PAUSE_S = 60.0
# A file whose end is missing is waited for so many settle times: then it is read, and recorded as what it is.
UNFINISHED_SETTLES = 20


def watch(
    folder: str | os.PathLike[str],
    *,
    once: bool = False,
    settle_s: float = SETTLE_S,
    poll_s: float = POLL_S,
    slide_name: str | None = None,
    notice: Notice | None = None,
) -> Iterator[Item]:
    """The items that stand in `folder`, and those that appear, for ever; with `once`, those that are there now.

    Each sub-folder and each image is an item (with `slide_name`: the images that match it alike), named as it is
    called inside `folder`, so that a journal does not depend on where the folder stands. An item is given when
    nothing in it changed for `settle_s` seconds, so that one still being copied is not read; it is given again when
    it changes later. After a pause in its changes it must rest longer, three times the pause; one with a file that is
    not finished, by its name or because its end is missing, is waited for 20 times `settle_s`. No clock but the
    system's own count of seconds is asked: files may be dated as they like. `notice` is told what is waited for.
    Raises InputError where the folder does not exist now.
    """
    top = Path(folder)
    if not os.path.isdir(top):
        raise InputError(f"{top}: found no folder there, wanted one to watch")
    find_items([], slide_name)  # raises for a bad pattern now, and not at the first look
    return _watch(top, once, settle_s, poll_s, slide_name, notice)


@dataclass
class _Quiet:
    """An item as it was at the last looks: since when it is as it is, and the longest pause in its changes so far."""

    state: str
    since_s: float
    last_s: float
    longest_s: float = 0.0
    missing: str | None = None  # the file whose end is missing; "" where none is, None where nobody looked
    given: bool = False

    def look(self, item: Item, now_s: float) -> None:
        state = item.state()
        if state != self.state:
            pause_s = self.last_s - self.since_s if self.state else 0.0  # an empty folder is not a pause
            self.longest_s = max(self.longest_s, pause_s) if pause_s <= MOST_PAUSE_S else 0.0
            self.state, self.since_s, self.missing, self.given = state, now_s, None, False
        self.last_s = now_s

    def waits_for(self, item: Item, settle_s: float) -> str | None:
        """None when it is ready; else the name of the file that it waits for, "" while it is only too fresh."""
        quiet_s = self.last_s - self.since_s
        # who pauses once pauses again: photographs taken one by one, a phone that falls asleep
        if quiet_s < (max(settle_s, PATIENCE * self.longest_s) if settle_s else 0.0):
            return ""
        if quiet_s >= UNFINISHED_SETTLES * settle_s:
            return None
        if temporary := item.temporary():
            return temporary[0].name
        if self.missing is None:
            missing = item.unfinished()
            self.missing = missing.name if missing else ""
        return self.missing or None


def _watch(
    top: Path, once: bool, settle_s: float, poll_s: float, slide_name: str | None, notice: Notice | None
) -> Iterator[Item]:
    seen: dict[str, _Quiet] = {}
    told: set[tuple[str, str]] = set()
    gone = False
    while True:
        more = False
        start = time.monotonic()
        try:
            present = list(_present(top, slide_name))
        except OSError as error:  # a card pulled out, a share that went away: it may come back
            if once:
                raise InputError(f"{top}: {error.strerror}, wanted a folder to watch") from error
            if notice and not gone:
                notice(f"{top}: {error.strerror}; waiting for it")
            gone, present = True, []
        else:
            gone = False
        names = {item.name for item in present}
        # what went away is new when it comes back
        seen = {name: quiet for name, quiet in seen.items() if name in names}
        for item in present:
            now_s = time.monotonic()
            quiet = seen.get(item.name)
            if quiet is None:
                quiet = seen[item.name] = _Quiet(item.state(), now_s, now_s)
            else:
                quiet.look(item, now_s)
            if quiet.given:
                continue
            waits_for = quiet.waits_for(item, settle_s)
            if waits_for is None:
                quiet.given = True
                yield item
            elif waits_for and notice and (item.name, waits_for) not in told:
                told.add((item.name, waits_for))
                limit_s = UNFINISHED_SETTLES * settle_s
                notice(f"{item.name}: {printable(waits_for)} is not finished; waiting for it, {limit_s:.0f} s at most")
            more = True  # what was given may have changed since; what was not given will be
        if once and not more:
            return
        # looking at many thousand files takes its time: rest at least twice as long
        time.sleep(max(min(poll_s, settle_s) if once else poll_s, 2 * (time.monotonic() - start) if not once else 0))


def run_loop(
    session: Session,
    items: Iterable[Item],
    journal: Journal,
    *,
    retry: bool = False,
    progress: Progress | None = None,
    recorder: Recorder | None = None,
    pacer: Pacer | None = None,
) -> Iterator[Outcome]:
    """Read what the journal does not know, record it, then give it. An item that fails is recorded with its error.

    `retry`: items recorded with an error are read again, and the new outcome takes the error's place. An item that
    changes while it is read is not recorded: `watch` gives it again. What is recorded was on the disk before, so that
    a power cut does not make another slide of it. With a `recorder`, each outcome has its energy; with a `pacer`, the
    loop rests after an item as long as it takes to hold the pacer's limits. Raises EdgeError where the model
    itself cannot be started again, or the disk fails: that is no fault of the item, and nothing is recorded.
    """
    for item in items:
        try:
            mark = _mark(item)
            if mark and journal.knows(item.name, fingerprint=mark, failed=not retry):
                continue
            if journal.knows(item.name):  # with other marks: copied again, or photographed again?
                digest = item.digest()
                if journal.knows(item.name, digest=digest, failed=not retry):
                    journal.touch(item.name, digest, mark)
                    continue
        except InputError:
            mark = _mark(item)  # reading it gives the error, which is recorded
            if journal.knows(item.name, digest="", failed=not retry):
                continue
        if not any(os.path.exists(path) for path in item.paths):
            continue  # it went away; `watch` gives it again when it comes back
        state, start = item.state(), time.monotonic()
        outcome = run_item(session, item, progress=progress, recorder=recorder)
        busy_s = time.monotonic() - start
        if _is_safe(item, state) and journal.add(outcome, mark):
            yield outcome
        if pacer:
            pacer.rest(busy_s)


def _is_safe(item: Item, state: str) -> bool:
    """Whether it is as it was, and on the disk. It may change or go away while it is read: then what was read is
    neither the old nor the new. Raises InputError where the disk did not take it."""
    try:
        item.sync()
    except InputError:
        if item.state() == state:
            raise
    return item.state() == state


def run_item(
    session: Session,
    item: Item,
    *,
    details: bool = False,
    progress: Progress | None = None,
    recorder: Recorder | None = None,
) -> Outcome:
    """`session.run`, and with a recorder the outcome's energy: gross, with its basis and uncertainty (results.py)."""
    if recorder is None:
        return session.run(item, details=details, progress=progress)
    start = recorder.mark()
    outcome = session.run(item, details=details, progress=progress)
    about: dict[str, object] = {"basis": recorder.sensor.basis, "uncertainty_mj": None}
    try:
        found = recorder.energy(start, recorder.mark())
    except MeterError as error:  # the answer stands without it
        return replace(outcome, extra={**outcome.extra, "energy": {**about, "notes": [error.message]}})
    doubt = found.uncertainty_j
    about |= {"uncertainty_mj": None if doubt is None else 1e3 * doubt, "notes": list(found.notes)}
    energy_mj = 1e3 * found.joules if found.valid else None
    return replace(outcome, energy_mj=energy_mj, extra={**outcome.extra, "energy": about})


def _present(top: Path, slide_name: str | None) -> Iterator[Item]:
    if slide_name is not None:
        try:
            yield from find_items([top], slide_name)
        except InputError:
            top.stat()
            return  # nothing that matches, yet
        return
    for entry in sorted(top.iterdir()):
        # names with a leading dot are how copying programs hide what is not finished
        if entry.name.startswith(".") or is_temporary(entry.name):
            continue
        if entry.is_dir() or is_image(entry.name):
            yield Item(printable(entry.name), (entry,))


def _mark(item: Item) -> str:
    try:
        return item.fingerprint()
    except (InputError, OSError):
        return ""
