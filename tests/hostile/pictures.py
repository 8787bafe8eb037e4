"""Images: damaged, truncated, lying about their size, and every kind that is seldom seen; and what stands in a slide's
folder that is no image at all."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from edge_runtime.items import Item, find_items
from edge_runtime.task.pictures import Preprocessing, as_pixels, load_image
from tests.conftest import PREPROCESSING
from tests.hostile.damage import NUMBERS, spoil

FORMATS = ("png", "jpeg", "bmp", "tiff", "webp", "gif", "ico", "ppm", "tga", "dds", "pcx", "sgi")
MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "I;16")


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int, height: int, body: bytes, *extra: bytes, depth: int = 8, colour: int = 2) -> bytes:
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(extra) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def image_bytes(format_: str, mode: str = "RGB", **settings: Any) -> bytes | None:
    """None where there is no such thing."""
    picture: Any = Image.effect_noise((48, 40), 60).convert("RGB")
    ImageDraw.Draw(picture).ellipse((8, 8, 30, 30), fill=(200, 40, 90))
    try:
        made = (
            Image.fromarray(np.arange(1920, dtype=np.uint16).reshape(40, 48))
            if mode == "I;16"
            else picture.convert(mode)
        )
        stream = io.BytesIO()
        made.save(stream, format_, **settings)
    except (OSError, ValueError, KeyError):
        return None
    return stream.getvalue()


def pictures(seeds: range) -> Iterator[tuple[str, bytes]]:
    good = {f"{one} {mode}": image_bytes(one, mode) for one in FORMATS for mode in MODES}
    whole = {name: content for name, content in good.items() if content}
    yield from whole.items()
    readable = [name for name in whole if name.split()[0] in ("png", "jpeg", "bmp", "tiff", "webp")]
    for seed in seeds:
        random = Random(f"picture {seed}")
        name = random.choice(readable)
        how, content = spoil(random, whole[name])
        yield f"{seed} {name} {how}", content
    yield from _sizes(whole["jpeg RGB"], whole["bmp RGB"], whole["tiff RGB"])
    yield from _parts(seeds)


def _sizes(jpeg: bytes, bmp: bytes, tiff: bytes) -> Iterator[tuple[str, bytes]]:
    """Headers that state what is not there."""
    for width in (0, 1, 4_999, 5_001, 20_000, 2**31 - 1, 2**32 - 1):
        for height in (0, 1, 5_000, 2**31 - 1):
            yield f"png of {width} x {height}", png(width, height, zlib.compress(bytes(99)))
    at = jpeg.index(b"\xff\xc0") + 5
    for size in ((0, 0), (65_535, 65_535), (1, 65_535), (65_535, 1), (14_000, 14_000)):
        yield f"jpeg of {size}", jpeg[:at] + struct.pack(">HH", *size) + jpeg[at + 4 :]
    for number in NUMBERS:
        yield f"bmp of {number}", bmp[:18] + struct.pack("<I", number % 2**32) + bmp[22:]
        yield f"bmp at {number}", bmp[:10] + struct.pack("<I", number % 2**32) + bmp[14:]
        yield f"tiff at {number}", tiff[:4] + struct.pack("<I", number % 2**32) + tiff[8:]
    for depth in (0, 1, 2, 3, 16, 255):
        for colour in (0, 1, 3, 4, 6, 7):
            yield (
                f"png depth {depth} colour {colour}",
                png(32, 32, zlib.compress(bytes(9999)), depth=depth, colour=colour),
            )


def _parts(seeds: range) -> Iterator[tuple[str, bytes]]:
    bomb = zlib.compress(bytes(64 << 20), 9)
    pixels = zlib.compress(bytes(3 * 33 * 32))
    yield "png bomb in its pixels", png(32, 32, bomb)
    for kind in (b"zTXt", b"iTXt", b"iCCP"):
        head = {b"zTXt": b"x\0\0", b"iTXt": b"x\0\1\0\0\0", b"iCCP": b"x\0\0"}[kind]
        yield f"png bomb in {kind.decode()}", png(32, 32, pixels, chunk(kind, head + bomb))
    yield "png of many texts", png(32, 32, pixels, *[chunk(b"tEXt", b"k\0" + b"v" * 5000)] * 2000)
    yield "png without end", png(32, 32, pixels)[:-12]
    yield "png in 500 parts", png(32, 32, b"", *[chunk(b"IDAT", pixels[n : n + 1]) for n in range(len(pixels))])
    frames = [Image.new("RGB", (16, 16), (n, 0, 0)) for n in range(50)]
    for format_ in ("png", "gif", "webp", "tiff"):
        stream = io.BytesIO()
        frames[0].save(stream, format_, save_all=True, append_images=frames[1:])
        yield f"animated {format_}", stream.getvalue()
    for seed in seeds[:40]:
        random = Random(f"exif {seed}")
        exif = Image.Exif()
        exif[0x0112] = random.choice((1, 6, 8, 0, 9, 65_535))
        content = exif.tobytes()
        nonsense = spoil(random, content)[1] if seed % 4 else content
        if made := image_bytes("jpeg", exif=nonsense[:60_000]):
            yield f"exif {seed}", made
    yield from {
        "svg": b"<svg xmlns='http://www.w3.org/2000/svg'><image href='file:///etc/passwd'/></svg>",
        "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) (r) file\n",
        "pdf": b"%PDF-1.4\n",
        "html": b"<html>",
        "zip": b"PK\3\4" + bytes(99),
        "elf": b"\x7fELF" + bytes(99),
        "one byte": b"\xff",
        "jpeg start": b"\xff\xd8",
    }.items()
    large = Image.new("RGB", (5_000, 5_000))
    for format_ in ("png", "jpeg"):
        stream = io.BytesIO()
        large.save(stream, format_)
        yield f"25 million pixels in {len(stream.getvalue()) >> 10} KiB of {format_}", stream.getvalue()


def read_picture(content: bytes, path: Path) -> None:
    """As the tasks do: the image task upright, the slide task reduced."""
    path.write_bytes(content)
    preprocessing = Preprocessing.from_json(PREPROCESSING, "x")
    for one in Item(path.name, (path,)).contents():
        picture = load_image(one.path, one.content, upright=True)
        assert picture.mode == "RGB"
        assert preprocessing.fit_size(picture).shape == (8, 8, 3)
        if picture.width * picture.height < 1 << 20:
            assert as_pixels(load_image(one.path, one.content, draft_side=16)).ndim == 3


# ---------------------------------------------------------------- folders


def folders(top: Path) -> Iterator[tuple[str, Path]]:
    """Slides with things in them that are no image."""
    real = image_bytes("png") or b""

    def slide(name: str) -> Path:
        folder = top / name
        folder.mkdir()
        (folder / "a.png").write_bytes(real)
        return folder

    makers: dict[str, Callable[[Path], Any]] = {
        "fifo": os.mkfifo,
        "folder": Path.mkdir,
        "dangling link": lambda path: path.symlink_to("nowhere"),
        "link to itself": lambda path: path.symlink_to(path.name),
        "link to its folder": lambda path: path.symlink_to("."),
        "link to a fifo": lambda path: (os.mkfifo(path.with_name("pipe")), path.symlink_to("pipe")),
        "link to zero": lambda path: path.symlink_to("/dev/zero"),
        "link to null": lambda path: path.symlink_to("/dev/null"),
        "link to the kernel": lambda path: path.symlink_to("/proc/self/environ"),
        "link to memory": lambda path: path.symlink_to("/proc/self/mem"),
        "link to a terminal": lambda path: path.symlink_to("/dev/tty"),
        "empty": Path.touch,
        "sparse": lambda path: (path.touch(), os.truncate(path, 1 << 40)),
        "socket": _socket,
    }
    for name, make in makers.items():
        make(slide(name) / "b.png")
        yield f"slide with {name}", top / name
        yield f"{name} alone", top / name / "b.png"
    odd = slide("names")
    for name in (
        b"\xff\xfe.png",
        b"new\nline.png",
        b"\x1b[31m.png",
        b"-rf.png",
        b" .png",
        ("n" * 251).encode() + b".png",
    ):
        (Path(os.fsdecode(os.path.join(os.fsencode(odd), name)))).write_bytes(real)
    yield "odd names", odd
    deep = slide("deep")
    for _ in range(60):
        deep = deep / "d"
        deep.mkdir()
    yield "deep", top / "deep"


def _socket(path: Path) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as made:
        here = os.open(path.parent, os.O_RDONLY)
        try:  # a socket's name has room for 108 bytes
            made.bind(f"/proc/self/fd/{here}/{path.name}")
        finally:
            os.close(here)


def read_folder(path: Path) -> None:
    for item in find_items([path]):
        item.digest()
        for one in item.contents():
            load_image(one.path, one.content)
