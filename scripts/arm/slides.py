"""Cells cut out of a rendered field, black around them as in the published ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

Box = tuple[int, int, int, int]  # x, y, width, height in pixels


def cut_cells(field: Path, boxes: Iterable[Box]) -> Iterator[Image.Image]:
    from PIL import Image, ImageDraw

    with Image.open(field) as image:
        image.load()
    for x, y, width, height in boxes:
        mask = Image.new("L", (width, height))
        ImageDraw.Draw(mask).ellipse((1, 1, width - 2, height - 2), fill=255)
        cell = Image.new("RGB", (width, height))
        cell.paste(image.crop((x, y, x + width, y + height)), mask=mask)
        yield cell
