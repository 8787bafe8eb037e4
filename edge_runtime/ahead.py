"""Work one step ahead in a second thread: what a stream will want next is made while its present item is used.

Decoders and engines let go of the interpreter's lock while they compute, so on two cores the decoding of the next image
hides behind the work on this one. One item is made ahead and no more: memory grows by one.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from queue import SimpleQueue
from typing import Any, TypeVar

_T = TypeVar("_T")
_STACK_BYTES = 512 << 10  # reserved addresses count against a memory limit; the usual 8 MiB are for deep recursion


def ahead(items: Iterator[_T]) -> Iterator[_T]:
    """The same items in the same order, each made while the one before is used. What the stream raises is raised in its
    place. Closing this closes the stream, when its thread is done with the item it is at."""
    out: SimpleQueue[tuple[str, Any]] = SimpleQueue()
    room = threading.Semaphore(1)
    stopped = threading.Event()

    def work() -> None:
        try:
            while room.acquire() and not stopped.is_set():
                try:
                    out.put(("item", next(items)))
                except StopIteration:
                    break
            out.put(("end", None))
        except BaseException as error:
            out.put(("error", error))
        finally:
            close = getattr(items, "close", None)
            if close:
                close()

    before = threading.stack_size(_STACK_BYTES)
    thread = threading.Thread(target=work, name="ahead", daemon=True)
    try:
        thread.start()
    finally:
        threading.stack_size(before)
    try:
        while True:
            kind, value = out.get()
            if kind == "error":
                raise value
            if kind == "end":
                return
            room.release()
            yield value
    finally:
        stopped.set()
        room.release()
        thread.join()
