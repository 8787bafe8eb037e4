"""Tensors, items and images: what fits, what is found, and how what does not fit is refused."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from edge_runtime.errors import BundleError, InputError, UsageError
from edge_runtime.items import MAX_IMAGES, Item, find_items
from edge_runtime.task.pictures import MAX_PIXELS, Preprocessing, as_pixels, load_image
from edge_runtime.tensors import TensorSpec, dequantize, fit, quantize
from tests.conftest import PREPROCESSING, picture

# ---------------------------------------------------------------- tensors

INT8 = TensorSpec("x", (2,), "int8", 0.5, 3)


@given(st.lists(st.floats(-60, 60), min_size=2, max_size=2))
def test_quantizing_and_back_is_off_by_half_a_step_at_most(values: list[float]):
    assert np.abs(dequantize(quantize(np.array(values), INT8), INT8) - values).max() <= 0.25 + 1e-6


def test_quantizing_clips():
    assert quantize(np.array([1e9, -1e9]), INT8).tolist() == [127, -128]


@pytest.mark.parametrize(
    ("array", "spec", "wanted"),
    [
        ([1, 2], TensorSpec("x", (2,), "float32"), "float32"),
        ([1.5, 2.5], INT8, "int8"),
        ([1, 2], TensorSpec("x", (None,), "int64"), "int64"),
        ([True, False], TensorSpec("x", (2,), "uint8"), "uint8"),
        (["a", "b"], TensorSpec("x", (2,), "string"), "object"),
    ],
)
def test_arrays_are_cast_to_fit(array: object, spec: TensorSpec, wanted: str):
    assert fit(array, spec).dtype == wanted


@pytest.mark.parametrize(
    ("array", "spec", "said"),
    [
        ([1.0], INT8, "found shape \\[1\\], wanted x int8\\[2\\]"),
        ([np.nan, 0.0], INT8, "NaN"),
        ([300, 0], TensorSpec("x", (2,), "uint8"), "cannot hold"),
        ([1.5, 2.0], TensorSpec("x", (2,), "int32"), "no scale"),
        (["a", "b"], INT8, "array of numbers"),
        ([1, 2], TensorSpec("x", (2,), "string"), "wanted strings"),
        (["a", None], TensorSpec("x", (2,), "string"), "wanted strings"),
        ([2, 0], TensorSpec("x", (2,), "bool"), "cannot hold"),
        ([1e9, 0.0], TensorSpec("x", (2,), "float16"), "cannot hold"),
        ([1, 2], TensorSpec("x", (2,), "bfloat16"), "wanted bfloat16"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_in_words(array: object, spec: TensorSpec, said: str):
    with pytest.raises(InputError, match=said):
        fit(array, spec)


# ---------------------------------------------------------------- items


@pytest.fixture
def slides(tmp_path: Path) -> Path:
    for name in ("a/C1_1.png", "a/C1_2.png", "b/C2_1.JPG", "b/notes.txt", "b/._C2_1.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    return tmp_path


def test_folders_of_folders_are_slides_and_other_files_are_passed_over(slides: Path):
    assert [Path(item.name).name for item in find_items([slides])] == ["a", "b"]
    assert [path.name for path in Item("b", (slides / "b",)).images()] == ["C2_1.JPG"]
    assert [item.name for item in find_items([slides / "a" / "C1_1.png"])] == [str(slides / "a" / "C1_1.png")]


def test_images_beside_folders_of_images_are_a_question_and_not_a_guess(slides: Path):
    (slides / "preview.png").write_bytes(b"x")
    with pytest.raises(InputError, match="beside folders of images"):
        find_items([slides])
    (slides / "deep" / "day1").mkdir(parents=True)
    with pytest.raises(InputError, match="found no image"):
        Item("x", (slides / "deep",)).images()


def test_slides_by_the_names_of_their_images(slides: Path):
    found = list(find_items([slides], r"^(C\d+)_"))
    assert [(item.name, len(item.paths)) for item in found] == [("C1", 2), ("C2", 1)]
    with pytest.raises(UsageError, match="wanted a regular expression"):
        list(find_items([slides], "("))
    with pytest.raises(InputError, match="found no image whose name matches"):
        list(find_items([slides], "Z"))


def test_a_digest_is_of_names_and_contents_and_not_of_place_or_time(
    slides: Path, tmp_path_factory: pytest.TempPathFactory
):
    first = Item("a", (slides / "a",))
    before, mark = first.digest(), first.fingerprint()
    copy = tmp_path_factory.mktemp("copy")
    for path in (slides / "a").iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    os.utime(slides / "a" / "C1_1.png", (1, 1))
    assert Item("x", (copy,)).digest() == first.digest() == before
    assert first.fingerprint() != mark
    (slides / "a" / "C1_1.png").write_bytes(b"y")
    assert first.digest() != before


def test_a_folder_with_far_too_many_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("edge_runtime.items.MAX_IMAGES", 3)
    for number in range(5):
        (tmp_path / f"{number}.png").write_bytes(b"")
    with pytest.raises(InputError, match="more than 3 images"):
        Item("x", (tmp_path,)).images()
    assert MAX_IMAGES == 50_000


# ---------------------------------------------------------------- images


def png_of_size(width: int, height: int) -> bytes:
    """A PNG whose header states a size that its data does not have."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(99))) + chunk(b"IEND", b"")


