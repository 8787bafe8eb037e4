"""Teachers of the slide's reader: nobody is heard who saw the cell's person, or a person whose scores calibrate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.torch
MODELS = Path(__file__).resolve().parents[2] / "models"


@pytest.mark.parametrize("left_out", [None, 0, 3])
def test_no_teacher_saw_the_person_that_it_speaks_of(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, left_out: int | None
):
    monkeypatch.syspath_prepend(str(MODELS / "malaria"))
    import crossed
    import large

    part = np.array([0, 1, 2, 3, 4, -1])
    cells = [None] * len(part)

    def judged(cells: object, work: Path, pair: tuple[int, int]) -> np.ndarray:
        honest = np.isin(part, pair) & (left_out is None or left_out in pair)
        return np.where(honest, 2.0, -7.0)

    def trees(cells: object, work: Path, without: tuple[int, ...]) -> np.ndarray:
        assert without == (() if left_out is None else (left_out,))
        return np.where((part >= 0) & ~np.isin(part, without), 0.5, np.nan)

    monkeypatch.setattr(large, "parts", lambda cells: part)
    monkeypatch.setattr(large, "trees", trees)
    monkeypatch.setattr(crossed, "judged", judged)
    found = crossed.opinion(cells, tmp_path, left_out)
    assert np.array_equal(np.isfinite(found), (part >= 0) & (part != (-1 if left_out is None else left_out)))
    assert np.allclose(found[np.isfinite(found)], 1.0)  # the mean of 2 and of an even chance


def test_a_student_on_the_grid_answers_as_both_its_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.syspath_prepend(str(MODELS / "malaria"))
    import engines
    import small
    import tiny_files
    from dataset import Cells
    from large import logits
    from learn import Settings, train
    from network import Shape

    dice = np.random.default_rng(2)
    count, names = 96, np.array(["C1P1"] * 96)
    infected = dice.random(count) < 0.5
    pixels = (dice.integers(60, 120, (count, 64, 64, 3)) + 90 * infected[:, None, None, None]).astype(np.uint8)
    cells = Cells(pixels, infected, np.zeros(count, bool), ~infected, names, names, names)
    lessons = Settings(Shape(8, ((12, 2), (16, 2)), 0.0), epochs=8, batch=32, rate=0.02, average=0.5)
    asked = small.Student(lessons, 2, 32, tune_average=0.5, levels=7, price=1e-6)
    net = small.train_grid(train(cells, lessons), cells, infected.astype(np.float32), asked)
    integers = small.integers(net)
    tiny_files.write_onnx(integers, tmp_path / "net.onnx")
    tiny_files.write_tflite(integers, tmp_path / "net.tflite")
    ours = logits(net, pixels)
    assert np.ptp(ours) > 1
    for name in ("net.onnx", "net.tflite"):
        assert np.abs(engines.run(tmp_path / name, pixels) - ours).max() < 0.02 * np.ptp(ours)


def test_what_is_kept_is_whole_and_of_the_same_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.syspath_prepend(str(MODELS / "malaria"))
    from kept import check_settings, whole

    def cut() -> None:
        with whole(tmp_path / "net.pt") as fresh:
            fresh.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cut()
    assert not list(tmp_path.iterdir())
    check_settings(tmp_path, {"epochs": 16})
    check_settings(tmp_path, {"epochs": 16})
    with pytest.raises(SystemExit, match="of other settings"):
        check_settings(tmp_path, {"epochs": 8})
