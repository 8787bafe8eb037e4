"""Whole nets as TFLite: float, quantized, and with weights alone stored smaller."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from edge_runtime.compress.tflite_write import to_tflite
from tests.unit.tflite_nets import IMAGES, transformer
from tests.unit.tflite_samples import Net, check, feeds_of, lite_answers, onnx_answers, prepared, quantized


@pytest.mark.parametrize("build", [*IMAGES, transformer], ids=lambda one: one.__name__)
def test_a_float_net_gives_the_same_in_both_engines(build: Callable[[], Net]):
    check(prepared(build()).model())


@pytest.mark.parametrize("build", [*IMAGES, transformer], ids=lambda one: one.__name__)
def test_a_quantized_net_decides_the_same_in_both_engines(build: Callable[[], Net]):
    model = quantized(build())
    content = to_tflite(model)
    feeds = feeds_of(model, batch=64, seed=9)
    wanted = onnx_answers(model, feeds)[0]
    for xnnpack in (True, False):
        found = lite_answers(content, feeds, xnnpack)[0]
        assert np.abs(found - wanted).mean() < 0.003 * wanted.std()
        assert (found.argmax(1) == wanted.argmax(1)).mean() > 0.995
