"""What is read: an item is one slide or one image, found in the paths that a person gives.

    an image file                       one item
    a folder with images in it          one item: the images are one slide
    a folder with only folders in it    each of those is an item
    with `slide_name`, a pattern        the images anywhere below whose path matches it alike are one item

Standard library only: a loop must know what is new without loading numpy.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from edge_runtime.digest import blake2b, sha256
from edge_runtime.errors import InputError, UsageError
from edge_runtime.regular import open_regular
from edge_runtime.unfinished import is_temporary, is_unfinished

IMAGE_ENDINGS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
# A whole thin film read cell by cell is 5,000 to 20,000 images; far more than that is the wrong folder.
MAX_IMAGES = 50_000
MAX_BYTES = 64 << 20  # of one image
_ESCAPES = tuple("\\xuUnrt")  # what follows the backslash in `printable`


class Content(NamedTuple):
    """One image of an item, read: the `number`th of `total`."""

    path: Path
    number: int
    total: int
    content: bytes


class ItemDigest:
    """Gathers an item's digest while its images are read, so that what is recorded is what was decoded."""

    def __init__(self) -> None:
        self._whole = blake2b(digest_size=32)

    def add(self, name: str, content: bytes) -> None:
        # the length keeps one image's end and the next one's name apart
        self._whole.update(f"{name}\0{len(content)}\0".encode(errors="surrogateescape"))
        self._whole.update(content)

    def hexdigest(self) -> str:
        return self._whole.hexdigest()


class Item(NamedTuple):
    """`name` is what results are filed under; `paths` is one image or folder, or the images of one slide."""

    name: str
    paths: tuple[Path, ...]

    def images(self) -> list[Path]:
        """The image files, sorted by name. Raises InputError where there is none, or are more than MAX_IMAGES."""
        if len(self.paths) > 1:
            return sorted(self.paths)
        path = self.paths[0]
        if os.path.isdir(path):
            found = _images_in(path)
        elif os.path.exists(path):
            found = [path]
        else:
            raise InputError(f"{path}: found nothing there, wanted an image or a folder of images")
        if not found:
            wanted = f"wanted files ending in {', '.join(sorted(IMAGE_ENDINGS))}"
            deeper = os.path.isdir(path) and _folders_in(path)
            hint = f"give the folders in it: {path}/*/" if deeper else None
            raise InputError(f"{path}: found no image, {wanted}", hint=hint)
        if os.path.isdir(path):
            _refuse_nested(path, found[0])
        return found

    def contents(self, digest: ItemDigest | None = None) -> Iterator[Content]:
        """The images with their bytes, sorted by name; `digest` is fed what is read.

        Raises InputError: nothing there, not readable, empty, or larger than MAX_BYTES.
        """
        images = self.images()
        for number, path in enumerate(images, 1):
            try:
                # unbuffered: thousands of small files are the usual slide
                with open_regular(path, buffering=0) as stream:
                    size = os.fstat(stream.fileno()).st_size
                    if not 0 < size <= MAX_BYTES:
                        raise InputError(f"{path}: found {size} bytes, wanted an image of 1 to {MAX_BYTES} bytes")
                    # no more than was stated: room is made for as many bytes as are asked for
                    content = stream.read(size + 1)
                    if len(content) > size:
                        raise InputError(f"{path}: grew while it was read, wanted an image that is whole")
            except OSError as error:
                raise InputError(f"{path}: {error.strerror}, wanted an image") from error
            if digest:
                digest.add(path.name, content)
            yield Content(path, number, len(images), content)

    def digest(self) -> str:
        """BLAKE2b of 256 bits over the names and the contents of the images: the same slide copied elsewhere has the
        same. Raises InputError where one cannot be read."""
        whole = ItemDigest()
        for _ in self.contents(whole):
            pass
        return whole.hexdigest()

    def fingerprint(self) -> str:
        """Names, sizes and times of the images, hashed: cheap enough to ask every few seconds. The time of the last
        change of any kind is among them: nobody can set it, and cameras without a clock give each day the same times.
        """
        whole = sha256()
        for path in self.images():
            about = path.stat()
            text = f"{path.name}\0{about.st_size}\0{about.st_mtime_ns}\0{about.st_ctime_ns}\n"
            whole.update(text.encode(errors="surrogateescape"))
        return whole.hexdigest()

    def state(self) -> str:
        """What changes as long as somebody writes to it: names, sizes and times, also of files that have not got their
        names yet. "" where it cannot be told. The time of the last change of any kind is among them, as above; the
        number of the file is not: where a card has none (FAT, exFAT) the system makes up another at any time."""
        whole = sha256()
        try:
            for path in [*self.images(), *self.temporary()]:
                about = path.stat()
                text = f"{path.name}\0{about.st_size}\0{about.st_mtime_ns}\0{about.st_ctime_ns}\n"
                whole.update(text.encode(errors="surrogateescape"))
        except (InputError, OSError):
            return ""
        return whole.hexdigest()

    def sync(self) -> None:
        """Wait until what was read of it survives a power cut. Raises InputError where the disk did not take it."""
        from edge_runtime.synced import sync  # not in the process that reads

        try:
            images = self.images()
        except InputError:
            return
        sync(images, {path.parent for path in (*images, *self.paths)})

    def temporary(self) -> list[Path]:
        """Files in its folder that are still being copied, by their names."""
        folder = self.paths[0]
        if len(self.paths) > 1 or not folder.is_dir():
            return []
        try:
            return sorted(folder / name for name in os.listdir(folder) if is_temporary(name))
        except OSError:
            return []

    def unfinished(self) -> Path | None:
        """The first of its images whose end is missing, if there is one; a folder that has no image yet."""
        try:
            return next(filter(is_unfinished, self.images()), None)
        except InputError:
            return self.paths[0] if self.paths[0].is_dir() else None


