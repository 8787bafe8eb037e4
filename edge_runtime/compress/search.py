"""`compress --device NAME --max-drop POINTS`: make this model fit that device, and lose no more than this.

Candidates (candidates.py) are judged class by class, cheapest first. Constraint first: one that cannot fit the
profile's budget on paper is not made (paper.py). What keeps within the drop and fits is an answer. Of an engine's files
the Pareto front in stored bytes, memory, latency (MACs where nothing is known of it) and score is kept; answers on it,
spread over it, are written as the variants of one bundle, for each engine of the device.

When it ends: by itself after the class of cost in which the first answer was found, since what else costs as little may
be better; with `minutes`, after so many, going on for a better front until then; with `thorough`, when nothing is left
to try. Whatever was judged is in a file, so an interrupted search goes on where it was.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from edge_runtime.bundle import load_bundle
from edge_runtime.compress import slide_figures
from edge_runtime.compress.candidates import (
    CHEAP,
    CLASSES,
    FAMILIES,
    Board,
    Candidate,
    Family,
    as_is,
    of_recipe,
    only_coded,
)
from edge_runtime.compress.certainty import certainty, test_items
from edge_runtime.compress.choosing import MOST_TIMED, OBJECTIVES, choose, names_to_time
from edge_runtime.compress.described import Described
from edge_runtime.compress.goal import Found, Goal
from edge_runtime.compress.judging import Bench, Judged, Record, Row, items_of, score_for
from edge_runtime.compress.overwriting import files_of_search, refuse_overwriting
from edge_runtime.compress.paper import Facts, Place
from edge_runtime.compress.pareto import front
from edge_runtime.compress.points import (
    Point,
    awaits_timing,
    cost_of,
    line_of,
    nearest_on_paper,
    on_paper,
    point_of,
    set_work,
)
from edge_runtime.compress.products import forms, write_report
from edge_runtime.compress.recipe import Context, Progress, Recipe
from edge_runtime.compress.run import Job, Ready, compress, read
from edge_runtime.compress.search_words import nearest, no_answer, summary
from edge_runtime.compress.steps import Notice, no_room
from edge_runtime.errors import EdgeError, InputError, UsageError
from edge_runtime.planner import plan

_TIMING_S = 8.0  # of one file on one engine, about: by it is judged how many there is time for
_WALK = 0.75  # of --minutes, where the rest is for timing


def search(
    job: Job,
    goal: Goal,
    *,
    progress: Progress | None = None,
    notice: Notice | None = None,
    families: tuple[Family, ...] = FAMILIES,
) -> Found:
    """`job.recipes`: where there are any, these are the candidates. Raises EdgeError's children; KeyboardInterrupt that
    says how it goes on."""
    ready = read(job)
    run = _Search(job, goal, ready, notice or (lambda words: None), progress, families)
    try:
        return run.go()
    except KeyboardInterrupt as stop:  # the one line that a person reads after Ctrl-C, or after SIGTERM
        stop.args = stop.args or (f"stopped: {run.kept()}",)
        raise
    except (EdgeError, OSError) as error:
        if not no_room(error):
            raise
        raise InputError(_said(error), hint=f"free some room: {run.kept()}") from error


class _Search:
    def __init__(
        self,
        job: Job,
        goal: Goal,
        ready: Ready,
        say: Notice,
        progress: Progress | None,
        families: tuple[Family, ...],
    ) -> None:
        self.job, self.goal, self.ready, self.say, self.progress = job, goal, ready, say, progress
        self.judged = items_of(ready)
        refuse_overwriting(job, files_of_search(job, ready.original.form), goal.test)
        self.test = test_items(goal.test, ready)
        self.score, self.why_score = score_for(goal.score, self.judged)
        task = str(ready.about.task.get("kind")) if ready.about else None
        calibration = slide_figures.calibration_of(ready.about.task) if ready.about else None
        self.alarms = calibration.false_alarm if calibration else 0.0
        self.places = {name: Place(goal.device, name, task) for name in job.target.engines}
        watched = progress or (lambda done, total, words: None)
        context = Context(ready.original, ready.samples, job.target, watched, lessons=ready.lessons)
        if not job.resume:
            if job.steps and job.steps.is_dir() and any(job.steps.iterdir()):  # a folder of the user's
                raise UsageError(
                    f"found a fresh start and finished steps in {job.steps}, wanted one: give another folder"
                )
            shutil.rmtree(job.keep, ignore_errors=True)
        self.bench = Bench(ready, job, self.places, context, self.judged)
        self.record = Record(job.keep, ready, job)
        self.facts = Facts.of(ready.original)
        self.bundles = job.out.suffix == ".edge"
        coded = (False, True) if self.bundles else (False,)
        self.described = Described()
        if self.bundles and ready.about:
            unchanged = forms(Recipe("as_is", ()), ready.original, job.target.engines)
            self.described = Described.of(ready.about, unchanged)
        self.board = Board(ready.original.form, ready.samples is not None, goal.max_drop, coded, families)
        self.minds = ready.doubts + (() if job.recipes else only_coded(ready.original.form, self.bundles))
        self.first = as_is(coded)
        self.start = time.monotonic()
        self.baseline: dict[str, Row] = {}
        self.tried: list[tuple[Candidate, Judged]] = []
        self.on_paper: dict[str, str] = {}
        self.bounds: list[tuple[float, Candidate]] = []
        self.points: list[Point] = []
        self.ended = ""

    # ------------------------------------------------------------ the walk

    def go(self) -> Found:
        self._try(self.first)
        self.minds += self.bench.doubts(self.score)
        for words in self.minds:
            self.say(f"mind: {words}")
        self.say(f"judged by {self.score}: {self.why_score}")
        self.baseline = {row["engine"]: row for row in reversed(self.tried[0][1].rows)}
        self.points = self._points()
        if self.job.recipes:
            self._walk_given()
        else:
            self._walk()
        self._time_answers()
        return self._finish()

    def _walk_given(self) -> None:
        for candidate in sorted((of_recipe(one, self.bundles) for one in self.job.recipes), key=lambda one: one.cost):
            if self._late(self._share()) and not self.record.find(candidate):  # what was judged takes no time
                return
            self._try(candidate)
        self.ended = "the recipes given were all judged"

    def _walk(self) -> None:
        open_ended = self.goal.thorough or self.goal.minutes is not None
        for cost, about in enumerate(CLASSES):
            number = self._walk_class(cost, about)
            if number is None:
                return
            if self._hopes() and number and not open_ended:
                found = (
                    "an answer" if self._answers() or self.goal.measure else "a file of which only latency is missing"
                )
                self.ended = f"class {cost} ({about}) was the first with {found}, and is done"
                return
        if self._hopes() or self._last_resort():
            self.ended = "nothing was left to try"

    def _walk_class(self, cost: int, about: str = "", least: int = CHEAP) -> int | None:
        """How many were tried; None where the time is over. Without an answer also what the climbs leave out, in
        classes up to `least`."""
        number = 0
        while True:
            candidate = self.board.next(cost)
            if candidate is None and cost <= least and not self._hopes():
                candidate = self.board.rest(cost)
            if candidate is None:
                return number
            if self._late(self._share()) and not self.record.find(candidate):
                return None
            if about and not number:
                self.say(f"class {cost}: {about}")
            number += 1
            fate = self._try(candidate)
            if fate is None:
                self.board.too_large(candidate)
            else:
                self.board.tell(candidate, *fate)

    def _last_resort(self) -> bool:
        """Nothing is good enough: the rungs of the costly classes that the climbs left out, then the few of what was
        not made that may come nearer than all that was. False where the time is over."""
        for cost in range(CHEAP + 1, len(CLASSES)):
            if self._hopes():
                return True
            if self._walk_class(cost, least=cost) is None:
                return False
        for candidate in nearest_on_paper(self.bounds, self.points, self._plain()):
            if self._late(self._share()):
                return False
            del self.on_paper[candidate.name]
            self._try(candidate, made=True)
        return True

    def _share(self) -> float:
        """Of the minutes, for the walk: what is good enough is timed in the rest."""
        return _WALK if self.goal.measure else 1.0

    def _late(self, share: float = 1.0) -> bool:
        minutes = self.goal.minutes
        if minutes is None or time.monotonic() - self.start < 60 * minutes * share:
            return False
        self.ended = f"{minutes * share:g} minutes were over" + ("" if share == 1 else f" of {minutes:g}")
        return True

    def _try(self, candidate: Candidate, made: bool = False) -> tuple[bool, float | None] | None:
        """Whether some row keeps within the drop, and the least drop, None where there is no result; None alone where
        it was not made, unless it is to be `made` whatever it says on paper."""
        if not made and candidate is not self.first and (why := self._never_fits(candidate)):
            self.on_paper[candidate.name] = why
            self.say(f"{candidate.name}: not made: {why}")
            return None
        judged = self.record.find(candidate)
        if judged is None:
            judged = self.bench.judge(candidate, lambda words: None)
            self.record.add(candidate, judged)
        self.tried.append((candidate, judged))
        if candidate is self.first:
            if judged.error:
                raise UsageError(judged.error)
            return True, 0.0
        self.points = self._points()
        own = [one for one in self.points if one["recipe"] == candidate.name]
        self.say(line_of(candidate, judged, own))
        if not own:
            return False, None
        best = min(own, key=lambda one: (len(one["lost"]), one["drop"]))
        return not best["lost"], best["drop"]

    def _never_fits(self, candidate: Candidate) -> str:
        """The objections on paper, where every file that it could give has some."""
        costs = []
        for engine, place in self.places.items():
            for coded in candidate.coded:
                cost = place.least(candidate.recipe, coded, cost_of(self.baseline[engine]), self.facts)
                more = self.described.least(engine)
                costs.append((engine, cost._replace(storage_bytes=cost.storage_bytes + more)))
        why, short = on_paper(costs, self.goal.device.budget)
        if why:
            self.bounds.append((short, candidate))
        return why

    # ------------------------------------------------------------ points

    def _points(self) -> list[Point]:
        found = [self._point(candidate, judged, row) for candidate, judged in self.tried for row in judged.rows]
        for engine in self.places:
            own = [one for one in found if one["engine"] == engine]
            set_work(own)
            for one, stands in zip(own, front(own, OBJECTIVES), strict=True):
                one["front"] = stands
        return found

    def _point(self, candidate: Candidate, judged: Judged, row: Row) -> Point:
        written = candidate.written(row["coded"])
        before = self.baseline.get(row["engine"], row)
        beside = self.described.whole(row["engine"], written, row)
        slides = self.goal.rules.broken(before["slide"], row["slide"], self.alarms) if _both(before, row) else ()
        return point_of(before, row, self.goal, self.score, slides, beside) | {
            "name": written.name,
            "recipe": candidate.name,
            "class": candidate.cost,
            "seconds": judged.seconds,
        }

    def _answers(self) -> list[Point]:
        return [one for one in self.points if not one["misses"]]

    def _hopes(self) -> list[Point]:
        """Answers, and what may be one when it is timed."""
        return [one for one in self.points if not one["misses"] or awaits_timing(one)]

    # ------------------------------------------------------------ the end

    def _time_answers(self) -> None:
        """`measure`: the original and the front of what is good enough, in turn in one run, on this machine."""
        if not self.goal.measure:
            return
        from edge_runtime.compress.timed import time_rows

        ended, most = self.ended, MOST_TIMED
        if self.goal.minutes is not None:
            left = 60 * self.goal.minutes - (time.monotonic() - self.start)
            most = min(most, max(1, int(left / _TIMING_S / len(self.places)) - 1))  # the original too
        names = names_to_time(self._hopes(), tuple(self.places), most)
        if names and not self._late():
            self.say(f"timing {len(names)} candidates here")
            chosen = [pair for pair in self.tried if pair[0].name in names or pair[0] is self.first]
            timed = dict(time_rows(chosen, self.bench, self._late))
            self.tried = [(one, timed.get(one, judged)) for one, judged in self.tried]
            self.baseline = {row["engine"]: row for row in reversed(self.tried[0][1].rows)}
            self.points = self._points()
        if self._late():
            self.say("the time is over: what is not timed by now is not timed")
        self.ended = ended or self.ended

    def _finish(self) -> Found:
        answers, plain = self._answers(), self._plain()
        good = answers or (nearest(self.points, plain) if self.goal.closest else [])
        chosen = self._choose(good)
        for one in self.points:
            one["chosen"] = any(one is other for other in chosen)
        if chosen:
            plain["certainty"] = certainty(chosen, self.tried, self.bench, plain, self.goal.rules, self.test)
        words = self._words(plain, answers)
        if not chosen:
            return Found(plain, None, 0, words)
        self.say(f"writing {', '.join(sorted({one['name'] for one in chosen}))}")
        by_name = {one.written(coded).name: one.written(coded) for one, _ in self.tried for coded in one.coded}
        last = replace(
            self.job,
            recipes=tuple(by_name[name] for name in dict.fromkeys(one["name"] for one in chosen)),
            only=frozenset((one["name"], one["engine"]) for one in chosen),
            resume=True,
            more={"search": plain},
        )
        report = compress(last, ready=self.ready, progress=self.progress, notice=self.say)
        if answers and not self._runs():
            answers = []
            plain["answers"] = 0
            write_report(self.job.out, report)
            words += (f"what is written does not fit {self.goal.device.name}: edge-runtime fit {self.job.out}",)
        return Found(plain, report, len(answers), words)

    def _choose(self, good: Sequence[Point]) -> list[Point]:
        device = self.goal.device
        first = [one for one in self.points if one["recipe"] == self.first.name]
        return choose(good, first, device.engines, self.goal.most, device.budget.storage_bytes, self.described.head)

    def _runs(self) -> bool:
        """Whether the device takes what is written, as its own planner says."""
        return not self.bundles or plan(load_bundle(str(self.job.out)), self.goal.device).choice is not None

    def _plain(self) -> dict[str, Any]:
        budget = self.goal.device.budget
        about = self.ready.about
        why_not = slide_figures.why_not(about.task, self.judged) if about else None
        gone = {candidate.name: judged.error for candidate, judged in self.tried if judged.error}
        return {
            "device": self.goal.device.name,
            "arch": self.goal.device.arch,
            "budget": {
                "ram_bytes": budget.ram_bytes,
                "storage_bytes": budget.storage_bytes,
                "latency_ms": budget.latency_ms,
            },
            "max_drop": self.goal.max_drop,
            "score": self.score,
            "score_why": self.why_score,
            "slides": {"not_judged": why_not} if why_not else self._slides(),
            "ended": self.ended,
            "seconds": round(time.monotonic() - self.start, 1),
            "judged": len(self.tried),
            "taken_up": sum(judged.resumed for _, judged in self.tried),
            "on_paper": dict(self.on_paper),
            "gone": gone,
            "answers": len(self._answers()),
            "points": self.points,
        }

    def _slides(self) -> dict[str, Any] | None:
        first = next(iter(self.baseline.values()))
        if not first["slide"]:
            return None
        rules = self.goal.rules
        return {"original": first["slide"], "false_positives": rules.false_positives, "detection": rules.detection}

    def _words(self, plain: Mapping[str, Any], answers: Sequence[Point]) -> tuple[str, ...]:
        made = [*summary(plain), *(f"mind: {words}" for words in self.minds)]
        if answers:
            return tuple(made)
        return (*made, *no_answer(plain, self.points, self.goal.closest))

    def kept(self) -> str:
        """For whoever reads why it did not come to its end."""
        said = f"{len(self.tried)} candidates are judged and kept in {self.job.keep}; the same command"
        return f"{said}{'' if self.job.resume else ' without --fresh'} goes on from there"


def _said(error: EdgeError | OSError) -> str:
    return error.message if isinstance(error, EdgeError) else f"{error.filename or 'a file'}: {error.strerror}"


def _both(before: Row, row: Row) -> bool:
    return bool(before["slide"] and row["slide"])
