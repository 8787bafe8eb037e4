"""A small space judged whole, which says how good a search of it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict

from edge_runtime.compress.learn.record import Record
from edge_runtime.compress.learn.space import Space, key_of, plain_of
from edge_runtime.compress.learn.tag import tag_of
from edge_runtime.compress.learn.trial import Rung, School, as_trial, run_trial
from edge_runtime.compress.learn.workers import Workers

Notice = Callable[[str], None]


def exhaustive(
    space: Space, school: School, rung: Rung, seed: int, record: Record, workers: Workers, notice: Notice | None = None
) -> dict[str, float]:
    """The score of each architecture of a small space that can be taught, by key_of, as a search judges it there."""
    how = str(sorted(asdict(rung).items()))
    made, tag = dict[str, float](), tag_of(school)
    ones = [space.decode(code) for code in space.every()]
    missing = []
    for one in ones:
        row = record.get(f"{tag} {how} {seed} {key_of(one)}")
        if row is None:
            missing.append(one)
        elif not row.get("failed"):
            made[key_of(one)] = row["score"]
    trials = [as_trial(plain_of(one), rung, seed) for one in missing]
    for place, answer in workers.run(run_trial, school, trials):
        one = missing[place]
        about = {"architecture": plain_of(one), "rung": 0, "how": how}
        record.put(f"{tag} {how} {seed} {key_of(one)}", about | answer)
        if not answer.get("failed"):
            made[key_of(one)] = answer["score"]
        if notice:
            notice(f"{len(made)} of {len(ones)}")
    return made