def printable(path: str | os.PathLike[str]) -> str:
    """A path as text that can be printed on one line and stored, another one for each path: bytes that are not UTF-8,
    as old memory sticks have them, and control characters stand as backslash escapes. A backslash of the name itself
    is doubled where it could be taken for the beginning of one, and left alone elsewhere."""
    try:
        text = os.fsencode(path).decode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # what no file can be called
        text = str(path)
    said = ""
    for one in reversed(text):
        said = ("\\\\" if one == "\\" and said[:1] in _ESCAPES else _escaped(one)) + said
    return said


def _escaped(one: str) -> str:
    if "\udc80" <= one <= "\udcff":  # a byte
        return f"\\x{ord(one) - 0xDC00:02x}"
    if one == "\\" or one.isprintable():
        return one
    # not \x, which is the byte of that number
    return f"\\u{ord(one):04x}" if "\x80" <= one <= "\xff" else one.encode("unicode_escape").decode()


def is_image(name: str) -> bool:
    """By the ending of its name."""
    # leading dots and ._ are other systems' shadow files
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in IMAGE_ENDINGS


def _images_in(folder: Path) -> list[Path]:
    found: list[str] = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if is_image(entry.name) and entry.is_file():
                    found.append(entry.name)
                    if len(found) > MAX_IMAGES:
                        raise InputError(
                            f"{folder}: found more than {MAX_IMAGES} images, wanted the images of one slide",
                            hint="give each slide a folder of its own",
                        )
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror}") from error
    # sorted as text: comparing thousands of paths costs more than reading them
    return [folder / name for name in sorted(found)]


def find_items(paths: Iterable[str | os.PathLike[str]], slide_name: str | None = None) -> list[Item]:
    """The items in the paths given, in the order of their names. A path that does not exist is still an item: reading
    it gives the error, so that the others are read. Raises UsageError for a bad pattern, InputError for no match or
    for a folder in which images stand beside folders of images: is it one slide, or several?"""
    if slide_name is not None:
        return list(_grouped([Path(path) for path in paths], slide_name))
    found: list[Item] = []
    for path in map(Path, paths):
        inner = _folders_in(path) if os.path.isdir(path) else []
        images = _images_in(path) if inner else []
        if images:
            _refuse_nested(path, images[0])
        found += [Item(printable(one), (one,)) for one in (inner if inner and not images else [path])]
    return found


def _refuse_nested(folder: Path, image: Path) -> None:
    """Raises InputError for a folder of images that has folders of images in it: part of it would be passed over."""
    try:
        with os.scandir(folder) as entries:
            inner = sorted(one.name for one in entries if one.is_dir() and not one.name.startswith("."))
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror}") from error
    for name in inner:
        if _images_in(folder / name):
            raise InputError(
                f"{folder}: found images ({image.name} ...) beside folders of images ({name} ...), "
                "wanted the images of one slide, or folders that are slides",
                hint=f"edge-runtime run BUNDLE {folder}/*/ for the folders",
            )


def _folders_in(folder: Path) -> list[Path]:
    try:
        return sorted(one for one in folder.iterdir() if one.is_dir() and not one.name.startswith("."))
    except OSError as error:
        raise InputError(f"{folder}: {error.strerror}") from error


def _grouped(paths: list[Path], slide_name: str) -> Iterator[Item]:
    try:
        pattern = re.compile(slide_name)
    except re.error as error:
        raise UsageError(f"slide name: found {slide_name!r}, wanted a regular expression: {error}") from error
    groups: dict[str, list[Path]] = {}
    for top in paths:
        if not os.path.exists(top):
            raise InputError(f"{top}: found nothing there, wanted a folder of images")
        for folder, _, names in os.walk(top) if os.path.isdir(top) else [(str(top.parent), [], [top.name])]:
            for name in filter(is_image, names):
                match = pattern.search(name)
                if match:
                    groups.setdefault(match[1] if pattern.groups else match[0], []).append(Path(folder, name))
    if not groups:
        raise InputError(
            f"{', '.join(map(str, paths))}: found no image whose name matches {slide_name!r}, wanted at least one"
        )
    for name, found in sorted(groups.items()):
        if len(found) > MAX_IMAGES:
            raise InputError(f"slide {name}: found {len(found)} images, wanted at most {MAX_IMAGES}")
        yield Item(printable(name), tuple(sorted(found)))
