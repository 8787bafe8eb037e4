"""A model that takes more than it was said to: what happens to the item, to the next, and to a loop of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import edge_runtime as edge
from edge_runtime.errors import BudgetError, EdgeError, EngineError, InputError
from edge_runtime.items import Item
from edge_runtime.packing import pack_folder
from edge_runtime.session import GIVE_UP_AFTER, Way
from tests.conftest import IMAGE_TASK, LABELS, PREPROCESSING, onnx_model, picture, small_device, tflite_model

MIB = 1 << 20
RED, BLUE = (255, 0, 0), (0, 0, 255)


def hungry_model(megabytes: int) -> bytes:
    """The means of the colours, and on the way as many megabytes as the picture is red."""
    import numpy as np
    from onnx import TensorProto, checker, helper, numpy_helper

    constants = {
        "first": np.array([0], np.int64),
        "many": np.array([megabytes * 250_000], np.float32),
        "one": np.array([1], np.int64),
        "none": np.array(0, np.float32),
    }
    filled = numpy_helper.from_array(np.array([1], np.float32))
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["p"]),
        helper.make_node("Flatten", ["p"], ["plain"]),
        helper.make_node("Gather", ["plain", "first"], ["red"], axis=1),
        helper.make_node("Reshape", ["red", "one"], ["share"]),
        helper.make_node("Mul", ["share", "many"], ["count"]),
        helper.make_node("Cast", ["count"], ["whole"], to=TensorProto.INT64),
        helper.make_node("Add", ["whole", "one"], ["size"]),
        helper.make_node("ConstantOfShape", ["size"], ["large"], value=filled),
        helper.make_node("ReduceMax", ["large"], ["most"], keepdims=0),
        helper.make_node("Mul", ["most", "none"], ["nothing"]),
        helper.make_node("Add", ["plain", "nothing"], ["means"]),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 8, 8])
    means = helper.make_tensor_value_info("means", TensorProto.FLOAT, [1, 3])
    tensors = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "hungry", [image], [means], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


def bundle_of(folder: Path, **variants: tuple[bytes, int]) -> Path:
    """Each variant with what its memory is said to be, in MiB."""
    entries = []
    for name, (content, said) in variants.items():
        form = "tflite" if content[4:8] == b"TFL3" else "onnx"
        (folder / f"{name}.{form}").write_bytes(content)
        cost = {"ram_bytes": said * MIB, "storage_bytes": 1, "basis": "measured", "where": "said"}
        engine = "litert" if form == "tflite" else "onnxruntime"
        costs = {f"{engine}/aarch64": cost | {"latency_ms": float(200 - said)}}
        entries.append({"name": name, "format": form, "file": f"{name}.{form}", "costs": costs})
    plain = {"name": "means", "version": "1", "task": IMAGE_TASK, "labels": LABELS, "preprocessing": PREPROCESSING}
    (folder / "bundle.json").write_text(json.dumps(plain | {"variants": entries}))
    return pack_folder(folder, folder / "b.edge").path


@pytest.fixture(scope="module")
def hungry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """By its latency `large` comes first; red pictures take 300 MB in it, and 200 in `middle`."""
    folder = tmp_path_factory.mktemp("hungry")
    return bundle_of(
        folder, large=(hungry_model(300), 120), middle=(hungry_model(200), 110), small=(tflite_model(), 90)
    )


def test_one_large_item_is_read_by_a_smaller_variant_and_the_next_as_before(hungry: Path, tmp_path: Path):
    told: list[str] = []
    red, blue = picture(tmp_path / "red.png", RED), picture(tmp_path / "blue.png", BLUE)
    with edge.open_session(hungry, small_device(150 * MIB), notice=told.append) as session:
        assert session.run(blue).origin.variant == "large"
        outcome = session.run(red)
        assert outcome.prediction
        assert outcome.prediction.fields["labels"][0]["label"] == "red"
        assert outcome.origin.variant == "small"
        stopped = outcome.to_json()["fell_back"]
        assert [(one["variant"], one["lean"]) for one in stopped] == [
            ("large", True),
            ("middle", True),
        ]
        assert stopped[0]["predicted_bytes"] == 120 * MIB
        assert stopped[0]["allowed_bytes"] == 150 * MIB
        assert 0 < stopped[0]["measured_bytes"] < 160 * MIB
        after = session.run(blue)
        assert after.origin.variant == "large"
        assert "fell_back" not in after.to_json()
    assert len(told) == 1
    assert "too large for large on onnxruntime" in told[0]
    assert "read by small on litert" in told[0]


def test_a_variant_that_is_too_large_again_and_again_is_given_up(hungry: Path, tmp_path: Path):
    told: list[str] = []
    red = picture(tmp_path / "red.png", RED)
    with edge.open_session(hungry, small_device(150 * MIB), notice=told.append) as session:
        for _ in range(GIVE_UP_AFTER):
            assert session.run(red).origin.variant == "small"
        plain = session.run(red).to_json()
        assert plain["variant"] == "small"
        assert "fell_back" not in plain
    assert "3 items in a row were too large" in told[-1]


def test_where_nothing_smaller_is_left_the_item_has_its_error(tmp_path: Path):
    bundle = bundle_of(tmp_path, large=(hungry_model(300), 120), middle=(hungry_model(200), 110))
    red, blue = picture(tmp_path / "in/red.png", RED), picture(tmp_path / "in/blue.png", BLUE)
    items = [Item("red", (red,)), Item("blue", (blue,))]
    with edge.Journal(tmp_path / "j.db") as journal, edge.open_session(bundle, small_device(150 * MIB)) as session:
        first, second = edge.run_loop(session, items, journal)
        assert isinstance(first.error, BudgetError)
        assert first.error.predicted_bytes == 110 * MIB
        assert first.error.allowed_bytes == 150 * MIB
        assert first.origin.variant == "middle"
        assert [one["variant"] for one in first.to_json()["fell_back"]] == ["large"]
        assert second.prediction
        assert second.origin.variant == "large"
        assert len(journal) == 2


def test_what_a_caller_asked_for_by_name_is_not_exchanged(hungry: Path, tmp_path: Path):
    red = picture(tmp_path / "red.png", RED)
    with edge.open_session(hungry, small_device(150 * MIB), variant="large") as session:
        outcome = session.run(red)
        assert isinstance(outcome.error, BudgetError)
        assert outcome.origin.variant == "large"


def test_first_the_same_variant_without_what_makes_it_faster(tmp_path: Path):
    """With room for it, batches and decoding ahead are on; they go before the variant does."""
    bundle = bundle_of(tmp_path, large=(hungry_model(300), 90), small=(onnx_model(), 70))
    red = picture(tmp_path / "red.png", RED)
    with edge.open_session(bundle, small_device(150 * MIB)) as session:
        stopped = session.run(red).to_json()["fell_back"]
        assert [(one["variant"], one["lean"]) for one in stopped] == [("large", False), ("large", True)]


class Scripted:
    """In a child's place: what each variant says to an item of a name."""

    peak_bytes = MIB

    def __init__(self, session: edge.Session, says: dict[str, dict[str, EdgeError]]) -> None:
        self.session, self.says = session, says

    def call(self, op: str, meta: dict[str, Any], progress: object = None) -> tuple[dict[str, Any], dict[str, Any]]:
        error = self.says[meta["name"]].get(self.session.candidate.variant)
        if error:
            raise error
        return {"kind": "k", "summary": "s", "fields": {}, "latency_ms": 1.0, "item_digest": "d"}, {}


