"""Architecture search: what is over the budget is never trained; a search that was cut ends as if it had not been."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_runtime.compress.learn import proxies
from edge_runtime.compress.learn.builders import Separable
from edge_runtime.compress.learn.exhaustive import exhaustive
from edge_runtime.compress.learn.lessons import Lessons
from edge_runtime.compress.learn.loop import answers
from edge_runtime.compress.learn.nas import Candidate, Search, front, search_architecture
from edge_runtime.compress.learn.prices import Limits, price, refusals
from edge_runtime.compress.learn.record import Record
from edge_runtime.compress.learn.space import Space, from_plain, key_of, plain_of
from edge_runtime.compress.learn.trial import Rung, School, accuracy, as_trial, load_trained, shrunk
from edge_runtime.compress.learn.workers import Here, open_workers
from edge_runtime.errors import BudgetError, EngineError, InputError, UsageError
from edge_runtime.operators import OperatorTable, Point
from tests.conftest import small_device

FIXED = {"widths": (0, 0), "strides": (2, 1), "resolution": 16, "dropout": 0.0}
SPACE = Space("separable", {"stem": (4, 8), "widths.0": (4, 8), "widths.1": (4, 8), "depth": (1, 2)}, FIXED)
SHORT = Search(trials=6, population=3, batch=2, rungs=(Rung(steps=2), Rung(steps=4)), keep=2)


def lessons(count: int = 32) -> Lessons:
    """Bright pictures and dark ones."""
    dice = np.random.default_rng(1)
    labels = np.arange(count) % 2
    pictures = dice.random((count, 3, 16, 16), np.float32) * 0.5 + 0.5 * labels[:, None, None, None]
    return Lessons({"x": pictures.astype(np.float32)}, labels)


def test_a_code_stands_for_an_architecture():
    dice = random.Random(1)
    assert SPACE.size == 16
    assert len(list(SPACE.every())) == 12  # the second width plays no part at depth 1
    for _ in range(20):
        code = SPACE.draw(dice)
        one = SPACE.decode(code)
        assert SPACE.decode(SPACE.encode(one)) == one
        assert from_plain(json.loads(json.dumps(plain_of(one)))) == one
        assert sum(a != b for a, b in zip(code, SPACE.mutate(code, dice), strict=True)) == 1
    child = SPACE.cross((0, 0, 0, 0), (1, 1, 1, 1), dice)
    assert set(child) <= {0, 1}


@pytest.mark.parametrize(
    ("choices", "fixed", "said"),
    [
        ({"stem": ()}, {}, "wanted different values"),
        ({"stems": (1, 2)}, {}, "the closest are stem"),
        ({"widths.7": (1, 2)}, FIXED, "no such place"),
        ({"stem": (4, 0)}, {}, "wanted a whole number from 1"),
    ],
)
def test_a_wrong_space_is_refused(choices: dict[str, Any], fixed: dict[str, Any], said: str):
    with pytest.raises(UsageError, match=said):
        Space("separable", choices, fixed)


def test_what_is_not_in_the_space_has_no_code():
    with pytest.raises(UsageError, match="stem: found 16"):
        SPACE.encode(Separable())


def test_price_and_refusals():
    device = small_device()
    small, large = (price(one.paper(), device) for one in (Separable(), Separable(stem=64)))
    assert small.basis == "estimated"
    assert small.latency_ms is None
    assert large.ram_bytes > small.ram_bytes
    assert price(Separable().paper(), device, "float").stored_bytes > small.stored_bytes
    assert not refusals(small, device.budget)
    tight = Limits(stored_bytes=1000, macs=10)
    assert [text.split(":")[0] for text in refusals(small, device.budget, tight)] == ["storage", "MACs"]
    with pytest.raises(UsageError, match="no operator table"):
        refusals(small, device.budget, Limits(latency_ms=1))


def test_latency_comes_from_the_operator_table():
    kinds = ("conv", "depthwise", "conv1x1", "globalpool", "copy", "dense")
    points = {f"{kind}.uint8": (Point(64, 9, 16, 1, 1, 5000),) for kind in kinds}
    table = OperatorTable("onnxruntime", "1", "aarch64", 1, "2026-11-01T00:00:00+00:00", 1000, points)
    device = replace(small_device(), operators=(table,))
    found = price(Separable().paper(), device)
    assert found.latency_ms is not None
    assert any("latency" in text for text in refusals(found, device.budget, Limits(latency_ms=1e-6)))


def test_the_front_is_what_nothing_beats():
    device, made = small_device(), []
    for stem, score in ((8, 0.9), (16, 0.9), (24, 0.95)):
        one = Separable(stem=stem)
        made.append(Candidate(plain_of(one), price(one.paper(), device), 0, score, score, 1.0))
    assert [one.architecture["stem"] for one in front(made)] == [8, 24]


def test_record_keeps_whole_lines(tmp_path: Path):
    path = tmp_path / "record.jsonl"
    first = Record(path)
    first.put("a", {"score": 1.0})
    with path.open("ab") as file:
        file.write(b'{"key": "b", "sco')
    again = Record(path)
    assert list(again.rows) == ["a"]
    again.put("b", {"score": 2.0})
    assert [json.loads(line)["key"] for line in path.read_text().splitlines()] == ["a", "b"]
    path.write_text("no row\n")
    with pytest.raises(InputError, match="line 1"):
        Record(path)


@pytest.mark.parametrize("content", [b'{"results": [1, 2, 3]}', b"no", b'{"key": "a"}\n{"keys'])
def test_a_file_that_is_no_record_stays_as_it_is(content: bytes, tmp_path: Path):
    path = tmp_path / "mine.json"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"line [12]: found no row of a search"):
        Record(path)
    assert path.read_bytes() == content


def test_dask_that_is_not_there_is_a_clear_error():
    with pytest.raises(EngineError, match="distributed is not installed|no Dask scheduler answers"):
        open_workers("tcp://127.0.0.1:9").close()


class Counting(Here):
    """What was really trained."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def run(self, judge: Any, shared: Any, items: Any) -> Any:
        self.seen += items
        return super().run(judge, shared, items)


