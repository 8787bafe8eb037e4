"""The drawn slide: known counts, the same pixels every time, and the faults that are asked for."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edge_runtime.errors import UsageError
from edge_runtime.phantom import Phantom, render_field, write_slide
from edge_runtime.task.segment import segment


def test_same_seed_same_pixels_other_seed_other_pixels() -> None:
    settings = Phantom(cells=10, infected=3, size=(640, 480))
    first, truth = render_field(settings)
    again, _ = render_field(settings)
    other, _ = render_field(Phantom(cells=10, infected=3, size=(640, 480), seed=2))
    assert first.dtype == np.uint8 and first.shape == (480, 640, 3)
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert (truth.cells, truth.infected) == (10, 3)


def test_a_slide_holds_what_was_asked_for(tmp_path: Path) -> None:
    truth = write_slide(tmp_path / "slide", Phantom(cells=100, infected=7))
    assert (truth.cells, truth.infected) == (100, 7)
    assert sorted(path.name for path in (tmp_path / "slide").iterdir()) == sorted(truth.files)
    with Image.open(tmp_path / "slide" / truth.files[0]) as picture:
        assert picture.size == (1280, 960)


def test_boxes_lie_inside_and_parasites_are_dark_and_purple() -> None:
    pixels, truth = render_field(Phantom(cells=30, infected=10))
    darkest = []
    for boxes in (truth.infected_boxes, truth.clean_boxes):
        for x, y, wide, tall in boxes:
            assert x > 0 and y > 0 and x + wide < 1280 and y + tall < 960
        darkest.append([int(pixels[y : y + tall, x : x + wide, 1].min()) for x, y, wide, tall in boxes])
    assert max(darkest[0]) + 20 < min(darkest[1])


def test_the_faults_that_are_asked_for() -> None:
    def drawn(**faults: float | bool) -> np.ndarray:
        return render_field(Phantom(cells=10, infected=2, size=(640, 480), **faults))[0].astype(float)  # type: ignore[arg-type]

    good = drawn()
    assert np.abs(np.diff(drawn(blur=6.0)[:, :, 1], axis=0)).max() < np.abs(np.diff(good[:, :, 1], axis=0)).max() / 2
    assert drawn(exposure=0.4).mean() == pytest.approx(0.4 * good.mean(), rel=0.05)
    assert np.ptp(drawn(saturation=0.0), axis=2).max() <= 2
    empty, truth = render_field(Phantom(empty=True, size=(640, 480)))
    assert truth.cells == 0 and list(segment(empty)) == []


@pytest.mark.parametrize(
    "settings", [Phantom(cells=5, infected=6), Phantom(infected=-1), Phantom(size=(100, 100)), Phantom(cells=500)]
)
def test_what_cannot_be_drawn_is_refused(settings: Phantom) -> None:
    with pytest.raises(UsageError):
        render_field(settings)