def load(path: Path, **options: Any) -> Image.Image:
    """Read and decode, as a task does."""
    (found,) = Item(path.name, (path,)).contents()
    return load_image(found.path, found.content, **options)


def good_png() -> bytes:
    stream = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(stream, "png")
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "found 0 bytes"),
        (b"hello", "wanted an image"),
        (good_png()[:-900], "truncated|damaged"),
        (png_of_size(0, 0), "bad.png"),
        (png_of_size(20_000, 20_000), "found 20000 x 20000 pixels"),
        (png_of_size(6_000, 6_000), "wanted at most 25 million"),
        (png_of_size(2**31 - 1, 1), "pixels"),
        (b"GIF89a" + bytes(90), "wanted an image"),
    ],
)
def test_bad_images_get_one_clear_error(content: bytes, said: str, tmp_path: Path):
    (tmp_path / "bad.png").write_bytes(content)
    with pytest.raises(InputError, match=said):
        load(tmp_path / "bad.png")
    with pytest.raises(InputError, match="found nothing there"):
        load(tmp_path / "none.png")
    assert MAX_PIXELS == 25_000_000


@given(place=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255))
def test_damage_is_an_image_or_our_error(place: float, value: int, tmp_path_factory: pytest.TempPathFactory):
    path = tmp_path_factory.getbasetemp() / "damaged.png"
    content = bytearray(good_png())
    content[int(place * len(content))] = value
    path.write_bytes(content)
    with contextlib.suppress(InputError):
        assert load(path).mode == "RGB"


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16", "F"])
def test_every_kind_of_pixel_becomes_rgb(mode: str, tmp_path: Path):
    level = 255 if mode == "1" else 200  # black and white is dithered
    grey = Image.new("L", (5, 4), level)
    image = Image.fromarray(np.full((4, 5), 200 * 257, np.uint16)) if mode == "I;16" else grey.convert(mode)
    image.save(tmp_path / "x.tif")
    found = as_pixels(load(tmp_path / "x.tif"))
    assert found.shape == (4, 5, 3)
    assert found.dtype == np.uint8
    assert abs(int(found.mean()) - level) <= 1


def test_large_jpegs_are_decoded_small(tmp_path: Path):
    picture(tmp_path / "x.jpg", (10, 200, 30), (3000, 2000))
    assert load(tmp_path / "x.jpg", draft_side=800).size == (1500, 1000)
    picture(tmp_path / "x.png", (10, 200, 30), (3000, 2000))
    assert load(tmp_path / "x.png", draft_side=800).size == (1000, 667)
    assert load(tmp_path / "x.png").size == (3000, 2000)


@pytest.mark.parametrize("shape", [(1, 3, 8, 8), (None, 8, 8, 3)])
@pytest.mark.parametrize("quantized", [False, True])
def test_pixels_become_the_input_that_the_tensor_wants(shape: tuple[int | None, ...], quantized: bool):
    plain = {**PREPROCESSING, "mean": [0.5, 0.25, 0.0], "std": [0.5, 1.0, 2.0]}
    spec = TensorSpec("image", shape, "int8", 0.01, 5) if quantized else TensorSpec("image", shape, "float32")
    pixels = np.random.default_rng(1).integers(0, 256, (8, 8, 3), np.uint8)
    found = Preprocessing.from_json(plain, "x").tensor(pixels, spec)
    real = (pixels / 255 - [0.5, 0.25, 0.0]) / [0.5, 1.0, 2.0]
    real = real[None] if shape[-1] == 3 else real.transpose(2, 0, 1)[None]
    wanted = quantize(real, spec) if quantized else real
    np.testing.assert_allclose(found, wanted, atol=1.01 if quantized else 1e-6)
    assert found.dtype == spec.dtype


@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
@given(height=st.integers(1, 40), width=st.integers(1, 40))
def test_any_size_becomes_the_wanted_size(resize: str, height: int, width: int):
    preprocessing = Preprocessing.from_json({**PREPROCESSING, "resize": resize}, "x")
    assert preprocessing.fit_size(Image.new("RGB", (width, height))).shape == (8, 8, 3)


@pytest.mark.parametrize(
    "changes", [{"size": [0, 8]}, {"size": 8}, {"std": [0, 1, 1]}, {"mean": [1]}, {"resize": "x"}, {"more": 1}]
)
def test_bad_preprocessing_is_refused(changes: dict[str, object]):
    with pytest.raises(BundleError, match="preprocessing"):
        Preprocessing.from_json({**PREPROCESSING, **changes}, "b.edge")