@pytest.mark.torch
def test_what_is_over_the_budget_is_never_trained():
    workers, most = Counting(), price(SPACE.decode((0, 1, 0, 1)).paper(), small_device()).macs
    found = search_architecture(
        SPACE, lessons(), lessons(), small_device(), SHORT, limits=Limits(macs=most), workers=workers
    )
    assert found.refused
    assert workers.seen
    for trial in workers.seen:
        assert from_plain(trial["architecture"]).paper().macs <= most
    assert all(one.price.macs <= most for one in found.candidates)


@pytest.mark.torch
def test_nothing_that_fits_is_said_with_the_smallest():
    with pytest.raises(BudgetError, match="nothing in the space fits test; the smallest seen"):
        search_architecture(SPACE, lessons(), lessons(), small_device(), SHORT, limits=Limits(macs=1))


@pytest.mark.torch
def test_seeds_go_up_every_rung_and_the_front_is_one():
    seed = SPACE.decode((1, 1, 1, 1))
    found = search_architecture(SPACE, lessons(), lessons(), small_device(), SHORT, seeds=[seed])
    assert any(key_of(from_plain(one.architecture)) == key_of(seed) for one in found.candidates)
    assert list(found.front) == front(found.candidates)
    assert all(one.rung == 1 for one in found.candidates)


@pytest.mark.torch
def test_a_second_search_pays_nothing_and_finds_the_same(tmp_path: Path):
    path = tmp_path / "record.jsonl"
    once = search_architecture(SPACE, lessons(), lessons(), small_device(), SHORT, record=path)
    workers = Counting()
    again = search_architecture(SPACE, lessons(), lessons(), small_device(), SHORT, record=path, workers=workers)
    assert not workers.seen
    assert again.front == once.front
    other = search_architecture(  # a record of other lessons is not taken
        SPACE, lessons(30), lessons(), small_device(), SHORT, record=path, workers=workers
    )
    assert workers.seen
    assert other.recorded == 0


