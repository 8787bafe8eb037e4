"""A phantom slide: drawn fields of a stained thin film with a known number of infected cells.

It proves the path, not the clinic: that decoding, segmenting, classifying and deciding still give the known answer on
this device today, as a laboratory's control slide does. How well real parasites are found is measured on real slides
only, and no figure obtained on a phantom says anything about that.

The look imitates Giemsa-stained films photographed through an eyepiece with a phone, as in the cells published by NLM
(Rajaraman et al., PeerJ 6:e4568, 2018): cream background, rose cells about 125 pixels wide with a soft uneven outline
and little central pallor, *P. falciparum* rings with a dark chromatin dot. Colours were measured on those cells; no
pixel of them is in here. Everything is drawn by one seeded generator: the same settings give the same pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edge_runtime.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Canvas = NDArray[np.float32]

Box = tuple[int, int, int, int]
Colour = tuple[float, float, float]

BACKGROUND: Colour = (224, 186, 168)
CELL: Colour = (200, 148, 150)
CHROMATIN: Colour = (142, 22, 104)
CYTOPLASM: Colour = (188, 92, 138)
PLATELET: Colour = (176, 104, 160)


@dataclass(frozen=True)
class Phantom:
    """Settings of a slide. The last four spoil it, for tests of what must be refused."""

    cells: int = 1000
    infected: int = 20
    seed: int = 1
    size: tuple[int, int] = (1280, 960)  # width and height of a field in pixels
    cells_per_field: int = 44
    diameter: float = 124.0  # of the mean cell, in pixels
    blur: float = 0.0  # standard deviation in pixels of defocus, beside the mild blur of an eyepiece
    exposure: float = 1.0  # factor on brightness
    saturation: float = 1.0  # 0 is grey: a faded stain, or a camera's white balance gone wrong
    empty: bool = False  # background only


@dataclass(frozen=True)
class Truth:
    """What is known of a field or a slide. Boxes are x, y, width, height in pixels of their field."""

    infected_boxes: tuple[Box, ...] = ()
    clean_boxes: tuple[Box, ...] = ()
    files: tuple[str, ...] = ()

    @property
    def cells(self) -> int:
        return len(self.infected_boxes) + len(self.clean_boxes)

    @property
    def infected(self) -> int:
        return len(self.infected_boxes)


def write_slide(folder: Path | str, settings: Phantom | None = None, *, suffix: str = ".png") -> Truth:
    """Draw a slide's fields into a folder (made if missing) as field_001.png ... or .jpg, and say what is on them."""
    import numpy as np
    from PIL import Image

    settings = settings or Phantom()
    _check(settings)
    if suffix not in (".png", ".jpg"):
        raise UsageError(f"a phantom is written as .png or .jpg; got {suffix!r}")
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"{folder}: {error.strerror}, wanted a folder to write to") from error
    fields = max(1, -(-settings.cells // settings.cells_per_field))
    rng = np.random.Generator(np.random.PCG64([settings.seed, 0]))
    where = rng.permutation(np.arange(settings.cells) % fields)
    cells = np.bincount(where, minlength=fields)
    infected = np.bincount(where[: settings.infected], minlength=fields)
    parts = []
    for index in range(fields):
        field = replace(settings, cells=int(cells[index]), infected=int(infected[index]))
        pixels, truth = render_field(field, index + 1)
        name = f"field_{index + 1:03d}{suffix}"
        if suffix == ".jpg":
            Image.fromarray(pixels).save(folder / name, quality=95, subsampling=0)
        else:
            Image.fromarray(pixels).save(folder / name, compress_level=1)
        parts.append(replace(truth, files=(name,)))
    return Truth(
        tuple(box for part in parts for box in part.infected_boxes),
        tuple(box for part in parts for box in part.clean_boxes),
        tuple(name for part in parts for name in part.files),
    )


def render_field(settings: Phantom, number: int = 1) -> tuple[NDArray[np.uint8], Truth]:
    """Draw all of `settings.cells` on one field: uint8 (height,width,3), and what is on it. `number` varies it."""
    import numpy as np

    _check(settings)
    rng = np.random.Generator(np.random.PCG64([settings.seed, number]))
    # A slide has one stain: its tint must not change from field to field.
    stain = np.random.Generator(np.random.PCG64([settings.seed, 0, 7])).normal(0, 2.0, 3).astype(np.float32)
    width, height = settings.size
    canvas = np.empty((height, width, 3), np.float32)
    canvas[:] = BACKGROUND
    infected: list[Box] = []
    clean: list[Box] = []
    if not settings.empty:
        places = _places(rng, settings)
        _platelets(rng, canvas, places, settings.diameter)
        for index, (x, y, radius) in enumerate(places):
            sick = index < settings.infected
            (infected if sick else clean).append(_cell(rng, canvas, (x, y, radius), stain, sick))
    return _photograph(rng, canvas, settings), Truth(tuple(infected), tuple(clean))


def _check(settings: Phantom) -> None:
    if not 0 <= settings.infected <= settings.cells:
        raise UsageError(f"infected must lie between 0 and cells = {settings.cells}; got {settings.infected}")
    if min(settings.size) < 2 * settings.diameter or settings.diameter < 16 or settings.cells_per_field < 1:
        raise UsageError(
            f"a phantom field needs cells of at least 16 pixels, one a field, and room for two across; got diameter "
            f"{settings.diameter:g}, {settings.cells_per_field} a field, {settings.size[0]} x {settings.size[1]} pixels"
        )


def _places(rng: np.random.Generator, settings: Phantom) -> list[tuple[float, float, float]]:
    """Centres and radii of cells, whole inside the field: a shaken honeycomb; neighbours may touch, not overlap."""
    import numpy as np

    width, height = settings.size
    pitch = 1.17 * settings.diameter
    edge = 0.67 * settings.diameter
    rows = np.arange(edge, height - edge, pitch * 0.87)
    sites = [(x, y) for row, y in enumerate(rows) for x in np.arange(edge + (row % 2) * pitch / 2, width - edge, pitch)]
    if settings.cells > len(sites):
        raise UsageError(f"{len(sites)} cells of this size fit on one field; got {settings.cells}")
    order = rng.permutation(len(sites))[: settings.cells]
    places: list[tuple[float, float, float]] = []
    for site in order:
        radius = settings.diameter / 2 * float(np.clip(rng.normal(1, 0.04), 0.9, 1.08))
        for shake in (0.10, 0.06, 0.03, 0.0):
            x, y = (
                float(value) for value in np.asarray(sites[site]) + rng.uniform(-shake, shake, 2) * settings.diameter
            )
            x, y = min(max(x, edge), width - edge), min(max(y, edge), height - edge)
            if all((x - a) ** 2 + (y - b) ** 2 > (1.06 * (radius + c)) ** 2 for a, b, c in places):
                break
        places.append((x, y, radius))
    return places


def _cell(
    rng: np.random.Generator, canvas: Canvas, place: tuple[float, float, float], stain: NDArray[np.float32], sick: bool
) -> Box:
    """Draw one red cell; returns its box."""
    import numpy as np

    x, y, radius = place
    reach = int(radius * 1.2) + 4
    left, top = max(int(x) - reach, 0), max(int(y) - reach, 0)
    window = canvas[top : int(y) + reach, left : int(x) + reach]
    dx = np.arange(left, left + window.shape[1], dtype=np.float32)[np.newaxis] - np.float32(x)
    dy = np.arange(top, top + window.shape[0], dtype=np.float32)[:, np.newaxis] - np.float32(y)
    distance = np.sqrt(dx * dx + dy * dy) + np.float32(1e-3)
    outline = _outline(rng, dx / distance, dy / distance, radius)
    depth = outline - distance  # pixels inside the outline; negative outside
    # The edge of a real cell fades over a quarter of its radius: it is thinner there, and the eyepiece is not sharp.
    cover = np.clip(depth / np.float32(0.26 * radius) + 0.5, 0, 1)
    cover = cover * cover * (3 - 2 * cover)
    tone = np.asarray(CELL, np.float32) + stain + rng.normal(0, 2.5, 3).astype(np.float32)
    pallor = np.float32(rng.uniform(0.02, 0.22)) * np.exp(
        -((distance / np.float32(rng.uniform(0.25, 0.5) * radius)) ** 2)
    )
    slope = (dx * np.float32(rng.normal(0, 2)) + dy * np.float32(rng.normal(0, 2))) / np.float32(radius)
    mottle = slope + _cloud(rng, window.shape[0], window.shape[1], 14, 1.2)
    paint = np.asarray(tone + mottle[:, :, np.newaxis], np.float32)
    paint += pallor[:, :, np.newaxis] * (np.asarray(BACKGROUND, np.float32) - tone)
    if sick:
        for _ in range(1 + int(rng.random() < 0.25)):
            _parasite(rng, paint, dx, dy, radius)
    window += cover[:, :, np.newaxis] * (paint - window)
    rows, columns = np.flatnonzero((depth > 0).any(axis=1)), np.flatnonzero((depth > 0).any(axis=0))
    return (left + int(columns[0]), top + int(rows[0]), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1)


def _outline(rng: np.random.Generator, ux: Canvas, uy: Canvas, radius: float) -> Canvas:
    """Distance from centre to outline in the direction of each pixel: a circle with a few slow waves on it."""
    import numpy as np

    # Waves of order k are powers of the direction as a complex number: cheaper than an arctangent and cosines.
    turn = ux + 1j * uy
    wave = (turn * turn).astype(np.complex64)
    # Cells are ovals first: real ones are 1.0 to 1.3 times as long as wide.
    total = 1 + np.float32(rng.uniform(0.01, 0.14)) * (wave * np.complex64(np.exp(1j * rng.uniform(0, 2 * np.pi)))).real
    for order in range(3, 9):
        wave = wave * turn
        size, phase = abs(rng.normal(0, 0.05 / order)), np.exp(1j * rng.uniform(0, 2 * np.pi))
        total += np.float32(size) * (wave * np.complex64(phase)).real
    return np.asarray(np.float32(radius) * np.clip(total, 0.82, 1.16), np.float32)


def _cloud(rng: np.random.Generator, height: int, width: int, grain: int, strength: float) -> Canvas:
    """Soft mottling, float32 (height,width): patches `grain` pixels wide, standard deviation about `strength`."""
    import numpy as np
    from PIL import Image

    coarse = rng.normal(0, strength * 1.5, (height // grain + 2, width // grain + 2)).astype(np.float32)
    return np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def _parasite(rng: np.random.Generator, paint: Canvas, dx: Canvas, dy: Canvas, radius: float) -> None:
    """Draw a ring with its chromatin dot, or a denser trophozoite, somewhere inside the cell."""
    import numpy as np

    angle, off = rng.uniform(0, 2 * np.pi), rng.uniform(0.15, 0.62) * radius
    size = rng.uniform(0.17, 0.27) * radius
    px, py = dx - np.float32(off * np.cos(angle)), dy - np.float32(off * np.sin(angle))
    spin, squeeze = rng.uniform(0, np.pi), rng.uniform(0.75, 1.0)
    cos, sin = np.float32(np.cos(spin)), np.float32(np.sin(spin))
    along, across = px * cos + py * sin, (py * cos - px * sin) / np.float32(squeeze)
    distance = np.sqrt(along * along + across * across)
    solid = rng.random() < 0.3
    if solid:
        body = np.clip((size - distance) / 5 + 0.5, 0, 1) * 0.75
    else:
        thick = np.float32(rng.uniform(0.045, 0.075) * radius)
        hollow = np.clip((size - distance) / 4, 0, 1) * 0.25
        paint += hollow[:, :, np.newaxis] * (np.asarray(BACKGROUND, np.float32) - paint)
        # The ring is thicker on the side away from its dot, like a signet ring.
        body = np.exp(-(((distance - size) / (thick * (1.15 - 0.35 * along / (distance + 1)))) ** 2)) * 0.8
    paint += body[:, :, np.newaxis] * (np.asarray(CYTOPLASM, np.float32) - paint)
    dots = 1 + int(rng.random() < 0.2)
    for index in range(dots):
        turn = index * rng.uniform(0.6, 1.2)
        at_x, at_y = size * np.cos(turn) * (0.4 if solid else 1.0), size * np.sin(turn) * (0.4 if solid else 1.0)
        long, wide = rng.uniform(0.10, 0.15) * radius, rng.uniform(0.075, 0.11) * radius
        spot = ((along - np.float32(at_x)) / np.float32(wide)) ** 2 + (
            (across - np.float32(at_y)) / np.float32(long)
        ) ** 2
        dot = np.clip((1.25 - spot) / 0.6, 0, 1) * 0.95
        paint += dot[:, :, np.newaxis] * (np.asarray(CHROMATIN, np.float32) - paint)


def _platelets(
    rng: np.random.Generator, canvas: Canvas, places: list[tuple[float, float, float]], diameter: float
) -> None:
    """A few platelets between the cells: what a reader must pass over."""
    import numpy as np

    height, width = canvas.shape[:2]
    for _ in range(40):
        x, y, radius = rng.uniform(0, width), rng.uniform(0, height), rng.uniform(0.06, 0.1) * diameter
        if any((x - a) ** 2 + (y - b) ** 2 < (1.15 * r + 2 * radius) ** 2 for a, b, r in places):
            continue
        reach = int(2 * radius) + 2
        left, top = max(int(x) - reach, 0), max(int(y) - reach, 0)
        window = canvas[top : int(y) + reach, left : int(x) + reach]
        dx = np.arange(left, left + window.shape[1], dtype=np.float32)[np.newaxis] - np.float32(x)
        dy = np.arange(top, top + window.shape[0], dtype=np.float32)[:, np.newaxis] - np.float32(y)
        cover = np.exp(-((dx * dx + dy * dy) / np.float32(radius**2)))
        window += cover[:, :, np.newaxis] * (np.asarray(PLATELET, np.float32) - window)


def _photograph(rng: np.random.Generator, canvas: Canvas, settings: Phantom) -> NDArray[np.uint8]:
    """What the camera makes of it: uneven lamp, the eyepiece's blur, sensor noise, and the faults asked for."""
    import numpy as np
    from PIL import Image, ImageFilter

    height, width = canvas.shape[:2]
    across = np.linspace(-1, 1, width, dtype=np.float32) - np.float32(rng.uniform(-0.3, 0.3))
    down = np.linspace(-1, 1, height, dtype=np.float32) - np.float32(rng.uniform(-0.3, 0.3))
    lamp = 1.01 - np.float32(0.03) * (across[np.newaxis] ** 2 + down[:, np.newaxis] ** 2)
    canvas = canvas * lamp[:, :, np.newaxis]
    if settings.saturation != 1:
        grey = canvas.mean(axis=2, keepdims=True)
        canvas = grey + np.float32(settings.saturation) * (canvas - grey)
    canvas = canvas * np.float32(settings.exposure)
    sharp = Image.fromarray(np.clip(canvas, 0, 255).astype(np.uint8))
    blurred = sharp.filter(ImageFilter.GaussianBlur(1.2))
    # A phone's noise has been through its demosaicing: it comes in soft grains, and survives the resizing of a cell.
    noise = (128 + 30 * rng.standard_normal((height, width), np.float32)).clip(0, 255).astype(np.uint8)
    soft = np.asarray(Image.fromarray(noise).filter(ImageFilter.GaussianBlur(1.5)), np.float32) - 128
    grain = (soft * np.float32(2 / soft.std()))[:, :, np.newaxis]
    picture = np.asarray(np.clip(np.asarray(blurred) + grain + 0.5, 0, 255), np.uint8)
    if not settings.blur:
        return picture
    # Over the grain too: a phone smooths away the grain of what has nothing sharp in it.
    return np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(settings.blur)))
