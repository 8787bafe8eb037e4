"""Entropy-coded weights: every kind comes back bit for bit, and a hostile file is refused in words and in bounds."""

from __future__ import annotations

import contextlib
import io
import json
import random
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_runtime.bundle import Decoded, load_bundle, pack
from edge_runtime.cli import main
from edge_runtime.coded import FIXED, SECTIONS, SIZES, WORK_BYTES, decode
from edge_runtime.compress.code import encode, for_bundle, plain_zeros
from edge_runtime.digest import sha256
from edge_runtime.errors import BundleError, InputError, UsageError
from edge_runtime.lanes import frequencies, slots, split, token_tables
from edge_runtime.packing import pack_folder
from edge_runtime.planner import predict_cost
from edge_runtime.ranges import RANGE
from edge_runtime.session import open_session
from edge_runtime.units import format_bytes
from tests.conftest import picture, small_device
from tests.unit.test_session import header

Tensors = dict[str, np.ndarray[Any, Any]]


def onnx_file(tensors: Tensors, int4: str = "") -> bytes:
    """An ONNX model with these initializers; the one named `int4` holds packed 4-bit values."""
    from onnx import TensorProto, helper, numpy_helper

    made = []
    for name, array in tensors.items():
        if name == int4:
            proto = TensorProto(name=name, data_type=TensorProto.INT4, dims=[2 * array.size], raw_data=array.tobytes())
        else:
            proto = numpy_helper.from_array(array, name)
        made.append(proto)
    end = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [end], [out], made)
    content: bytes = helper.make_model(graph).SerializeToString()
    return content


def random_tensors(seed: int) -> Tensors:
    some = np.random.default_rng(seed)
    plain = some.laplace(size=(24, 16, 3, 3)).astype(np.float32)
    scales = (0.01 + some.random((24, 1, 1, 1))).astype(np.float32)
    grid = np.rint(plain).astype(np.float32) + np.float32(0)
    wide = np.rint(plain * 3000).astype(np.float32) + np.float32(0)
    blocks = some.random((60, 1)).astype(np.float32) * np.rint(some.normal(size=(60, 32)) * 2).astype(np.float32)
    return {
        "row": grid * scales,
        "tensor": grid * np.float32(0.037),
        "wide": wide * np.float32(0.0007),
        "column": (grid.reshape(-1, 16) * scales.reshape(-1)[:16]),
        "block": blocks.reshape(30, 64) + np.float32(0),
        "book": some.choice(some.normal(size=16).astype(np.float32), (50, 77)),
        "book16": some.choice(some.normal(size=9).astype(np.float16), (50, 77)),
        "zeros": np.zeros((10, 20), np.float32),
        "minus": np.where(some.random((40, 40)) < 0.5, -0.0, 0.25).astype(np.float32),
        "raw": plain[:3, :3],
        "half": plain.astype(np.float16),
        "bias": some.normal(size=300).astype(np.float32),
        "int8": np.clip(np.rint(plain * 30 * scales), -127, 127).astype(np.int8),
        "uint8": some.integers(0, 256, (33, 129)).astype(np.uint8),
        "int16": some.integers(-32768, 32768, (20, 40)).astype(np.int16),
        "depthwise": np.clip(np.rint(some.normal(size=(96, 1, 3, 3)) * 40), -127, 127).astype(np.int8),
        "int32": some.integers(-999, 999, 64).astype(np.int32),
        "odd": np.array([np.nan, np.inf, -np.inf, 1e-42] * 100, np.float32),
        "few": some.normal(size=5).astype(np.float32),
    }


@pytest.fixture(scope="module")
def model() -> bytes:
    """Small, as hostile variants of it are read a hundred times."""
    names = ("row", "wide", "book", "int8", "depthwise", "bias")
    return onnx_file(
        {name: one[:20] if one.ndim > 1 else one for name, one in random_tensors(0).items() if name in names}
    )


@pytest.fixture(scope="module")
def coded(model: bytes) -> bytes:
    return encode(model, "onnx").content


def read(content: bytes, size: int) -> bytes:
    return decode(io.BytesIO(content), 0, len(content), size)


def test_every_kind_is_found_and_comes_back():
    model = onnx_file(random_tensors(0))
    made = encode(model, "onnx")
    assert read(made.content, len(model)) == model
    found = {one.name: (one.kind, one.grid) for one in made.tensors}
    assert found["row"] == ("grid32", "a scale for a row")
    assert found["tensor"] == found["wide"] == found["zeros"] == ("grid32", "a scale for a tensor")
    assert found["column"] == ("grid32", "a scale for a column")
    assert found["block"] == ("grid32", "a scale for a block of 32")
    assert (found["book"][0], found["book16"][0], found["minus"][0]) == ("book32", "book16", "book32")
    assert (found["half"][0], found["bias"][0], found["odd"][0]) == ("top16", "top32", "book32")
    assert (found["int8"][0], found["uint8"][0], found["int16"][0]) == ("int8", "int8", "int16")
    assert not {"int32", "few"} & set(found)
    assert made.sha256 == sha256(model).hexdigest()


