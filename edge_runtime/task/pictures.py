"""Image files to arrays, and arrays to a model's input, as the bundle's `preprocessing` says.

preprocessing = {"size": [height, width], "resize": "stretch" | "pad" | "crop", "mean": [r, g, b], "std": [r, g, b]}
with mean and std on the 0..1 scale. The layout (channels first or last), dtype and quantization are the input
tensor's own: the same image serves every variant.
"""

from __future__ import annotations

import io
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_runtime.errors import BundleError, InputError
from edge_runtime.task.cells import square_image
from edge_runtime.tensors import quantize

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL.Image import Image

    from edge_runtime.tensors import Array, TensorSpec

    Pixels = NDArray[np.uint8]

# Phones give 8 to 48 megapixels. A picture is decoded whole, 3 bytes a pixel, and that must fit small budgets.
MAX_PIXELS = 25_000_000
# Before a JPEG is reduced while it is decoded.
MAX_STATED_PIXELS = 200_000_000
_ORIENTATION = 0x0112  # the EXIF tag
_DECODERS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")


class Clock:
    """Seconds spent inside `with clock`."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds += time.perf_counter() - self._start


# How long an item's own thread waits for its images, read and decoded: a part of a task's time that benchmarks show.
DECODING = Clock()


def load_image(path: Path, content: bytes, *, draft_side: int | None = None, upright: bool = False) -> Image:
    """The bytes of an image file as a Pillow image in mode RGB, decoded; `path` is for the words of errors.

    From memory: a file that a camera is still writing must not change under the decoder.

    `draft_side`: what is larger than twice that is reduced to between that and its double, a JPEG while it is being
    decoded, which saves memory and time. `upright`: turn as the EXIF orientation says.
    Raises InputError: not an image, truncated, or too large (judged by its header, before decoding).
    """
    from PIL import Image

    if upright:
        from PIL import ImageOps
    Image.MAX_IMAGE_PIXELS = None  # our own limit below is lower, and says what was found
    try:
        with Image.open(io.BytesIO(content), formats=_DECODERS) as image:
            stated = image.width * image.height
            if not 1 <= stated <= MAX_STATED_PIXELS:
                raise InputError(
                    f"{path}: found {image.width} x {image.height} pixels, "
                    f"wanted at most {MAX_STATED_PIXELS // 10**6} million"
                )
            times = max(image.size) // draft_side if draft_side else 1
            if times > 1:  # the decoder of JPEG can give a half, a quarter or an eighth
                image.draft("RGB", (image.width // times, image.height // times))
            width, height = image.size
            if not 1 <= width * height <= MAX_PIXELS:
                raise InputError(
                    f"{path}: found {width} x {height} pixels, wanted at most {MAX_PIXELS // 10**6} million"
                )
            image.load()
            # asked for first: it copies even what stands upright, and Debian 12's Pillow cannot be told not to
            turned = upright and image.getexif().get(_ORIENTATION, 1) != 1
            rgb = _as_rgb(ImageOps.exif_transpose(image) if turned else image)
            times = max(rgb.size) // draft_side if draft_side else 1
            return rgb.reduce(times) if times > 1 else rgb
    except InputError:
        raise
    except MemoryError:
        raise
    except OSError as error:
        found = error.strerror or str(error).replace("<_io.BytesIO object at ", "<").split(" <")[0]
        if "broken data stream" in found:  # what the decoder of progressive JPEG says for want of memory, too
            found += " (or one too large for the memory allowed)"
        raise InputError(f"{path}: {found}, wanted an image ({', '.join(_DECODERS)})") from error
    except Exception as error:  # decoders raise SyntaxError, ValueError, struct.error and their own on damaged files
        raise InputError(f"{path}: damaged image: {type(error).__name__}: {error}") from error


def as_pixels(image: Image) -> Pixels:
    """A Pillow image (RGB) as uint8 (height, width, 3), in bands: numpy's own conversion holds two more copies."""
    import numpy as np

    pixels = np.empty((image.height, image.width, 3), np.uint8)
    for top in range(0, image.height, 128):
        bottom = min(top + 128, image.height)
        pixels[top:bottom] = np.asarray(image.crop((0, top, image.width, bottom)))
    return pixels


def _as_rgb(image: Image) -> Image:
    import numpy as np
    from PIL import Image

    if image.mode in ("I;16", "I", "F"):  # more than 8 bits grey: convert() would clip instead of scale
        grey = np.asarray(image, np.float32)
        top = 65535.0 if grey.max(initial=0) > 255 else 255.0
        image = Image.fromarray((grey * (255 / top)).clip(0, 255).astype(np.uint8))
    return image if image.mode == "RGB" else image.convert("RGB")