@pytest.mark.torch
def test_the_search_finds_what_the_exhaustive_one_does(tmp_path: Path):
    record, school = Record(tmp_path / "record.jsonl"), School(lessons(), lessons())
    scores = exhaustive(SPACE, school, Rung(steps=2), 1, record, Here())
    assert len(scores) == 12
    settings = replace(SHORT, trials=12, rungs=(Rung(steps=2),), aim="score")
    found = search_architecture(SPACE, lessons(), lessons(), small_device(), settings, school=school, record=record)
    assert found.judged == (12,)
    assert found.recorded == 12
    assert found.candidates[0].score == max(scores.values())


@pytest.mark.torch
def test_sieve_and_proxies_tell_a_larger_net():
    import torch

    from edge_runtime.compress.learn.proxies import synaptic_flow, untrained

    small, large = SPACE.decode((0, 0, 0, 0)), SPACE.decode((1, 1, 1, 1))
    flows = []
    for one in (small, large):
        torch.manual_seed(1)
        flows.append(synaptic_flow(one.build(), one.example()))
    assert flows[1] > flows[0]
    before = torch.get_rng_state()
    assert untrained(large, lessons(), 1) > untrained(small, lessons(), 1)
    assert torch.equal(torch.get_rng_state(), before)
    found = search_architecture(SPACE, lessons(), lessons(), small_device(), replace(SHORT, sieve=3))
    assert found.judged[0] == 6


@pytest.mark.torch
def test_a_slice_of_the_supernet_answers_as_the_supernet_does(tmp_path: Path):
    import torch

    from edge_runtime.compress.learn.loop import Fit
    from edge_runtime.compress.learn.supernet import load_shared, slice_of, teach

    school = School(lessons(), lessons())
    shared = teach(SPACE, school, Fit(epochs=1, batch=16), steps=2)
    x = torch.from_numpy(lessons().inputs["x"])
    for code in SPACE.every():
        one = SPACE.decode(code)
        net = shared.net.cut(one).train()
        assert torch.allclose(net(x), shared.net(x, one), atol=1e-5)
    assert not slice_of(shared, one, school, 1).training
    shared.save(tmp_path / "shared.npz")
    assert load_shared(SPACE, tmp_path / "shared.npz").digest == shared.digest
    found = search_architecture(SPACE, lessons(), lessons(), small_device(), SHORT, supernet=shared)
    assert found.judged == (6, 2)


@pytest.mark.torch
def test_low_resolution_first_and_weights_of_the_last_rung_are_kept(tmp_path: Path):
    rungs = (Rung(steps=2, shrink=2), Rung(steps=4))
    settings = replace(SHORT, rungs=rungs, weights=tmp_path)
    best = search_architecture(SPACE, lessons(), lessons(), small_device(), settings).candidates[0]
    net = load_trained(tmp_path, as_trial(best.architecture, rungs[1], 1))
    assert accuracy(answers(net, lessons()), lessons()) == best.score
    with pytest.raises(InputError, match="no weights"):
        load_trained(tmp_path, as_trial(best.architecture, rungs[1], 2))
    with pytest.raises(UsageError, match="no pictures"):
        next(shrunk(Lessons({"x": np.zeros((4, 3), np.float32)}), 2).batches(2))


CHILD = """
import sys; sys.path.insert(0, {root!r})
from pathlib import Path
from tests.unit.test_nas import SPACE, SHORT, lessons, small_device, search_architecture
search_architecture(SPACE, lessons(), lessons(), small_device(), SHORT, record=Path({path!r}))
"""


