"""scripts/bench_peers without its engines: the statistics, what counts as a wrong answer, and the tables."""

from __future__ import annotations

import math
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scripts.peers import main, measure, prepare, stats, table
from scripts.peers.catalogue import ENVIRONMENTS, PEERS, conversions

ABOUT = {"soc": "chip", "arch": "x86_64", "features": ["avx2"]}
SECONDS = st.floats(1e-3, 1e3)


def test_the_interval_leaves_out_what_wilcoxons_tables_say():
    """Critical values for two sides at 5 %: 0 for 6 pairs, 2 for 7, 8 for 10, 52 for 20."""
    assert [stats.dropped_averages(count) for count in (5, 6, 7, 10, 20)] == [0, 0, 2, 8, 52]


def test_its_coverage_counted_over_all_signs():
    """Of all patterns of signs of 8 rounds' logarithms, the interval misses 0 in at most 5 %."""
    sizes = [0.01 * 1.3**place for place in range(8)]
    missed = 0
    for signs in product((-1, 1), repeat=8):
        ours = [math.exp(sign * size) for sign, size in zip(signs, sizes, strict=True)]
        low, high = stats.paired_ratio(ours, [1.0] * 8)[1]
        missed += not low <= 1 <= high
    assert 0 < missed <= 0.05 * 2**8


@given(st.lists(SECONDS, min_size=1, max_size=12), SECONDS)
def test_a_constant_factor_is_found_exactly(theirs: list[float], factor: float):
    ratio, interval = stats.paired_ratio([factor * one for one in theirs], theirs)
    assert [ratio, *interval] == pytest.approx([factor] * 3)


def test_one_disturbed_round_moves_little():
    ratio, (low, high) = stats.paired_ratio([0.5, 0.51, 0.49, 0.5, 0.52, 0.48, 0.5, 9.0], [1.0] * 8)
    assert ratio == pytest.approx(0.5, rel=0.03) and low < ratio < high
    with pytest.raises(ValueError, match="found 2 and 1 rounds"):
        stats.paired_ratio([1, 2], [1])


def test_wrong_answers_are_found():
    wanted = [1.0, -1.0, 2.0, -2.0]
    assert stats.agreement(wanted, wanted, 1) == (1.0, 0.0)
    assert stats.agreement([0.0] * 4, wanted, 1)[0] == 0.5
    assert stats.agreement([2.0, 1.0, -2.0, 5.0], wanted, 2)[0] == 0.5  # the second image's largest is another
    for bad in ([math.nan] * 4, [1.0]):
        assert stats.agreement(bad, wanted, 1) == (0.0, math.inf)


def candidate(
    engine: str, times: list[float | None], outputs: list[float], precision: str = "fp32"
) -> measure.Candidate:
    peer = next(one for one in PEERS if one.name == engine)
    runs = [
        None
        if ms is None
        else {"p50_ms": ms, "p90_ms": ms, "cold_ms": 100 * ms, "peak_bytes": 1 << 20, "inferences": 9}
        for ms in times
    ]
    return measure.Candidate(
        peer, "malaria", precision, runs=runs, outputs=outputs, packages={"numpy": ("2", 6), "x": ("1", 4)}
    )


def rows(tmp_path: Path, *candidates: measure.Candidate) -> list[dict[str, Any]]:
    (tmp_path / "images").mkdir()
    for model in ("malaria", "mobilenet"):
        (tmp_path / "images" / f"{model}-test-labels.u8").write_bytes(bytes([1, 0]))
    return measure.rows(candidates, tmp_path, 3, ABOUT)


def test_rows_pair_the_rounds_that_both_have(tmp_path: Path):
    right = [3.0, -3.0]
    found = rows(
        tmp_path,
        candidate("onnxruntime", [1.0, 2.0, 4.0], right),
        candidate("ncnn", [0.5, None, 2.0], right),
        candidate("edge_runtime, onnxruntime", [1.1, 2.2, 4.4], right),
    )
    assert [row["ratio"]["ratio"] for row in found] == [1, 0.5, 1.1]
    assert found[1]["ratio"]["pairs"] == 2
    assert found[2]["ratio_to_bare"]["to"] == "fp32 on onnxruntime"
    assert found[0]["installed_bytes"] == 10 and found[0]["installed_without_numpy_bytes"] == 4
    assert found[0]["agreement"]["right"] == 1 and found[0]["model_bytes"] is None


def test_a_fast_engine_with_wrong_answers_does_not_win(tmp_path: Path):
    failed = candidate("MNN", [], [])
    failed.reason = "signal 11"
    found = rows(
        tmp_path,
        candidate("onnxruntime", [1.0] * 3, [3.0, -3.0]),
        candidate("ncnn", [0.1] * 3, [-3.0, 3.0]),
        candidate("OpenVINO", [0.5] * 3, [3.1, -3.0]),
        failed,
    )
    lines = {line.split(" | ")[0].strip("| "): line for line in reversed(table.show(found).splitlines())}
    assert "**0.50 (0.50-0.50)**" in lines["OpenVINO"]
    assert "0.10 (0.10-0.10), answers differ" in lines["ncnn"] and "**" not in lines["ncnn"].replace("**1**", "")
    assert "MNN, fp32: signal 11" in table.show(found)


def test_what_cannot_be_told_from_the_best_is_bold_too(tmp_path: Path):
    right = [3.0, -3.0]
    found = rows(
        tmp_path,
        candidate("onnxruntime", [1.0] * 3, right),
        candidate("ncnn", [0.4, 0.5, 0.6], right),
        candidate("ai-edge-litert", [0.55] * 3, right),
        candidate("MNN", [0.7] * 3, right),
    )
    bold = [line.split(" | ")[0][2:] for line in table.show(found).splitlines() if " | **0." in line]
    assert bold[:2] == ["ncnn", "ai-edge-litert"] and "MNN" not in bold[:-1]


def test_a_crash_is_told_in_one_line_without_paths():
    said = prepare.last_words(f"Traceback\nValueError: {prepare.ROOT}/x is an error\ngoodbye\n", 1)
    assert said == "exit code 1: ValueError: .../x is an error"
    assert prepare.last_words("", -11) == "signal 11"


def test_the_workers_answer_is_found_among_an_engines_own_words():
    assert measure.last_answer('hello\n{"p50_ms": 1}\nThe device supports: i8sdot:0\n') == {"p50_ms": 1}
    for nothing in ("", "hello", '{"p50_ms":'):
        with pytest.raises(prepare.Failed, match="said nothing"):
            measure.last_answer(nothing)


def test_a_change_of_one_converter_remakes_no_others_files():
    script = prepare.HERE / "convert.py"
    code = prepare.code(script, "openvino")
    assert "nncf.quantize(" in code and "def calibration(" in code
    assert "nncf.quantize(" not in prepare.code(script, "onnx")
    assert "EPOCHS, BATCH, SEED" in prepare.code(prepare.HERE / "train.py", "train")


def test_every_peers_files_are_made_by_a_conversion():
    made = {output for one in conversions(("malaria", "mobilenet")) for output in one.outputs}
    for peer in PEERS:
        assert peer.environment in ENVIRONMENTS
        for model in ("malaria", "mobilenet"):
            assert {f"models/{model}/{file}" for files in peer.files.values() for file in files} <= made


def test_an_unknown_name_is_refused_and_the_reference_always_runs(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit):
        main.parse(["--only", "ncnn,nonesuch"])
    assert "nonesuch" in capsys.readouterr().err
    assert main.parse(["--only", "ncnn"]).only == ["onnxruntime", "ncnn"]
    assert main.parse([]).whole and not main.parse(["--models", "malaria"]).whole
