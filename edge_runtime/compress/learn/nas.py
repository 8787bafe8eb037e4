"""Architecture search under a device's budget: what does not fit is never trained.

    space, lessons and val -> candidates that fit the device (prices.py), judged on rung 0
        by regularized evolution with a tournament (Real and others, 2019): the oldest dies, not the worst;
        rung 0 is a short training, or a read-out of a supernet whose weights all share (supernet.py)
    -> the promising go up the other rungs, each longer and for fewer (successive halving: Jamieson and Talwalkar, 2016)
    -> the front of the last rung: stored bytes, RAM, latency (else MACs) and score, nothing beaten in all of them

Every judgement is a line of a record (record.py), so a search that was cut goes on where it was, and a second device
pays only for what it asks anew. The course depends on the seed alone, not on the number of workers (workers.py).
"""

from __future__ import annotations

import random
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from edge_runtime.compress import pareto
from edge_runtime.compress.learn.checks import check_whole
from edge_runtime.compress.learn.lessons import Lessons
from edge_runtime.compress.learn.prices import FORMS, NO_LIMITS, Limits, Price, paper_of, price, refusals, words
from edge_runtime.compress.learn.record import Record
from edge_runtime.compress.learn.space import Code, Space, key_of, plain_of
from edge_runtime.compress.learn.suits import check_suits
from edge_runtime.compress.learn.tag import tag_of
from edge_runtime.compress.learn.trial import Rung, School, as_trial, run_trial
from edge_runtime.compress.learn.workers import Workers, open_workers
from edge_runtime.compress.pareto import Objective
from edge_runtime.errors import BudgetError, InputError, UsageError
from edge_runtime.profile import DeviceProfile, load_profile

Notice = Callable[[str], None]
_TRIES = 2000


@dataclass(frozen=True)
class Search:
    """`trials` on rung 0; a `population` that ages; a parent is the best of `sample`; `batch` are judged together, by
    so many workers at most; `cross`: share of children with two parents. `keep` go on from rung 0, and on each further
    rung one in `eta`. `aim`: "front" for all objectives, "score" for the best score that fits. `sieve`: of so many
    drawn candidates the one that scores best without any training (proxies.py) is judged. `form`: float or int8, in
    which the model is to be stored and run, by a bundle of the kind `task`. `seed`: of the search's course,
    `teach_seed`: of each training. `weights`: a folder, which all workers can reach, for the weights of the last rung
    (trial.load_trained). `seconds` for all of it, after which nothing new is begun."""

    trials: int = 40
    population: int = 12
    sample: int = 4
    batch: int = 4
    cross: float = 0.25
    rungs: tuple[Rung, ...] = (Rung(1), Rung(4))
    keep: int = 8
    eta: int = 2
    aim: str = "front"
    sieve: int = 1
    form: str = "int8"
    task: str | None = None
    seed: int = 1
    teach_seed: int = 1
    weights: Path | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        check_whole(self, ("trials", "population", "sample", "batch", "keep", "sieve"), 1)
        check_whole(self, ("eta",), 2)
        if self.seconds is not None and not self.seconds > 0:
            raise UsageError(f"Search: seconds: found {self.seconds!r}, wanted more than 0, or None for no limit")
        if self.aim not in ("front", "score") or self.form not in FORMS or not self.rungs:
            raise UsageError(
                f"found aim {self.aim!r}, form {self.form!r} and {len(self.rungs)} rungs, wanted front or score, "
                "float or int8, and a rung at least"
            )


@dataclass(frozen=True)
class Candidate:
    """An architecture with its price, and its score on the rung named; `seconds`: what judging it took."""

    architecture: Mapping[str, Any] = field(hash=False)
    price: Price
    rung: int
    score: float
    accuracy: float
    seconds: float
    seeded: bool = False

    @property
    def key(self) -> str:
        return str(sorted(self.architecture.items()))

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Found:
    """`front` and `candidates`: of the last rung that was reached, best score first. `judged`: how many on each rung,
    `refused`: how many different ones were over the budget and never trained, `recorded`: judgements that the record
    had already; `failed`: how many could not be taught, each told about by `notice`. `seconds` of this run;
    `judging_seconds` of all its judgements, those of the record too."""

    front: tuple[Candidate, ...]
    candidates: tuple[Candidate, ...]
    first: tuple[Candidate, ...]
    judged: tuple[int, ...]
    refused: int
    recorded: int
    seconds: float
    judging_seconds: float
    failed: int = 0