@dataclass(frozen=True)
class Preprocessing:
    size: tuple[int, int]
    resize: str
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def from_json(cls, plain: Mapping[str, Any], where: str) -> Preprocessing:
        """Raises BundleError naming the field, what was found and what was wanted."""
        wanted = {"size", "resize", "mean", "std"}
        if set(plain) != wanted:
            raise BundleError(f"{where}: preprocessing: found {sorted(plain)}, wanted {sorted(wanted)}")
        try:
            height, width = (int(side) for side in plain["size"])
            mean, std = (tuple(float(one) for one in plain[key]) for key in ("mean", "std"))
        except (TypeError, ValueError) as error:
            raise BundleError(f"{where}: preprocessing: {error}") from error
        resize = plain["resize"]
        good = len(mean) == len(std) == 3 and all(std) and min(height, width) >= 1 and max(height, width) <= 4096
        if not good or resize not in ("stretch", "pad", "crop") or (resize == "pad" and height != width):
            raise BundleError(
                f"{where}: preprocessing: found {dict(plain)}, wanted size of 1 to 4096, resize stretch, crop or "
                "(to a square) pad, and three numbers each in mean and std (no zero)"
            )
        return cls((height, width), plain["resize"], mean, std)

    def shape(self, spec: TensorSpec) -> str | None:
        """Which layout `spec` has for this size: "nchw", "nhwc" or None where it is neither."""
        height, width = self.size
        if len(spec.shape) == 4 and spec.shape[0] in (None, 1):
            for layout, wanted in (("nchw", (3, height, width)), ("nhwc", (height, width, 3))):
                if all(found in (None, size) for found, size in zip(spec.shape[1:], wanted, strict=True)):
                    return layout
        return None

    def check(self, inputs: tuple[TensorSpec, ...], where: str) -> None:
        """Raises BundleError where the model does not take one image of this size."""
        if len(inputs) != 1 or self.shape(inputs[0]) is None:
            raise BundleError(
                f"{where}: found inputs {', '.join(map(str, inputs))}, wanted one image of 3 channels and "
                f"{self.size[0]} x {self.size[1]} pixels, as the preprocessing says"
            )

    def fit_size(self, picture: Image) -> Pixels:
        """A Pillow image (RGB) of any size -> uint8 (height, width, 3)."""
        import numpy as np
        from PIL import Image

        height, width = self.size
        if self.resize == "pad":
            return square_image(picture, height)
        if self.resize == "crop":
            factor = max(height / picture.height, width / picture.width)
            # the part of the picture that fills the size, in the picture's own pixels
            part_w, part_h = width / factor, height / factor
            left, top = (picture.width - part_w) / 2, (picture.height - part_h) / 2
            box = (max(left, 0), max(top, 0), min(left + part_w, picture.width), min(top + part_h, picture.height))
            return np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR, box))
        return np.asarray(picture.resize((width, height), Image.Resampling.BILINEAR))

    def tensor(self, pixels: Pixels, spec: TensorSpec) -> Array:
        """uint8 (height, width, 3) -> (1, ...) as `spec` wants it. One look-up a channel: normalizing, quantizing and
        casting are functions of a byte, so 256 answers are worked out once."""
        import numpy as np

        first, tables = self._tables(spec)
        if first:
            pixels = pixels.transpose(2, 0, 1)
        if len(tables) == 1:
            return tables[0].take(pixels)[None]
        channels = [
            table.take(pixels[channel] if first else pixels[..., channel]) for channel, table in enumerate(tables)
        ]
        return np.stack(channels, axis=0 if first else 2)[None]

    @cached_property
    def _known(self) -> dict[TensorSpec, tuple[bool, tuple[Array, ...]]]:
        return {}

    def _tables(self, spec: TensorSpec) -> tuple[bool, tuple[Array, ...]]:
        """Whether channels come first, and a table of 256 values for each, or one where they are alike."""
        import numpy as np

        if spec not in self._known:
            made = []
            for mean, std in self._channels[:1] if self._grey else self._channels:
                real = (np.arange(256, dtype=np.float32) / np.float32(255) - np.float32(mean)) / np.float32(std)
                made.append(quantize(real, spec) if spec.scale is not None else real.astype(spec.dtype))
            self._known[spec] = self.shape(spec) == "nchw", tuple(made)
        return self._known[spec]

    @property
    def _channels(self) -> list[tuple[float, float]]:
        return list(zip(self.mean, self.std, strict=True))

    @property
    def _grey(self) -> bool:
        return len(set(self._channels)) == 1
