"""Resident memory stays what it is: the short form of scripts/check_drift (10,000 inferences, 500 slides)."""

from __future__ import annotations

import os
import statistics
from pathlib import Path

import numpy as np
import pytest

import edge_runtime as edge
from edge_runtime.child import resident_bytes
from edge_runtime.items import Item
from edge_runtime.phantom import Phantom, write_slide
from tests.conftest import small_device

VARIANTS = {"onnxruntime": "fp32", "litert": "int8-lite"}


def assert_steady(samples: list[tuple[int, int]], most: float = 0.01) -> None:
    """Child and parent: the last tenth against the tenth that follows the first quarter."""
    size = len(samples)
    for who in (0, 1):
        bytes_ = [sample[who] for sample in samples]
        early = statistics.median(bytes_[size // 4 : size // 4 + max(1, size // 10)])
        late = statistics.median(bytes_[-max(1, size // 10) :])
        assert late / early - 1 < most, f"{('child', 'parent')[who]} grew from {early} to {late} bytes"


@pytest.mark.parametrize("engine", VARIANTS)
def test_a_thousand_inferences(engine: str, tmp_path: Path):
    bundle = edge.load_bundle("malaria")
    variant = bundle.variant(VARIANTS[engine])
    path = tmp_path / f"m.{variant.format}"
    path.write_bytes(bundle.read(variant.file))
    samples = []
    with edge.open_program(path) as program:
        spec = program.inputs[0]
        given = np.full([size or 1 for size in spec.shape], 0.5)
        for _ in range(1000):
            program.run({spec.name: given})
            samples.append((program.resident_ram_bytes, resident_bytes(os.getpid())))
    assert_steady(samples)


@pytest.mark.slow
@pytest.mark.parametrize("engine", VARIANTS)
def test_thirty_slides(engine: str, tmp_path: Path):
    write_slide(tmp_path / "slide", Phantom(12, 1))
    samples = []
    device = small_device()
    with (
        edge.Journal(tmp_path / "j.db") as journal,
        edge.open_session("malaria", device, engine=engine, variant=VARIANTS[engine], lean=True) as session,
    ):
        for outcome in edge.run_loop(session, (Item(str(n), (tmp_path / "slide",)) for n in range(30)), journal):
            assert outcome.error is None
            samples.append((session.resident_ram_bytes, resident_bytes(os.getpid())))
    assert len(samples) == 30
    assert_steady(samples, 0.02)