OBJECTIVES = (Objective("stored_bytes"), Objective("ram_bytes"), Objective("speed"), Objective("score", more=True))


def front(candidates: Sequence[Candidate]) -> list[Candidate]:
    """Those that nothing else beats: no other is as good in all objectives and better in one."""
    points = [
        {
            "stored_bytes": one.price.stored_bytes,
            "ram_bytes": one.price.ram_bytes,
            "speed": one.price.macs if one.price.latency_ms is None else one.price.latency_ms,
            "score": one.score,
        }
        for one in candidates
    ]
    return [one for one, stands in zip(candidates, pareto.front(points, OBJECTIVES), strict=True) if stands]


def search_architecture(
    space: Space,
    lessons: Lessons,
    val: Lessons,
    device: DeviceProfile | str,
    settings: Search = Search(),
    *,
    school: School | None = None,
    limits: Limits = NO_LIMITS,
    seeds: Sequence[Any] = (),
    supernet: Any = None,
    record: Path | str | Record | None = None,
    workers: Workers | str | int = 1,
    notice: Notice | None = None,
) -> Found:
    """`device`: a profile, or what load_profile takes. `school`: how candidates are taught and scored, where the
    defaults are not right; its lessons are replaced by these. `seeds`: builders to begin with, which go up every rung,
    so that what is found can be compared with them. `supernet`: a supernet.Shared that rung 0 is read from, instead of
    its training. `record`: a file to go on from. `workers`: a number of processes, or a Dask scheduler's address.

    Raises UsageError: inputs of another shape than lessons or val give, too few classes; InputError: items that are
    not finite, candidates that cannot be taught; BudgetError where nothing in the space fits the device.
    """
    school = replace(school, lessons=lessons, val=val) if school else School(lessons, val)
    device = load_profile(device) if isinstance(device, str) else device
    check_suits(space, school, settings.rungs, seeds)
    kept = record if isinstance(record, Record) else Record(None if record is None else Path(record))
    opened = open_workers(workers) if isinstance(workers, str | int) else workers
    try:
        return _Hunt(space, school, device, settings, limits, supernet, kept, opened, notice).go(seeds)
    finally:
        if opened is not workers:
            opened.close()