@pytest.mark.torch
def test_a_killed_search_goes_on_and_ends_the_same(tmp_path: Path):
    path, root = tmp_path / "record.jsonl", str(Path(__file__).resolve().parents[2])
    code = CHILD.format(root=root, path=str(path))
    child = subprocess.Popen([sys.executable, "-c", code], cwd=root, env={**os.environ, "PYTHONPATH": root})
    while child.poll() is None and (not path.exists() or path.read_bytes().count(b"\n") < 2):
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    done = Record(path).rows
    assert len(done) >= 2
    workers = Counting()
    found = search_architecture(SPACE, lessons(), lessons(), small_device(), SHORT, record=path, workers=workers)
    plain = search_architecture(SPACE, lessons(), lessons(), small_device(), SHORT)
    assert [replace(one, seconds=0) for one in found.candidates] == [
        replace(one, seconds=0) for one in plain.candidates
    ]
    keys = [json.loads(line)["key"] for line in path.read_text().splitlines()]
    assert len(keys) == len(set(keys)) == len(done) + len(workers.seen)


@pytest.mark.torch
@pytest.mark.slow
def test_several_workers_find_the_same():
    plain = search_architecture(SPACE, lessons(), lessons(), small_device(), SHORT)
    two = search_architecture(SPACE, lessons(), lessons(), small_device(), SHORT, workers=2)
    assert [one.architecture for one in two.candidates] == [one.architecture for one in plain.candidates]
    assert [one.score for one in two.candidates] == [one.score for one in plain.candidates]


@pytest.mark.torch
@pytest.mark.slow
def test_a_dask_cluster_finds_the_same():
    distributed = pytest.importorskip("distributed", reason="distributed is not installed")
    plain = search_architecture(SPACE, lessons(), lessons(), small_device(), SHORT)
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        found = search_architecture(
            SPACE, lessons(), lessons(), small_device(), SHORT, workers=cluster.scheduler_address
        )
    assert [one.architecture for one in found.candidates] == [one.architecture for one in plain.candidates]
    assert [one.score for one in found.candidates] == [one.score for one in plain.candidates]


def slack(logits: Any, lessons: Lessons, by: float = 0.0) -> float:
    return accuracy(logits, lessons) - by


def darker(inputs: tuple[Any, ...], dice: Any) -> tuple[Any, ...]:
    return (inputs[0] * 0.5,)


@pytest.mark.torch
def test_a_record_is_not_taken_for_other_lessons_or_another_score():
    record, found = Record(), lessons()
    school = School(found, found, score=partial(slack, by=0.0))
    for taught, again in (
        (school, 0),
        (school, 1),
        (replace(school, score=partial(slack, by=1.0)), 0),
        (replace(school, lessons=replace(found, prepare=darker)), 0),
    ):
        made = search_architecture(SPACE, taught.lessons, found, small_device(), SHORT, school=taught, record=record)
        assert (made.recorded > 0) == bool(again)


def never(logits: Any, lessons: Lessons) -> float:
    return float("nan")


@pytest.mark.torch
def test_what_cannot_be_taught_is_told_and_left_out(tmp_path: Path):
    found, said = lessons(), list[str]()
    endless = Lessons({"x": np.full_like(found.inputs["x"], 3e38)}, found.labels)
    wild = School(endless, found)
    for school, why in ((wild, "found a loss of"), (School(found, found, score=never), "found a score of nan")):
        for _ in range(2):  # the second time from the record
            with pytest.raises(InputError, match="candidates that could not be taught"):
                search_architecture(
                    SPACE,
                    school.lessons,
                    found,
                    small_device(),
                    SHORT,
                    school=school,
                    record=tmp_path / "record",
                    notice=said.append,
                )
        assert any(why in one for one in said)


@pytest.mark.torch
def test_proxies_leave_the_net_alone_and_refuse_what_they_cannot_judge():
    import torch

    net = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    before = [one.clone() for one in net.parameters()]
    proxies.synaptic_flow(net, (torch.zeros(2, 4),))
    assert all(torch.equal(*pair) for pair in zip(before, net.parameters(), strict=True))
    with pytest.raises(UsageError, match="found no units"):
        proxies.pattern_overlap(net, (torch.zeros(2, 4),))


def test_a_limit_of_nothing_is_a_limit():
    found = price(Separable().paper(), small_device())
    assert refusals(found, small_device().budget, Limits(stored_bytes=0))
