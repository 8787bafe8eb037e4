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