class _Hunt:
    def __init__(
        self,
        space: Space,
        school: School,
        device: DeviceProfile,
        settings: Search,
        limits: Limits,
        supernet: Any,
        record: Record,
        workers: Workers,
        notice: Notice | None,
    ) -> None:
        self.space, self.school, self.device, self.settings, self.limits = space, school, device, settings, limits
        self.supernet, self.record, self.workers = supernet, record, workers
        self.both = school, supernet
        self.notice = notice or (lambda text: None)
        self.dice = random.Random(settings.seed)
        self.began = time.monotonic()
        self.seen: dict[str, Candidate] = {}
        self.refused: set[str] = set()
        self.failed: dict[str, str] = {}
        self.least: tuple[int, str] | None = None
        self.recorded, self.spent = 0, 0.0
        self.tag = tag_of(school)

    # ------------------------------------------------------------ what fits

    def price(self, one: Any) -> Price | None:
        """None where it does not fit."""
        found = price(paper_of(one), self.device, self.settings.form, self.settings.task)
        against = refusals(found, self.device.budget, self.limits)
        if not against:
            return found
        self.refused.add(key_of(one))
        if self.least is None or found.stored_bytes < self.least[0]:
            self.least = found.stored_bytes, f"{words(found)}: {'; '.join(against)}"
        return None

    def fresh(self, make: Callable[[], Code], asked: set[str]) -> Code | None:
        """A code that fits and was not judged yet; None where none is found."""
        best: tuple[float, Code] | None = None
        left = self.settings.sieve
        for _ in range(_TRIES):
            code = make()
            one = self.space.decode(code)
            key = key_of(one)
            if key in self.seen or key in asked or key in self.refused or key in self.failed or self.price(one) is None:
                continue
            if self.settings.sieve == 1:
                return code
            from edge_runtime.compress.learn.proxies import untrained

            good = untrained(one, self.school.val, self.settings.teach_seed)
            best = max(best, (good, code)) if best else (good, code)
            left -= 1
            if not left:
                break
        return best[1] if best else None

    # ------------------------------------------------------------ judging

    def judge(self, ones: Sequence[Any], rung: int, seeded: Sequence[bool] | None = None) -> list[Candidate]:
        """In the order given; what the record has is not judged again, and what could not be taught is left out."""
        shared = rung == 0 and self.supernet is not None
        plain = [plain_of(one) for one in ones]
        trials = [self.trial(each, rung) for each in plain]
        how = f"supernet {self.supernet.digest}" if shared else str(sorted(asdict(self.settings.rungs[rung]).items()))
        keys = [f"{self.tag} {how} {self.settings.teach_seed} {key_of(one)}" for one in ones]
        rows = [self.record.get(key) for key in keys]
        missing = [place for place, row in enumerate(rows) if row is None]
        self.recorded += len(rows) - len(missing)
        if missing:
            function = _read_shared if shared else run_trial
            given = self.both if shared else self.school
            for place, answer in self.workers.run(function, given, [trials[one] for one in missing]):
                where = missing[place]
                about = {"architecture": plain[where], "rung": rung, "how": how}
                rows[where] = self.record.put(keys[where], about | answer)
        made = []
        for place, (one, row) in enumerate(zip(ones, rows, strict=True)):
            known = self.price(one)
            assert row is not None and known is not None
            self.spent += row["seconds"]
            said = bool(seeded and seeded[place])
            if row.get("failed"):
                self.failed[key_of(one)] = row["failed"]
                self.notice(f"could not be taught: {row['failed']}: {plain[place]}")
                continue
            made.append(Candidate(plain[place], known, rung, row["score"], row["accuracy"], row["seconds"], said))
        return made

    def trial(self, architecture: Mapping[str, Any], rung: int) -> dict[str, Any]:
        made = as_trial(architecture, self.settings.rungs[rung], self.settings.teach_seed)
        last = rung == len(self.settings.rungs) - 1
        return made | {"weights": str(self.settings.weights) if last and self.settings.weights else None}

    def late(self, share: float = 1.0) -> bool:
        limit = self.settings.seconds
        return limit is not None and time.monotonic() - self.began > share * limit

    # ------------------------------------------------------------ the search

    def go(self, seeds: Sequence[Any]) -> Found:
        fitting = [one for one in seeds if self.price(one) is not None]
        self.evolve(fitting)
        known = list(self.seen.values())
        always = {key_of(one) for one in fitting}
        ranked, counts = known, [len(known)]
        for rung in range(1, len(self.settings.rungs)):
            count = max(1, self.settings.keep // self.settings.eta ** (rung - 1))
            chosen = self.promising(ranked, count, always)
            ranked = self.climb(chosen, rung) or ranked
            counts.append(sum(one.rung == rung for one in ranked))
            if self.late():
                break
        ranked = sorted(ranked, key=lambda one: (-one.score, one.price.stored_bytes))
        return Found(
            tuple(front(ranked)),
            tuple(ranked),
            tuple(known),
            tuple(counts),
            len(self.refused),
            self.recorded,
            round(time.monotonic() - self.began, 1),
            round(self.spent, 1),
            len(self.failed),
        )

    def evolve(self, seeds: Sequence[Any]) -> None:
        """Regularized evolution on rung 0."""
        settings = self.settings
        alive: deque[tuple[Code, Candidate]] = deque()
        waiting = [self.space.encode(one) for one in seeds]
        while len(self.seen) + len(self.failed) < settings.trials and not self.late(0.5):
            asked: dict[str, Code] = {}
            while len(asked) < min(settings.batch, settings.trials - len(self.seen) - len(self.failed)):
                young = not alive or len(alive) + len(asked) < settings.population  # no parents yet
                make = (lambda: self.space.draw(self.dice)) if young else (lambda: self.child(alive))
                code = waiting.pop(0) if waiting else self.fresh(make, set(asked))
                if code is None and not young:  # all neighbours are known
                    code = self.fresh(lambda: self.space.draw(self.dice), set(asked))
                if code is None:
                    break
                asked[key_of(self.space.decode(code))] = code
            if not asked:
                break  # the space, or what fits of it, is used up
            ones = [self.space.decode(code) for code in asked.values()]
            names = {key_of(one) for one in seeds}
            made = self.judge(ones, 0, [key_of(one) in names for one in ones])
            codes = [code for key, code in asked.items() if key not in self.failed]
            for code, one in zip(codes, made, strict=True):
                self.seen[key_of(self.space.decode(code))] = one
                alive.append((code, one))
                if len(alive) > settings.population:
                    alive.popleft()
            if not self.seen:
                continue
            best = max(self.seen.values(), key=lambda one: one.score)
            self.notice(f"{len(self.seen)} of {settings.trials}: best {best.score:.4f} of {words(best.price)}")
        else:  # trials were made, or there was no time for any
            self.nothing(True)
        self.nothing(False)

    def nothing(self, late: bool) -> None:
        """Raises where the search has nothing to go on with: why."""
        if self.seen:
            return
        if self.failed:
            raise InputError(
                f"found {len(self.failed)} candidates that could not be taught: {next(iter(self.failed.values()))}",
                hint="lower the rate, or look for inputs that are not finite",
            )
        if late:
            raise UsageError(
                f"found seconds {self.settings.seconds}, half of which were over before a candidate was judged; wanted "
                "time for one at least",
                hint="raise Search.seconds",
            )
        least = f"; the smallest seen: {self.least[1]}" if self.least else ""
        raise BudgetError(f"nothing in the space fits {self.device.name}{least}", hint="widen the space or limits")

    def child(self, alive: deque[tuple[Code, Candidate]]) -> Code:
        if self.dice.random() < self.settings.cross:
            code = self.space.cross(self.parent(alive), self.parent(alive), self.dice)
            return self.space.mutate(code, self.dice)
        return self.space.mutate(self.parent(alive), self.dice)

    def parent(self, alive: deque[tuple[Code, Candidate]]) -> Code:
        """The winner of a tournament: the best score, or one that nothing in the tournament beats."""
        drawn = self.dice.sample(list(alive), min(self.settings.sample, len(alive)))
        if self.settings.aim == "score":
            return max(drawn, key=lambda pair: (pair[1].score, -pair[1].price.macs))[0]
        best = front([one for _, one in drawn])
        return self.dice.choice([code for code, one in drawn if one in best])

    def promising(self, ranked: Sequence[Candidate], count: int, always: set[str]) -> list[Candidate]:
        """The best `count` for the aim, and the seeds besides."""
        left, chosen = sorted(ranked, key=lambda one: (-one.score, one.price.macs)), list[Candidate]()
        while left and len(chosen) < count:
            layer = front(left) if self.settings.aim == "front" else left
            chosen += layer[: count - len(chosen)]
            left = [one for one in left if one not in chosen]
        return [*chosen, *(one for one in left if one.seeded)]

    def climb(self, chosen: Sequence[Candidate], rung: int) -> list[Candidate]:
        """`chosen` on a higher rung, the seeds first: nothing can be said without them."""
        from edge_runtime.compress.learn.space import from_plain

        made: list[Candidate] = []
        left = sorted(chosen, key=lambda one: not one.seeded)
        while left and not (self.late() and made):
            now, left = left[: self.settings.batch], left[self.settings.batch :]
            ones = [from_plain(one.architecture) for one in now]
            made += self.judge(ones, rung, [one.seeded for one in now])
            best = max((one.score for one in made), default=float("nan"))
            self.notice(f"rung {rung}: {len(made)} of {len(chosen)}, best {best:.4f}")
        return made


def _read_shared(given: tuple[School, Any], trial: Mapping[str, Any]) -> dict[str, Any]:
    from edge_runtime.compress.learn.supernet import run_shared

    return run_shared(*given, trial)
