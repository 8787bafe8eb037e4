"""Items from a watched folder, through a session, into a journal; may be cut at any moment.

Nothing is remembered but the journal: after a power cut the folder is looked at again, what the journal has is passed
over, and the item that was being read is read again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from edge_runtime.errors import InputError
from edge_runtime.items import Item, find_items, is_image

if TYPE_CHECKING:
    from edge_runtime.child import Progress
    from edge_runtime.journal import Journal
    from edge_runtime.results import Outcome
    from edge_runtime.session import Session

SETTLE_S = 3.0
POLL_S = 1.0


def watch(
    folder: str | os.PathLike[str],
    *,
    once: bool = False,
    settle_s: float = SETTLE_S,
    poll_s: float = POLL_S,
    slide_name: str | None = None,
) -> Iterator[Item]:
    """The items that stand in `folder`, and those that appear, for ever; with `once`, those that are there now.

    Each sub-folder and each image is an item (with `slide_name`: the images that match it alike). An item is given
    when nothing in it changed for `settle_s` seconds, so that one still being copied is not read; it is given again
    when it changes later. Raises InputError where the folder does not exist.
    """
    top = Path(folder)
    if not top.is_dir():
        raise InputError(f"{top}: found no folder there, wanted one to watch")
    given: dict[str, str] = {}
    seen: dict[str, tuple[str, float]] = {}
    while True:
        waiting = False
        for item in _present(top, slide_name):
            mark = _mark(item)
            now = time.monotonic()
            if given.get(item.name) == mark:
                continue
            last, since = seen.get(item.name, (None, now))
            if last != mark:
                # files that were last written long ago need not wait to be looked at twice
                since = now - max(time.time() - _newest(item), 0.0)
                seen[item.name] = mark, since
            if now - since >= settle_s:
                given[item.name] = mark
                yield item
            else:
                waiting = True
        if once and not waiting:
            return
        time.sleep(min(poll_s, settle_s) if once else poll_s)


def run_loop(
    session: Session,
    items: Iterable[Item],
    journal: Journal,
    *,
    retry: bool = False,
    progress: Progress | None = None,
) -> Iterator[Outcome]:
    """Read what the journal does not know, record it, then give it. An item that fails is recorded with its error.

    `retry`: items recorded with an error are read again, and the new outcome takes the error's place.
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
            mark = ""  # reading it gives the error, which is recorded
            if journal.knows(item.name, digest="", failed=not retry):
                continue
        outcome = session.run(item, progress=progress)
        if journal.add(outcome, mark):
            yield outcome


def _present(top: Path, slide_name: str | None) -> Iterator[Item]:
    if slide_name is not None:
        try:
            yield from find_items([top], slide_name)
        except InputError:
            return  # nothing that matches, yet
        return
    for entry in sorted(top.iterdir()):
        # names with a leading dot are how copying programs hide what is not finished
        if not entry.name.startswith(".") and (entry.is_dir() or is_image(entry.name)):
            yield Item(str(entry), (entry,))


def _mark(item: Item) -> str:
    try:
        return item.fingerprint()
    except (InputError, OSError):
        return ""


def _newest(item: Item) -> float:
    """When the item's newest file or folder changed; now, where that cannot be told."""
    try:
        times = [path.stat().st_mtime for path in [*item.images(), *item.paths]]
        return max(times)
    except (InputError, OSError):
        return max((path.stat().st_mtime for path in item.paths if path.exists()), default=time.time())
