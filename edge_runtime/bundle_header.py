"""The header of a bundle: its types, and the checks between them and what somebody wrote. Its format: bundle.py."""

from __future__ import annotations

import json
import math
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from edge_runtime.budget import Cost
from edge_runtime.digest import sha256
from edge_runtime.errors import BundleError
from edge_runtime.fields import UNPRINTABLE
from edge_runtime.signatures import SIZES as SIGNATURE_SIZES
from edge_runtime.tensors import DTYPES, TensorSpec

MAGIC = b"EDGEBNDL"
VERSION, CODED_VERSION, SIGNED_VERSION = 1, 2, 3
MAX_HEADER_BYTES = 1 << 20
MAX_FILES = 64
MAX_FILE_BYTES = 4 << 30
ALIGN = 64
FORMATS = ("onnx", "tflite", "null")
FIXED = struct.Struct("<8sII32s")
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_MOST_LEVELS = 32  # of values in values: whatever walks the header must come to an end on any stack
_HEX = re.compile(r"[0-9a-f]{64}")


class Decoded(NamedTuple):
    """What a coded file decodes to."""

    size: int
    sha256: str


class File(NamedTuple):
    """`size` and `sha256`: of the bytes in the bundle; `coded`: of what they decode to, where they are coded."""

    name: str
    offset: int
    size: int
    sha256: str
    coded: Decoded | None = None

    @property
    def read_bytes(self) -> int:
        """The size of what `Bundle.read` gives: in memory, where `size` is on disk."""
        return self.coded.size if self.coded else self.size


class Variant(NamedTuple):
    """One form of the model: `recipe` is how it was made, `metrics` what it reached, `costs` by "engine/arch"."""

    name: str
    format: str
    file: File
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    recipe: tuple[Mapping[str, Any], ...] = ()
    metrics: Mapping[str, Any] = {}
    costs: Mapping[str, Cost] = {}

    @property
    def sha256(self) -> str:
        return self.file.sha256


def aligned(offset: int) -> int:
    return -(-offset // ALIGN) * ALIGN


def read_header(path: Path, fixed: bytes, size: int, read: Any) -> tuple[str, int, int, dict[str, Any]]:
    if len(fixed) < FIXED.size or fixed[:8] != MAGIC:
        raise BundleError(f"{path}: found {fixed[:8]!r} at the start, wanted an .edge bundle ({MAGIC!r})")
    _, version, length, digest = FIXED.unpack(fixed)
    if not VERSION <= version <= SIGNED_VERSION:
        hint = "install a newer edge-runtime" if version > SIGNED_VERSION else None
        wanted = f"{VERSION} to {SIGNED_VERSION}"
        raise BundleError(f"{path}: found bundle format {version}, this version reads {wanted}", hint=hint)
    if not 2 <= length <= min(MAX_HEADER_BYTES, size - FIXED.size):
        raise BundleError(
            f"{path}: found a header of {length} bytes, wanted 2 to {MAX_HEADER_BYTES} inside a file of {size} bytes"
        )
    text = read(length)
    if sha256(text).digest() != digest:
        raise BundleError(f"{path}: the header is damaged or was changed: its SHA-256 does not match")
    try:
        plain = json.loads(
            text.decode(),
            object_pairs_hook=_no_repeats,
            parse_constant=_no_constant,
            parse_int=_whole,
            parse_float=_finite,
        )
        _check_texts(plain)
    except (ValueError, RecursionError) as error:
        raise BundleError(f"{path}: the header is not JSON as wanted: {error}") from error
    if not isinstance(plain, dict):
        raise BundleError(f"{path}: found a header that is a {type(plain).__name__}, wanted an object")
    return digest.hex(), length, version, plain


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    plain = dict(pairs)
    if len(plain) != len(pairs):
        raise ValueError("a key stands twice")
    return plain


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"found {text}, wanted finite numbers")


def _whole(text: str) -> int:
    if len(text) > 19:  # nothing here counts beyond 64 bits, and larger ones become no float
        raise ValueError(f"found a number of {len(text)} digits, wanted at most 18")
    return int(text)


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"found {text[:40]}, wanted finite numbers")
    return number


def _check_texts(plain: Any) -> None:
    """Every text, keys too, can be printed and written. Raises ValueError."""
    todo = [(plain, 0)]
    while todo:
        one, level = todo.pop()
        if level > _MOST_LEVELS:
            raise ValueError(f"found values more than {_MOST_LEVELS} deep")
        if isinstance(one, str) and (bad := UNPRINTABLE.search(one)):
            raise ValueError(f"found {bad[0]!a} in {one[:80]!a}, wanted no control characters in any text")
        inner = (*one, *one.values()) if isinstance(one, dict) else one if isinstance(one, list) else ()
        todo += [(value, level + 1) for value in inner]