def test_packed_four_bit_weights():
    some = np.random.default_rng(4)
    nibble = np.clip(np.rint(some.normal(size=4096) * 2), -8, 7).astype(np.int64) & 15
    packed = (nibble[::2] | (nibble[1::2] << 4)).astype(np.uint8)
    made = encode(onnx_file({"four": packed}, int4="four"), "onnx")
    (report,) = made.tensors
    assert report.kind == "int4"
    assert report.bits < 1.02 * report.entropy_bits + 0.02


def test_a_tflite_file(models: Path):
    content = (models / "fp32.tflite").read_bytes()
    assert read(encode(content, "tflite").content, len(content)) == content


def test_bits_are_within_a_hundredth_of_the_entropy():
    """Independent levels: no context helps, and none may cost."""
    levels = np.rint(np.random.default_rng(5).normal(size=(256, 128, 3, 3)) * 1.2).astype(np.float32)
    model = onnx_file({"w": (levels + np.float32(0)) * np.float32(0.02)})
    made = encode(model, "onnx")
    share = np.unique(levels, return_counts=True)[1] / levels.size
    assert len(made.content) < 1.01 * levels.size * -(share * np.log2(share)).sum() / 8


def test_contexts_are_worth_something_where_channels_differ():
    some = np.random.default_rng(6)
    spread = np.exp(some.normal(size=(64, 64, 1, 1)) * 0.7)
    levels = np.rint(some.normal(size=(64, 64, 3, 3)) * spread).astype(np.float32) + np.float32(0)
    (report,) = encode(onnx_file({"w": levels * np.float32(0.5)}), "onnx").tensors
    assert report.bits < 0.95 * report.entropy_bits


def test_minus_zeros_cost_and_can_be_cleared():
    grid = np.rint(np.random.default_rng(7).normal(size=(64, 64))).astype(np.float32) * np.float32(0.1)
    model = onnx_file({"w": grid})
    clean = plain_zeros(model, "onnx")
    (before,), (after,) = encode(model, "onnx").tensors, encode(clean, "onnx").tensors
    assert after.kind == "grid32" and after.bits < before.bits - 0.2


@given(st.lists(st.integers(-65535, 65535), min_size=1, max_size=50))
def test_levels_are_tokens_and_low_bits(levels: list[int]):
    tokens, widths, low = split(np.array(levels))
    least, wide = token_tables()
    assert (wide[tokens] == widths).all()
    assert (least[tokens] + np.where(np.array(levels) < 0, -low, low)).tolist() == levels


@given(st.binary(min_size=1, max_size=256))
def test_any_stored_table_is_whole(stored: bytes):
    logarithms = np.frombuffer(stored, np.uint8)
    if not logarithms.any():
        with pytest.raises(BundleError, match="without symbols"):
            frequencies(logarithms)
        return
    found = frequencies(logarithms)
    assert found.sum() == 4096 and (found[logarithms > 0] > 0).all() and (found[logarithms == 0] == 0).all()
    assert slots(0, found).shape == (4096,)


@settings(max_examples=10)
@given(seed=st.integers(0, 2**32), shape=st.lists(st.integers(1, 40), min_size=1, max_size=4), wide=st.integers(1, 90))
def test_any_shape_comes_back(seed: int, shape: list[int], wide: int):
    some = np.random.default_rng(seed)
    levels = np.rint(some.laplace(size=shape) * wide)
    model = onnx_file({"a": np.clip(levels, -127, 127).astype(np.int8), "b": (levels * 0.5).astype(np.float32)})
    assert read(encode(model, "onnx").content, len(model)) == model  # `encode` has compared already


def test_a_model_without_weights_and_a_damaged_one():
    model = onnx_file({})
    assert read(encode(model, "onnx").content, len(model)) == model
    with pytest.raises(InputError, match="damaged"):
        encode(b"\x3a\xff\xff\xff\xff\x0f", "onnx")
    with pytest.raises(InputError, match="no TFLite file"):
        encode(b"0123456789", "tflite")
    with pytest.raises(UsageError, match="wanted onnx or tflite"):
        encode(model, "null")


# ---------------------------------------------------------------- hostile files


def refused(content: bytes, size: int, said: str | None = None) -> None:
    """In words, and without taking more memory than the size that was declared allows."""
    tracemalloc.start()
    try:
        with pytest.raises(BundleError, match=said):
            read(content, size)
        assert tracemalloc.get_traced_memory()[1] < 2 * size + (24 << 20)
    finally:
        tracemalloc.stop()


