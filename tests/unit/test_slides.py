"""The main job with the shipped model: slides to verdicts, rendered ones everywhere, real ones where the data is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import edge_runtime as edge
from edge_runtime.bundle import load_bundle, pack
from edge_runtime.doctor import self_test
from edge_runtime.items import find_items
from edge_runtime.phantom import Phantom, render_field, write_slide
from edge_runtime.session import Session
from edge_runtime.task.verdict import VERDICTS
from tests.conftest import small_device
from tests.unit.test_cli import cli

VARIANTS = [one.name for one in load_bundle("malaria").variants]
PROMISED = [
    *("item", "verdict", "reasons", "cells", "infected", "parasitaemia_percent", "interval_percent"),
    *("parasites_per_ul", "bundle", "variant", "engine", "latency_ms", "peak_ram_bytes"),
]
NLM_NAME = r"^(C\d+(?:P\d+|N)?)"


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    top = tmp_path_factory.mktemp("slides")
    write_slide(top / "infected", Phantom(600, 40, seed=11))
    write_slide(top / "clean", Phantom(600, 0, seed=12))
    return top


@pytest.fixture(params=VARIANTS)
def session(request: pytest.FixtureRequest) -> Iterator[Session]:
    with edge.open_session("malaria", small_device(), variant=request.param) as opened:
        yield opened


def test_known_slides_get_the_known_verdicts(session: Session, slides: Path):
    infected = session.run(slides / "infected").to_json()
    clean = session.run(slides / "clean").to_json()
    assert set(PROMISED) <= set(infected)
    assert (infected["verdict"], clean["verdict"]) == ("parasites_found", "none_found")
    assert infected["cells"] == pytest.approx(600, rel=0.05)
    low, high = infected["interval_percent"]
    assert low <= 100 * 40 / 600 <= high
    assert clean["not_excluded_below_per_ul"] > 0
    assert "negative" not in json.dumps([infected, clean]).lower()


def test_what_is_found_does_not_depend_on_the_engine(slides: Path):
    counts = {}
    for variant in VARIANTS:
        with edge.open_session("malaria", small_device(), variant=variant) as session:
            counts[variant] = session.run(slides / "infected").to_json()["infected"]
    assert max(counts.values()) - min(counts.values()) <= 2, counts


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        (Phantom(cells=20, infected=2), "cells"),
        (Phantom(cells=200, infected=10, blur=6.0), "focus"),
        (Phantom(cells=200, infected=10, exposure=0.35), "."),
        (Phantom(cells=200, infected=10, saturation=0.0), "."),
        (Phantom(cells=100, infected=0, empty=True), "empty"),
    ],
)
def test_a_slide_that_cannot_be_trusted_is_to_be_repeated(settings: Phantom, reason: str, tmp_path: Path):
    write_slide(tmp_path / "slide", settings)
    with edge.open_session("malaria", small_device()) as session:
        plain = session.run(tmp_path / "slide").to_json()
    assert plain["verdict"] == "repeat"
    assert reason in " ".join(plain["reasons"]).lower() or reason == "."


def test_one_field_photograph_is_an_item_and_details_name_every_cell(tmp_path: Path):
    pixels, truth = render_field(Phantom(cells=40, infected=3, seed=5))
    Image.fromarray(pixels).save(tmp_path / "field.jpg", quality=95)
    with edge.open_session("malaria", small_device()) as session:
        fields = session.predict(tmp_path / "field.jpg", details=True).fields
    assert fields["fields"] == fields["images"] == 1
    assert len(fields["cell_scores"]) == fields["cells"]
    assert all(one["file"] == "field.jpg" and len(one["box"]) == 4 for one in fields["cell_scores"])
    assert fields["cells"] <= len(truth.clean_boxes) + len(truth.infected_boxes)


@pytest.mark.parametrize("size", [(1, 1), (5, 300)])
def test_a_speck_is_no_cell(size: tuple[int, int], tmp_path: Path):
    Image.new("RGB", size).save(tmp_path / "x.png")
    with edge.open_session("malaria", small_device()) as session:
        error = session.run(tmp_path / "x.png").error
    assert error is not None
    assert f"found {size[0]} x {size[1]} pixels, wanted a cell" in error.message


def test_memory_does_not_grow_with_the_number_of_cells(tmp_path: Path):
    cell = np.zeros((70, 70, 3), np.uint8)
    cell[5:65, 5:65] = (200, 148, 150)
    for number in range(3000):
        Image.fromarray(cell + np.uint8(number % 7)).save(tmp_path / f"{number:05}.bmp")
    few = sorted(tmp_path.iterdir())[:60]
    with edge.open_session("malaria", small_device()) as session:
        session.run(edge.Item("few", tuple(few)))
        before = session.peak_ram_bytes
        assert session.run(tmp_path).to_json()["cells"] == 3000
        assert session.peak_ram_bytes - before < 4 << 20


def test_the_self_test_passes():
    found = self_test()
    assert found["ok"], found["slides"]
    assert [one["wanted"] for one in found["slides"]] == list(VERDICTS)


def test_the_self_test_notices_a_model_that_calls_everything_infected(tmp_path: Path):
    shipped = load_bundle("malaria")
    image = {"name": "image", "shape": [1, 3, 64, 64], "dtype": "float32"}
    logit = {"name": "logit", "shape": [1, 1], "dtype": "float32"}
    broken = {"name": "only", "format": "null", "file": "m.null", "recipe": [], "metrics": {}, "costs": {}}
    header = {"name": "broken", "version": "1", "task": dict(shipped.task), "labels": list(shipped.labels)}
    header |= {"preprocessing": dict(shipped.preprocessing)}
    header |= {"variants": [{**broken, "inputs": [image], "outputs": [logit]}]}
    model = json.dumps({"inputs": [image], "outputs": [logit], "fill": 9.0}).encode()
    found = self_test(str(pack(header, {"m.null": model}, tmp_path / "broken.edge").path))
    assert not found["ok"]


def test_the_shipped_bundle_is_small_and_whole():
    bundle = load_bundle("malaria")
    bundle.verify()
    sizes = {one.name: one.file.size for one in bundle.variants}
    assert all(size <= 100 * 1024 for name, size in sizes.items() if "int8" in name), sizes
    assert {one.format for one in bundle.variants} == {"onnx", "tflite"}
    assert b"not a medical device" in bundle.read(bundle.file("card.md")).lower()
    assert all(one.costs for one in bundle.variants), "each variant has measured costs"


def test_a_zero_and_a_32_bit_tablet_choose_differently():
    zero = json.loads(cli("fit", "malaria", "--device", "raspberry-pi-zero-2w", "--json").stdout)["choice"]
    tablet = json.loads(cli("fit", "malaria", "--device", "lg-g-pad-7.0", "--json").stdout)["choice"]
    assert zero["engine"] == "onnxruntime"
    assert tablet["engine"] == "litert"


# ---------------------------------------------------------------- real slides


def test_every_patient_of_the_test_split_gets_a_verdict_alike_on_all_variants(data: Path):
    folders = [data / "malaria-cells" / "test", data / "malaria-healthy" / "test"]
    verdicts: dict[str, dict[str, str]] = {}
    for variant in VARIANTS:
        with edge.open_session("malaria", small_device(), variant=variant) as session:
            outcomes = [session.run(item).to_json() for item in find_items(folders, NLM_NAME)]
        verdicts[variant] = {one["item"]: one["verdict"] for one in outcomes}
    first = verdicts[VARIANTS[0]]
    assert len(first) == 27
    assert all(found == first for found in verdicts.values())
    infected = [verdict for name, verdict in first.items() if "P" in name]
    assert infected.count("parasites_found") >= 16
    assert "parasites_found" not in [verdict for name, verdict in first.items() if "P" not in name]


def test_the_command_of_the_readme_reads_the_test_patients(data: Path):
    done = cli("run", "malaria", data / "malaria-cells" / "test", "--slide-name", NLM_NAME)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 28
    assert done.stdout.splitlines()[-1].startswith("27 items: ")