@pytest.fixture
def scripted(means: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[edge.Session]:
    with edge.open_session(means, small_device(), variant="fp32", measure=False) as session:
        large = session.candidate
        small = replace(large, variant="small", cost=large.cost._replace(ram_bytes=large.cost.ram_bytes // 2))
        over = BudgetError("memory: over", predicted_bytes=1, allowed_bytes=2, measured_bytes=3)
        says: dict[str, dict[str, EdgeError]] = {
            "dies": {"fp32": over, "small": EngineError("died of SIGSEGV")},
            "huge": {"fp32": over, "small": over},
            "large": {"fp32": over},
            "bad": {"fp32": InputError("no image")},
        }
        said: Any = Scripted(session, says)
        session.plan = replace(session.plan, candidates=(large, small))
        session._usual = Way(large, True)

        def start(way: Way) -> None:
            session._way, session.candidate = way, way.candidate

        monkeypatch.setattr(session, "_start", start)
        monkeypatch.setattr(session, "_running", lambda: said)
        monkeypatch.setattr(edge.Session, "origin", None)
        yield session


def told_of(session: edge.Session, name: str) -> list[str]:
    outcome = session.run(Item(name, (Path("/nowhere"),)))
    return [one["variant"] for one in outcome.extra.get("fell_back", [])]


def test_what_was_stopped_is_told_where_a_smaller_one_dies_of_something_else(scripted: edge.Session):
    assert told_of(scripted, "dies") == ["fp32"]
    assert told_of(scripted, "huge") == ["fp32"], "the last is the error itself"
    assert told_of(scripted, "bad") == []


def test_only_items_in_a_row_that_were_read_smaller_count(scripted: edge.Session):
    for name in ["large", "large", "bad", "large", "large", "huge", "large"]:
        scripted.run(Item(name, (Path("/nowhere"),)))
    assert scripted._usual.candidate.variant == "fp32"
    scripted.run(Item("large", (Path("/nowhere"),)))
    scripted.run(Item("large", (Path("/nowhere"),)))
    assert scripted._usual.candidate.variant == "small"