def test_every_truncation_and_a_tail_are_refused(model: bytes, coded: bytes):
    for length in [*range(200), *random.Random(1).sample(range(len(coded)), 20)]:
        refused(coded[:length], len(model))
    refused(coded + b"\0", len(model), "something is behind")


def refused_or_right(content: bytes, model: bytes) -> None:
    """A byte that nothing reads (behind the skeleton in the lanes, a scale of zeros) may be any; the bundle's
    digest is over it too."""
    with contextlib.suppress(BundleError):
        assert read(content, len(model)) == model


def test_flipped_bits_are_refused(model: bytes, coded: bytes):
    some = random.Random(2)
    places = [*range(FIXED.size + SIZES.size), *(some.randrange(len(coded)) for _ in range(60))]
    for place in places:
        content = bytearray(coded)
        content[place] ^= 1 << some.randrange(8)
        refused_or_right(bytes(content), model)


def taken_apart(coded: bytes) -> tuple[list[Any], dict[str, bytes]]:
    """Header fields, and the sections unpacked (the skeleton stays packed)."""
    import lzma

    from edge_runtime.coded import filters

    numbers = SIZES.unpack_from(coded, FIXED.size)
    at, parts = FIXED.size + SIZES.size, {}
    for name, stored in zip(SECTIONS, numbers[1::2], strict=True):
        parts[name] = coded[at : at + stored]
        at += stored
        if name not in ("skeleton", "bits", "words") and parts[name]:
            parts[name] = lzma.decompress(parts[name], lzma.FORMAT_RAW, filters=filters())
    return list(FIXED.unpack_from(coded)), parts


def put_together(fields: list[Any], parts: dict[str, bytes], coded: bytes) -> bytes:
    import lzma

    from edge_runtime.coded import filters

    numbers, stored = [], []
    for place, name in enumerate(SECTIONS):
        packed = parts[name]
        size = SIZES.unpack_from(coded, FIXED.size)[2 * place] if name == "skeleton" else len(parts[name])
        if name not in ("skeleton", "bits", "words") and packed:
            packed = lzma.compress(parts[name], lzma.FORMAT_RAW, filters=filters())
        numbers += [size, len(packed)]
        stored.append(packed)
    return FIXED.pack(*fields) + SIZES.pack(*numbers) + b"".join(stored)


def test_taken_apart_and_put_together_it_is_the_same(model: bytes, coded: bytes):
    assert put_together(*taken_apart(coded), coded) == coded


@pytest.mark.parametrize("section", ["ranges", "classes", "maps", "tables", "values"])
def test_lies_inside_packed_sections_are_refused(section: str, model: bytes, coded: bytes):
    """Valid LZMA around wrong contents: what a checksum on the outside would not stop."""
    some = random.Random(section)
    for _ in range(20):
        fields, parts = taken_apart(coded)
        content = bytearray(parts[section])
        for _ in range(some.randrange(1, 4)):
            content[some.randrange(len(content))] = some.choice([0, 1, 127, 128, 255, some.randrange(256)])
        refused_or_right(put_together(fields, parts | {section: bytes(content)}, coded), model)
        short = parts[section][: some.randrange(len(content))]
        refused(put_together(fields, parts | {section: short}, coded), len(model))


@settings(max_examples=40)
@given(place=st.integers(0, 5), field=st.integers(0, 14), value=st.sampled_from([0, 1, 255, 65535, 2**31 - 1]))
def test_any_lying_range_is_refused_or_harmless(place: int, field: int, value: int, model: bytes, coded: bytes):
    fields, parts = taken_apart(coded)
    ranges = [list(one) for one in RANGE.iter_unpack(parts["ranges"])]
    lying = ranges[place]
    before = lying[field]
    lying[field] = min(value, 255) if RANGE.format.lstrip("<")[field] == "B" else min(value, 2**31 - 1)
    if RANGE.format.lstrip("<")[field] == "H":
        lying[field] = min(value, 65535)
    if lying[field] != before:
        content = put_together(fields, parts | {"ranges": b"".join(RANGE.pack(*one) for one in ranges)}, coded)
        refused_or_right(content, model)


def test_bombs_are_refused_before_they_go_off(model: bytes, coded: bytes):
    fields, parts = taken_apart(coded)
    refused(put_together(fields, parts | {"tables": bytes(50 << 20)}, coded), len(model), "more than the model file")
    refused(put_together(fields, parts | {"ranges": bytes(RANGE.size) * 9000}, coded), len(model))
    huge = bytearray(coded)
    struct.pack_into("<Q", huge, 12, 1 << 40)
    refused(bytes(huge), len(model), "found 1099511627776 bytes")


