"""The benchmark on real engines and small models: what is in a row, what a failure leaves, what a comparison says."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.bench import QUICK, run_bench
from edge_runtime.bench.cases import find_cases
from edge_runtime.bench.compare import compare
from edge_runtime.bench.run import Gathered, Measured, Process, certain, ratio_between, settled
from edge_runtime.bench.shape import check_rows
from edge_runtime.bench.sustained import invalid_because, judge
from edge_runtime.errors import EdgeError, EngineError, InputError, UsageError
from edge_runtime.power import MeterSettings, Recorder, open_meter
from edge_runtime.tensors import TensorSpec
from edge_runtime.timing import made_up
from tests.conftest import picture, small_device

FAST = replace(QUICK, rounds=2, most_rounds=2, window_s=0.02, slice_s=0.01, batches=(1, 2), idle_s=0.1)


@pytest.fixture(scope="module")
def rows(means: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    image = picture(tmp_path_factory.mktemp("item") / "red.png", (200, 0, 0))
    engines = ["onnxruntime", "litert", "null"]
    return run_bench([str(means)], small_device(), engines=engines, protocol=FAST, item=str(image))


def test_every_variant_is_a_valid_row_of_the_schema(rows: list[dict]):
    check_rows(rows)
    assert [row["label"].partition(",")[0] for row in rows] == [
        "fp32 on onnxruntime",
        "fp32-lite on litert",
        "int8-lite on litert",
        "nothing on null",
    ]
    for row in rows:
        assert row["valid"], row["invalid"]
        latency = row["latency_ms"]
        assert 0 < latency["min"] <= latency["p90"] <= latency["p99"]
        assert len(latency["quantiles"]) == 101
        assert row["cold_ms"]["p50"] > row["load_ms"]["p50"] > 0
        assert row["memory"]["peak_bytes"] >= row["memory"]["loaded_bytes"] > 5 << 20
        assert row["subject"]["model_bytes"] > 0
        json.dumps(row, allow_nan=False)


def test_the_task_is_timed_in_its_parts(rows: list[dict]):
    task = rows[0]["task"]
    assert task["item"].endswith("red.png")
    assert task["feeds"] == 1
    assert sum(task["parts_ms"].values()) == pytest.approx(task["latency_ms"], rel=0.05, abs=0.05)
    assert task["parts_ms"]["decode"] > 0


def test_throughput_by_batch_where_the_model_takes_one(rows: list[dict]):
    assert [one["batch"] for one in rows[0]["throughput"]] == [1, 2]
    assert [one["batch"] for one in rows[1]["throughput"]] == [1], "its first size is fixed"


def test_ratios_are_to_the_first_row_and_paired(rows: list[dict]):
    assert rows[0]["ratios"] == []
    (ratio,) = rows[1]["ratios"]
    assert ratio["to"] == rows[0]["label"]
    assert ratio["interval"] is None or ratio["interval"][0] <= ratio["ratio"] <= ratio["interval"][1]
    assert ratio["pairs"] == 2 * 2


def test_a_row_carries_what_repeats_it_and_no_host_name(rows: list[dict]):
    row = rows[0]
    assert len(row["subject"]["model_sha256"]) == 64
    assert row["engine"]["version"]
    assert row["machine"]["id"]
    assert row["protocol"]["rounds"] == 2
    host = os.uname().nodename
    assert host not in json.dumps(row)


def test_a_case_that_fails_is_a_row_with_its_reason_and_the_others_go_on(models: Path, tmp_path: Path):
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(b"not a model")
    found = run_bench([str(damaged), str(models / "fp32.tflite")], small_device(), protocol=FAST)
    assert [row["valid"] for row in found] == [False, True]
    assert "refuses the model" in found[0]["invalid"][0]
    check_rows(found)


def test_over_the_devices_memory_is_a_row_with_both_figures(models: Path):
    (row,) = run_bench([str(models / "fp32.onnx")], small_device(ram_bytes=20 << 20), protocol=FAST)
    assert not row["valid"]
    assert "allowed 20 MiB" in row["invalid"][0]


def test_modelled_energy_says_so(models: Path):
    meter = open_meter("modelled", MeterSettings(watts=2.0))
    assert meter
    with Recorder(meter) as recorder:
        device = small_device(battery_mah=5000)
        (row,) = run_bench([str(models / "nothing.null")], device, protocol=FAST, recorder=recorder)
    assert row["energy"]["basis"] == "modelled"
    assert row["energy"]["active_w"] == pytest.approx(2.0)
    assert row["energy"]["net_mj"] == row["energy"]["gross_mj"] > 0, "a stated power knows no rest"
    assert row["energy"]["idle_w"] is None
    assert row["energy"]["battery_hours"] == pytest.approx(5 * 3.85 / 2, rel=0.01)


def test_what_cannot_be_measured_is_refused_at_once(models: Path, means: Path, tmp_path: Path):
    device = small_device()
    with pytest.raises(UsageError, match="found no file there"):
        find_cases([str(tmp_path / "none.onnx")], device)
    with pytest.raises(UsageError, match="no engine asked for reads it"):
        find_cases([str(models / "fp32.onnx")], device, engines=["litert"])
    with pytest.raises(UsageError, match="has no variants"):
        find_cases([str(models / "fp32.onnx")], device, variants=["int8"])
    with pytest.raises(EdgeError, match="found no variant"):
        find_cases([str(means)], device, variants=["int4"])
    with pytest.raises(InputError, match="found no image"):
        run_bench([str(means)], device, protocol=FAST, item=str(tmp_path))


def test_sizes_for_an_input_that_is_not_there_are_refused(models: Path):
    wrong = replace(FAST, shapes={"token": [1, 8]})
    (row,) = run_bench([str(models / "fp32.onnx")], small_device(), protocol=wrong)
    assert "found sizes for token, wanted them for inputs of the model: image" in row["error"]


def test_an_interrupt_keeps_what_was_measured(models: Path):
    model = str(models / "nothing.null")
    rounds: list[str] = []

    def notice(text: str) -> None:
        rounds.append(text)
        if text.startswith("round 2"):
            raise KeyboardInterrupt

    stopped: list[KeyboardInterrupt] = []
    (row,) = run_bench([model], small_device(), protocol=FAST, notice=notice, interrupted=stopped)
    assert len(stopped) == 1
    assert row["invalid"] == ["interrupted before it was done"]
    assert len(row["latency_ms"]["processes"]) == 1
    with pytest.raises(KeyboardInterrupt):
        run_bench([model], small_device(), protocol=FAST, notice=notice)


def test_a_model_that_ranges_over_its_batch_is_fed_one_by_one():
    """Dynamic quantization takes its scale from all that comes together."""
    from onnx import TensorProto, helper, numpy_helper

    from edge_runtime.engine import EngineOptions, find_engine
    from edge_runtime.server import _batch

    weight = np.random.default_rng(0).integers(-100, 100, (8, 3)).astype(np.int8)
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "s", "z"]),
        helper.make_node("MatMulInteger", ["q", "w", "z"], ["m"]),
        helper.make_node("Cast", ["m"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["f", "s"], ["y"]),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size]) for name, size in (("x", 8), ("y", 3)))
    graph = helper.make_graph(nodes, "dynamic", [x], [y], [numpy_helper.from_array(weight, "w")])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    engine = find_engine("onnxruntime")
    assert _batch(engine.load(model.SerializeToString(), EngineOptions()), 8, 1000) == 1
    same = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 8])
    plain = helper.make_graph([helper.make_node("Sigmoid", ["x"], ["y"])], "plain", [x], [same])
    model = helper.make_model(plain, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    assert _batch(engine.load(model.SerializeToString(), EngineOptions()), 8, 1000) == 8


def test_labels_are_told_apart(models: Path, tmp_path: Path):
    other = tmp_path / "fp32.onnx"
    other.write_bytes((models / "fp32.onnx").read_bytes())
    cases = find_cases([str(models / "fp32.onnx"), str(other)], small_device(), threads=[1, 2])
    assert len({one.label for one in cases}) == 4


# ---------------------------------------------------------------- what is made of figures


def process(ms: float, pace: float = 0.05, slices: int = 4) -> Process:
    chunks = [[ms, pace, 10]] * 8
    made = Process(100.0, 50.0, 1.0, {"n": 3}, {"peak_bytes": 1, "pss_bytes": 1}, 1, [])
    made.slices, made.chunks = [ms] * slices, chunks
    return made


def gathered(*processes: Process) -> Gathered:
    return Gathered(None, {}, list(processes))  # type: ignore[arg-type]


def test_processes_that_never_saw_the_full_pace_are_left_out():
    one = gathered(process(1.0), process(1.01), process(1.02), process(1.7, pace=0.085))
    found = settled(one, 0.05)
    assert found.latencies_ms == [1.0, 1.01, 1.02]
    assert found.dropped == 1
    busy = gathered(process(1.7, pace=0.085), process(1.72, pace=0.085), process(1.0))
    assert settled(busy, 0.05).dropped == 0, "two would be too few to leave out the rest"


def test_rounds_end_when_the_ratio_is_certain():
    def measured(*pairs: tuple[float, float]) -> Measured:
        first, second = (gathered(*(process(pair[place]) for pair in pairs)) for place in (0, 1))
        return Measured([first, second], FAST, together=True)

    steady = measured(*[(1.0, 2.0), (1.3, 2.6), (0.9, 1.8), (1.0, 2.001), (1.1, 2.2)])
    assert certain(steady, 0.02), "what slows both alike drops out"
    assert ratio_between(*steady.gathered[::-1]).middle == pytest.approx(2.0)
    assert not certain(measured((1.0, 2.0), (1.0, 2.4), (1.0, 1.7), (1.0, 2.2), (1.0, 1.9)), 0.02)


def changed(row: dict, times: float, pace: float = 1.0, **subject: object) -> dict:
    new = copy.deepcopy(row)
    for key in ("latency_ms", "cold_ms"):
        new[key]["processes"] = [times * pace * one for one in new[key]["processes"]]
    new["pace_ms"]["processes"] = [pace * one for one in new["pace_ms"]["processes"]]
    new["subject"] |= subject
    return new


@pytest.fixture
def steady(rows: list[dict]) -> dict:
    row = copy.deepcopy(rows[0])
    for key, value in (("latency_ms", 1.0), ("cold_ms", 100.0), ("pace_ms", 0.05)):
        row[key]["processes"] = [value * factor for factor in (0.99, 1.0, 1.0, 1.01, 1.002)]
    return row


@pytest.mark.parametrize(
    ("times", "pace", "verdict"),
    [(1.0, 1.0, "same"), (1.08, 1.0, "slower"), (0.9, 1.0, "faster"), (1.01, 1.0, "same"), (1.0, 1.3, "same")],
)
def test_a_change_beyond_the_noise_is_called_by_its_name(steady: dict, times: float, pace: float, verdict: str):
    changes = compare([steady], [changed(steady, times, pace)])
    assert {one.measure: one.verdict for one in changes}["latency_ms"] == verdict


def test_a_machine_at_another_pace_cannot_be_compared(steady: dict):
    (latency, *_) = compare([steady], [changed(steady, 1.3, 2.0)])
    assert latency.verdict == "cannot be told"
    assert "ran 100 % slower" in latency.why


def test_bytes_have_no_noise_and_another_model_is_said(steady: dict):
    new = changed(steady, 1.0, model_bytes=steady["subject"]["model_bytes"] + 1, model_sha256="0" * 64)
    changes = {one.measure: one for one in compare([steady], [new])}
    assert changes["model_bytes"].regression
    assert "another model file" in changes["latency_ms"].why
    with pytest.raises(UsageError, match="wanted one of"):
        compare([steady], [changed(steady, 1.0, variant="other")])


def test_rows_are_compared_only_with_their_like(steady: dict):
    other = changed(steady, 2.0)
    other["subject"]["bundle"] = "another 1.0"
    newer = changed(steady, 1.0)
    newer["subject"]["bundle"] = "means 2.0"
    found = {one.measure: one.verdict for one in compare([steady, other], [newer])}
    assert found["latency_ms"] == "same", "a new version of the same bundle, and not the other bundle"
    longer = copy.deepcopy(newer)
    longer["protocol"]["shapes"] = {"tokens": [1, 512]}
    with pytest.raises(UsageError, match="wanted one of"):
        compare([steady], [longer])
    little = changed(steady, 1.0)
    little["protocol"]["cpus"] = [0]
    assert "other cores" in compare([steady], [little])[0].why


def point(s: float, ms: float, mhz: int = 1500, heat: float = 50.0, **more: object) -> dict:
    plain = {"s": s, "p50_ms": ms, "p99_ms": ms, "mhz": mhz, "temperature_c": heat, "throttled": [], "charging": False}
    return plain | {"active_w": None} | more


def test_a_sustained_run_says_when_it_slowed_and_why():
    cool = [point(s, 10.0) for s in range(10)]
    hot = [point(10 + s, 15.0, 1000, 82.0, throttled=["soft temperature limit"]) for s in range(10)]
    found = judge(cool + hot)
    assert (found["slowed_at_s"], found["slower"]) == (10, 1.5)
    assert "1500 to 1000 MHz" in found["why"]
    assert "rose from 50 to 82 C" in found["why"]
    assert invalid_because(cool + hot) == ["throttled: soft temperature limit"]
    assert judge(cool)["slowed_at_s"] is None
    blip = [*cool[:5], point(5, 15.0), *cool[6:]]
    assert judge(blip)["slowed_at_s"] is None, "one slow point is a disturbance"
    assert invalid_because([point(0, 1.0, charging=True)]) != []


@pytest.mark.parametrize(
    ("spec", "sizes", "shape"),
    [
        (TensorSpec("x", (None, 3, 8), "float32"), {}, (4, 3, 8)),
        (TensorSpec("x", (1, 8), "int8", 0.5, -3), {}, (1, 8)),
        (TensorSpec("tokens", (None, None), "int64"), {"tokens": [1, 128]}, (4, 128)),
        (TensorSpec("text", (None,), "string"), {}, (4,)),
        (TensorSpec("flag", (), "bool"), {}, ()),
    ],
)
def test_inputs_are_made_up_to_fit(spec: TensorSpec, sizes: dict[str, list[int]], shape: tuple[int, ...]):
    found = made_up(spec, 4, sizes)
    assert found.shape == shape
    assert found.dtype == (object if spec.dtype == "string" else np.dtype(spec.dtype))


def test_a_shape_that_does_not_fit_is_refused():
    with pytest.raises(InputError, match="found shape \\[1, 2\\]"):
        made_up(TensorSpec("x", (None, 3), "float32"), 1, {"x": [1, 2]})


# ---------------------------------------------------------------- the command


def cli(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "edge_runtime", "bench", *words], capture_output=True, text=True)


def test_the_command_keeps_shows_and_compares(models: Path, tmp_path: Path):
    kept, page = tmp_path / "rows.jsonl", tmp_path / "report.html"
    model = str(models / "nothing.null")
    done = cli(model, "--rounds", "2", "--no-task", "-o", str(kept), "--html", str(page), "--markdown")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("| ") or "|" in done.stdout
    assert "nothing.null on null" in page.read_text()
    again = cli(str(kept), "--rows", "--compare", str(kept), "--csv")
    assert again.returncode == 0, again.stderr
    assert "latency_ms same" in again.stderr


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--shape", "x=ax2"], "wanted an input's name and its sizes"),
        (["--csv", "--json"], "different forms"),
        (["--cpus", "900"], "wanted some of"),
        (["--cpus", "99999999999999999999"], "wanted some of"),
        (["-o", "/nowhere/at/all.jsonl"], "wanted a file to write"),
        (["--compare", "/nowhere/old.jsonl"], "/nowhere/old.jsonl"),
        (["--sustained", "20"], "wanted a number with one of the units"),
    ],
)
def test_wrong_words_are_refused_before_anything_is_measured(models: Path, words: list[str], said: str):
    done = cli(str(models / "nothing.null"), *words)
    assert done.returncode in (1, 2)
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert "round 1" not in done.stderr


def test_no_engine_here_is_an_error_of_engines(models: Path, monkeypatch: pytest.MonkeyPatch):
    from edge_runtime.bench import cases
    from edge_runtime.engine import Probe

    monkeypatch.setattr(cases, "probe", lambda name: Probe(name, None, "not installed"))
    with pytest.raises(EngineError, match="not installed"):
        find_cases([str(models / "fp32.onnx")], small_device())
