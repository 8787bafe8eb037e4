"""Where candidates are judged: in this process, in several, or on the machines of a Dask cluster. One seam, so that a
search is the same code everywhere; its result does not depend on who finishes first.

Dask (the package `distributed`) is an existing engine with a scheduler of its own: `dask scheduler` on one machine,
`dask worker ADDRESS` on each, all with this package and the lessons' code installed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

from edge_runtime.errors import EngineError, UsageError

Judge = Callable[[Any, Any], Any]
"""(what all items share, an item) -> the answer. A function of a module, so that it can be sent."""


class Workers(Protocol):
    def run(self, judge: Judge, shared: Any, items: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        """(place among the items, answer), as they come. Raises what the judge raises."""

    def close(self) -> None: ...


class Here:
    """One after the other, in this process."""

    def run(self, judge: Judge, shared: Any, items: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        for place, one in enumerate(items):
            yield place, judge(shared, one)

    def close(self) -> None:
        pass


class Processes:
    """Several processes of this machine. Raises UsageError for fewer than one."""

    def __init__(self, count: int) -> None:
        import multiprocessing
        from concurrent.futures import ProcessPoolExecutor

        if count < 1:
            raise UsageError(f"found {count} processes, wanted 1 or more")
        # a fork would take over PyTorch's threads in whatever state they are
        self._pool = ProcessPoolExecutor(count, multiprocessing.get_context("spawn"))

    def run(self, judge: Judge, shared: Any, items: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        from concurrent.futures import as_completed

        asked = {self._pool.submit(judge, shared, one): place for place, one in enumerate(items)}
        for done in as_completed(asked):
            yield asked[done], done.result()

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)


class Dask:
    """The workers of a Dask cluster. Raises EngineError: `distributed` is not installed, nobody answers."""

    def __init__(self, address: str, timeout_s: float = 20.0) -> None:
        try:
            from distributed import Client
        except ImportError as error:
            raise EngineError(
                "distributed is not installed, which several machines need", hint="pip install distributed"
            ) from error
        try:
            self._client = Client(address, timeout=timeout_s, set_as_default=False)
        except (OSError, TimeoutError, ValueError) as error:
            raise EngineError(
                f"{address}: no Dask scheduler answers: {error}", hint="start one: dask scheduler; dask worker ADDRESS"
            ) from error
        self._sent: tuple[Any, Any] | None = None

    def run(self, judge: Judge, shared: Any, items: Sequence[Any]) -> Iterator[tuple[int, Any]]:
        from distributed import as_completed

        if self._sent is None or self._sent[0] is not shared:  # lessons are large: once for all batches
            (given,) = self._client.scatter([shared], broadcast=True, hash=False)
            self._sent = shared, given
        given = self._sent[1]
        asked = {self._client.submit(judge, given, one, pure=False): place for place, one in enumerate(items)}
        for done in as_completed(list(asked), loop=self._client.loop):
            yield asked[done], done.result()

    def close(self) -> None:
        self._client.close()


def open_workers(where: str | int = 1) -> Workers:
    """A number of processes, or the address of a Dask scheduler (tcp://HOST:8786)."""
    if isinstance(where, str) and not where.isdigit():
        return Dask(where)
    return Here() if int(where) == 1 else Processes(int(where))