def test_a_file_of_endless_small_steps_is_refused():
    """A million weights, a step for each: minutes of work in 200 bytes."""
    model = onnx_file({"w": np.zeros((1000, 1000), np.int8)})
    content = encode(model, "onnx").content
    fields, parts = taken_apart(content)
    (only,) = (list(one) for one in RANGE.iter_unpack(parts["ranges"]))
    only[2:6] = [1_000_000, 1, 1, 1]
    lying = put_together(fields, parts | {"ranges": RANGE.pack(*only)}, content)
    refused(lying, len(model), "wanted fewer")


# ---------------------------------------------------------------- in a bundle


def test_a_bundle_with_a_coded_file(model: bytes, coded: bytes, tmp_path: Path):
    decoded = Decoded(len(model), sha256(model).hexdigest())
    files = {"m.onnx": coded, "card.md": b"# card"}
    variant = {**header()["variants"][0], "format": "onnx", "file": "m.onnx"}
    found = pack(header(variants=[variant]), files, tmp_path / "b.edge", {"m.onnx": decoded})
    assert found.path.read_bytes()[8] == 2
    found.verify()
    file = found.file("m.onnx")
    assert found.read(file) == model
    assert (file.size, file.read_bytes) == (len(coded), len(model))
    assert found.to_json()["variants"][0]["coded"] == {"size": len(model), "sha256": decoded.sha256}
    for lie, said in ((decoded._replace(size=9), "wanted 9"), (decoded._replace(sha256="0" * 64), "SHA-256 differ")):
        lying = pack(header(variants=[variant]), files, tmp_path / "lie.edge", {"m.onnx": lie})
        with pytest.raises(BundleError, match=f"lie.edge: m.onnx: .*{said}"):
            lying.read(lying.file("m.onnx"))


def test_versions_and_coded_files_go_together(model: bytes, coded: bytes, tmp_path: Path):
    import hashlib

    plain = pack(header(), {"m.null": b"{}", "card.md": b""}, tmp_path / "b.edge").path.read_bytes()
    assert plain[8] == 1
    for version, more, said in ((2, {}, "no file in it is coded"), (1, {"coded": {}}, "object of name, size, sha256")):
        listed = [{"name": "m.null", "size": 0, "sha256": hashlib.sha256(b"").hexdigest(), **more}]
        text = json.dumps(header(files=listed)).encode()
        fixed = struct.pack("<8sII32s", b"EDGEBNDL", version, len(text), hashlib.sha256(text).digest())
        (tmp_path / "c.edge").write_bytes(fixed + text + bytes(-(48 + len(text)) % 64))
        with pytest.raises(BundleError, match=said):
            load_bundle(tmp_path / "c.edge")


def test_pack_codes_a_variant_and_the_engines_read_it(models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    import onnx

    manifest = json.loads((models / "bundle.json").read_text())
    manifest["variants"] = [{**one, "coding": "entropy"} for one in manifest["variants"][:3]]
    wordy = onnx.load(str(models / "fp32.onnx"))
    wordy.doc_string = "means " * 1000
    contents = {"fp32.onnx": wordy.SerializeToString(), "int8.tflite": (models / "int8.tflite").read_bytes()}
    contents["fp32.tflite"] = (models / "fp32.tflite").read_bytes() + bytes(4096)
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "bundle.json").write_text(json.dumps(manifest))
    bundle = pack_folder(tmp_path, tmp_path / "coded.edge", for_bundle)
    assert all(bundle.read(one.file) == contents[one.file.name] for one in bundle.variants)
    assert [bool(one.file.coded) for one in bundle.variants[:2]] == [True, True]
    cost = predict_cost(bundle, bundle.variants[0], "onnxruntime", "aarch64")
    assert cost.storage_bytes == bundle.size and cost.ram_bytes > WORK_BYTES
    red = picture(tmp_path / "red.png", (250, 10, 10))
    for engine in ("onnxruntime", "litert"):
        with open_session(bundle, small_device(), engine=engine) as session:
            assert session.predict(red).fields["labels"][0]["label"] == "red"
    assert main(["inspect", str(bundle.path)]) == 0
    size = format_bytes(bundle.variants[0].file.read_bytes)
    assert f"entropy-coded, {size} decoded" in capsys.readouterr().out


@pytest.mark.parametrize("coding", ["zip", 1, None])
def test_pack_refuses_another_coding(coding: object, models: Path, tmp_path: Path):
    manifest = json.loads((models / "bundle.json").read_text())
    manifest["variants"][0]["coding"] = coding
    (tmp_path / "bundle.json").write_text(json.dumps(manifest))
    with pytest.raises(BundleError, match='wanted "entropy", of onnx or tflite'):
        pack_folder(tmp_path, tmp_path / "coded.edge", for_bundle)