class Checker:
    """Turns the header's JSON into the types, or says where it is not what it should be."""

    def __init__(self, path: Path, version: int) -> None:
        self.path, self.version = path, version

    def fail(self, where: str, found: object, wanted: str) -> NoReturn:
        raise BundleError(f"{self.path}: {where}: found {str(found)[:80]!r}, wanted {wanted}")

    def get(self, plain: Mapping[str, Any], key: str, kind: type, where: str) -> Any:
        value = plain.get(key)
        if not isinstance(value, kind) or isinstance(value, bool) or (isinstance(value, str) and len(value) > 4096):
            self.fail(f"{where}{key}", value, f"a {kind.__name__}")
        return value

    def bundle(self, plain: dict[str, Any], digest: str, start: int, size: int) -> tuple[Any, ...]:
        wanted = {"name", "version", "task", "labels", "preprocessing", "files", "variants"}
        if set(plain) != wanted:
            self.fail("header fields", sorted(plain), ", ".join(sorted(wanted)))
        task = self.get(plain, "task", dict, "")
        self.get(task, "kind", str, "task.")
        labels = self.get(plain, "labels", list, "")
        if not all(isinstance(one, str) for one in labels):
            self.fail("labels", labels, "a list of strings")
        name = self.get(plain, "name", str, "")
        if not NAME.fullmatch(name):
            self.fail("name", name, "lower-case letters, digits, . _ -")
        files = self.files(self.get(plain, "files", list, ""), start, size)
        variants = self.get(plain, "variants", list, "")
        made = tuple(self.variant(one, files, number) for number, one in enumerate(variants))
        if not made or len({one.name for one in made}) != len(made):
            self.fail("variants", [one.name for one in made], "at least one, each with a name of its own")
        version = self.get(plain, "version", str, "")
        preprocessing = self.get(plain, "preprocessing", dict, "")
        return (self.path, digest, size, name, version, task, tuple(labels), preprocessing, files, made)

    def files(self, plain: list[Any], start: int, size: int) -> tuple[File, ...]:
        if len(plain) > MAX_FILES:
            self.fail("files", len(plain), f"at most {MAX_FILES}")
        made: list[File] = []
        end = start
        for number, one in enumerate(plain):
            where = f"files[{number}]."
            may = {"coded"} if self.version >= CODED_VERSION else set()
            if not isinstance(one, dict) or set(one) - may != {"name", "size", "sha256"}:
                self.fail(where[:-1], one, "an object of name, size, sha256")
            name, length = self.get(one, "name", str, where), self.get(one, "size", int, where)
            if not NAME.fullmatch(name) or ".." in name:
                self.fail(f"{where}name", name, "lower-case letters, digits, . _ - and no folder")
            digest = self.digest(one, length, where)
            coded = None
            if "coded" in one:
                inner = self.get(one, "coded", dict, where)
                if set(inner) != {"size", "sha256"}:
                    self.fail(f"{where}coded", inner, "an object of size, sha256")
                whole = self.get(inner, "size", int, f"{where}coded.")
                coded = Decoded(whole, self.digest(inner, whole, f"{where}coded."))
            offset = aligned(end)
            made.append(File(name, offset, length, digest, coded))
            end = offset + length
        if self.version == CODED_VERSION and not any(one.coded for one in made):
            self.fail("format version", self.version, f"{VERSION}: no file in it is coded")
        if len({one.name for one in made}) != len(made):
            self.fail("files", [one.name for one in made], "names of their own")
        signed = self.version == SIGNED_VERSION
        if (size - aligned(end) not in SIGNATURE_SIZES) if signed else (end != size):
            end = aligned(end) + SIGNATURE_SIZES[0] if signed else end
            raise BundleError(
                f"{self.path}: found {size} bytes, the header describes {end}: truncated, or something stands behind",
                hint="copy the bundle again from its source",
            )
        return tuple(made)

    def digest(self, plain: Mapping[str, Any], length: int, where: str) -> str:
        if not 0 <= length <= MAX_FILE_BYTES:
            self.fail(f"{where}size", length, f"0 to {MAX_FILE_BYTES}")
        found: str = self.get(plain, "sha256", str, where)
        if not _HEX.fullmatch(found):
            self.fail(f"{where}sha256", found, "64 hexadecimal digits")
        return found

    def variant(self, plain: Any, files: tuple[File, ...], number: int) -> Variant:
        where = f"variants[{number}]"
        wanted = {"name", "format", "file", "inputs", "outputs", "recipe", "metrics", "costs"}
        if not isinstance(plain, dict) or set(plain) != wanted:
            self.fail(where, sorted(plain) if isinstance(plain, dict) else plain, ", ".join(sorted(wanted)))
        where += "."
        if plain["format"] not in FORMATS:
            self.fail(f"{where}format", plain["format"], f"one of {', '.join(FORMATS)}")
        by_name = {one.name: one for one in files}
        if self.get(plain, "file", str, where) not in by_name:
            self.fail(f"{where}file", plain["file"], f"one of {', '.join(by_name)}")
        name = self.get(plain, "name", str, where)
        recipe, metrics = self.get(plain, "recipe", list, where), self.get(plain, "metrics", dict, where)
        if not all(isinstance(step, dict) for step in recipe):
            self.fail(f"{where}recipe", recipe, "a list of objects, one a pass")
        costs = self.get(plain, "costs", dict, where)
        try:
            made = {key: Cost.from_json(one) for key, one in costs.items()}
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            self.fail(f"{where}costs", error, "a cost by engine/arch")
        inputs, outputs = (self.specs(plain[key], f"{where}{key}") for key in ("inputs", "outputs"))
        return Variant(name, plain["format"], by_name[plain["file"]], inputs, outputs, tuple(recipe), metrics, made)

    def specs(self, plain: Any, where: str) -> tuple[TensorSpec, ...]:
        try:
            specs = tuple(TensorSpec.from_json(one) for one in plain)
            good = bool(specs) and all(
                one.dtype in DTYPES
                and len(one.shape) <= 8
                and all(size is None or 0 <= size < 2**31 for size in one.shape)
                and (one.scale is None or (isinstance(one.scale, float | int) and math.isfinite(one.scale)))
                for one in specs
            )
        except (KeyError, TypeError, ValueError) as error:
            self.fail(where, error, "a list of name, shape, dtype")
        if not good:
            self.fail(where, plain, "tensors with known dtypes and sizes")
        return specs
