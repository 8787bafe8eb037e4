"""The bundle, `.edge`: one file with a task, a card and several variants of a model.

    bytes 0-7      the letters EDGEBNDL
    bytes 8-11     format version, 1 or 2      (unsigned, little-endian, as is the next; 2: a file in it is coded)
    bytes 12-15    length N of the header      (at most 1 MiB: it is parsed whole, on a device with little memory)
    bytes 16-47    SHA-256 of the header       (also the bundle's digest: the header binds every other byte)
    N bytes        the header: JSON, UTF-8, keys sorted, no repeated keys, finite numbers
    then           the files, each at the next multiple of 64 (so that one can be mapped), zeros between, nothing behind

    header = {name, version, task{kind, ...}, labels[], preprocessing{}, files[], variants[]}
    files[] = {name, size, sha256}, in the order in which they lie (at most 64, so that reading a header stays cheap).
      Offsets are not written: they follow from the sizes, so they cannot overlap or point outside. A name is
      [a-z0-9][a-z0-9._-]{0,63}: no folder, so nothing can be written outside a target. README.md (as `card.md`).
      A file with entropy-coded weights has more: "coded": {size, sha256}, of the model file that it decodes to, exactly
      (see coded.py). `read` gives that file. A reader of version 1 refuses such a bundle by its version, at once.
    variants[] = {name, format, file, inputs[], outputs[], recipe[], metrics{}, costs{"engine/arch": Cost}}

A bundle is data: nothing in it is executed or unpickled. The same inputs pack to the same bytes: there is no time, no
host and no order of folders in it. A model is read from its place in the file straight into the engine, after its
digest was checked; nothing is unpacked to disk. ZIP was not taken because it has two lists of contents that can
disagree, sizes that can lie, and no alignment.
"""

from __future__ import annotations

import json
import math
import os
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, NoReturn

from edge_runtime.budget import Cost
from edge_runtime.digest import sha256
from edge_runtime.errors import BundleError
from edge_runtime.tensors import DTYPES, TensorSpec

MAGIC = b"EDGEBNDL"
VERSION, CODED_VERSION = 1, 2
MAX_HEADER_BYTES = 1 << 20
MAX_FILES = 64
MAX_FILE_BYTES = 4 << 30
ALIGN = 64
FORMATS = ("onnx", "tflite", "null")
_FIXED = struct.Struct("<8sII32s")
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
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


class Bundle(NamedTuple):
    """A bundle's header, checked. Files stay on disk until `read`."""

    path: Path
    digest: str
    size: int
    name: str
    version: str
    task: Mapping[str, Any]
    labels: tuple[str, ...]
    preprocessing: Mapping[str, Any]
    files: tuple[File, ...]
    variants: tuple[Variant, ...]

    def variant(self, name: str) -> Variant:
        for one in self.variants:
            if one.name == name:
                return one
        raise BundleError(
            f"{self.path}: found no variant {name!r}, it has {', '.join(one.name for one in self.variants)}",
            hint=f"edge-runtime inspect {self.path}",
        )

    def file(self, name: str) -> File:
        for one in self.files:
            if one.name == name:
                return one
        raise BundleError(f"{self.path}: found no file {name!r} in it")

    def read(self, file: File) -> bytes:
        """The bytes of one file, their digest checked; a coded one is decoded, and the digest of that is checked too.

        Raises BundleError where they differ."""
        try:
            with self.path.open("rb") as stream:
                if file.coded:
                    return self._decoded(stream, file, file.coded)
                stream.seek(file.offset)
                content = stream.read(file.size)
        except OSError as error:
            raise BundleError(f"{self.path}: {error.strerror}") from error
        if sha256(content).hexdigest() != file.sha256:
            raise self._damaged(file)
        return content

    def _decoded(self, stream: BinaryIO, file: File, wanted: Decoded) -> bytes:
        """The coded file is never in memory whole: it is read once for its digest and once to be decoded."""
        self._check(stream, file)
        from edge_runtime.coded import decode  # a bundle without coded files needs neither this nor lzma

        try:
            return decode(stream, file.offset, file.size, wanted.size, wanted.sha256)
        except BundleError as error:
            raise BundleError(f"{self.path}: {file.name}: {error.message}", hint=error.hint) from error

    def _check(self, stream: BinaryIO, file: File) -> None:
        stream.seek(file.offset)
        whole, left = sha256(), file.size
        while left and (part := stream.read(min(left, 1 << 20))):  # a model may be larger than the memory
            whole.update(part)
            left -= len(part)
        if left or whole.hexdigest() != file.sha256:
            raise self._damaged(file)

    def _damaged(self, file: File) -> BundleError:
        return BundleError(
            f"{self.path}: {file.name} is damaged or was changed: its SHA-256 is not the one in the header",
            hint="copy the bundle again from its source",
        )

    def verify(self) -> None:
        """Check every file's digest, and that only zeros stand before and between them. Raises BundleError."""
        with self.path.open("rb") as stream:
            for one in self.files:
                self._check(stream, one)
            stream.seek(0)
            length = _FIXED.unpack(stream.read(_FIXED.size))[2]
            ends = [_FIXED.size + length, *(one.offset + one.size for one in self.files)]
            for end, after in zip(ends, self.files, strict=False):
                stream.seek(end)
                if any(stream.read(after.offset - end)):
                    raise BundleError(f"{self.path}: found bytes between the files, wanted zeros")

    def to_json(self) -> dict[str, Any]:
        """What `inspect --json` prints."""
        variants = [
            {
                "name": one.name,
                "format": one.format,
                "file": one.file.name,
                "size": one.file.size,
                "sha256": one.sha256,
                **({"coded": one.file.coded._asdict()} if one.file.coded else {}),
                "inputs": [spec.to_json() for spec in one.inputs],
                "outputs": [spec.to_json() for spec in one.outputs],
                "recipe": [dict(step) for step in one.recipe],
                "metrics": dict(one.metrics),
                "costs": {key: cost.to_json() for key, cost in one.costs.items()},
            }
            for one in self.variants
        ]
        return {
            "path": str(self.path),
            "name": self.name,
            "version": self.version,
            "size": self.size,
            "digest": self.digest,
            "task": dict(self.task),
            "labels": list(self.labels),
            "preprocessing": dict(self.preprocessing),
            "variants": variants,
        }


# ---------------------------------------------------------------- reading


def find_bundle(name: str | os.PathLike[str]) -> Path:
    """A path as it is; a bare name such as "malaria" is a bundle that came with the package."""
    path = Path(name)
    if path.is_file() or path.suffix or len(path.parts) != 1 or not _NAME.fullmatch(str(name)):
        return path
    here = Path(__file__).resolve().parent
    for shipped in (here / "models" / f"{name}.edge", here.parent / "models" / str(name) / f"{name}.edge"):
        if shipped.exists():
            return shipped
    return path


def load_bundle(name: str | os.PathLike[str]) -> Bundle:
    """Read and check a bundle's header. Raises BundleError saying what was found and what was wanted."""
    path = find_bundle(name)
    try:
        with path.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            header = _read_header(path, stream.read(_FIXED.size), size, stream.read)
    except OSError as error:
        raise BundleError(
            f"{path}: {error.strerror or error}", hint="give the path of a .edge file, or malaria for the shipped one"
        ) from error
    digest, length, version, plain = header
    return _Checker(path, version).bundle(plain, digest, _FIXED.size + length, size)


def _read_header(path: Path, fixed: bytes, size: int, read: Any) -> tuple[str, int, int, dict[str, Any]]:
    if len(fixed) < _FIXED.size or fixed[:8] != MAGIC:
        raise BundleError(f"{path}: found {fixed[:8]!r} at the start, wanted an .edge bundle ({MAGIC!r})")
    _, version, length, digest = _FIXED.unpack(fixed)
    if version not in (VERSION, CODED_VERSION):
        hint = "install a newer edge-runtime" if version > CODED_VERSION else None
        wanted = f"{VERSION} and {CODED_VERSION}"
        raise BundleError(f"{path}: found bundle format {version}, this version reads {wanted}", hint=hint)
    if not 2 <= length <= min(MAX_HEADER_BYTES, size - _FIXED.size):
        raise BundleError(
            f"{path}: found a header of {length} bytes, wanted 2 to {MAX_HEADER_BYTES} inside a file of {size} bytes"
        )
    text = read(length)
    if sha256(text).digest() != digest:
        raise BundleError(f"{path}: the header is damaged or was changed: its SHA-256 does not match")
    try:
        plain = json.loads(text.decode(), object_pairs_hook=_no_repeats, parse_constant=_no_constant)
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


class _Checker:
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

    def bundle(self, plain: dict[str, Any], digest: str, start: int, size: int) -> Bundle:
        wanted = {"name", "version", "task", "labels", "preprocessing", "files", "variants"}
        if set(plain) != wanted:
            self.fail("header fields", sorted(plain), ", ".join(sorted(wanted)))
        task = self.get(plain, "task", dict, "")
        self.get(task, "kind", str, "task.")
        labels = self.get(plain, "labels", list, "")
        if not all(isinstance(one, str) for one in labels):
            self.fail("labels", labels, "a list of strings")
        name = self.get(plain, "name", str, "")
        if not _NAME.fullmatch(name):
            self.fail("name", name, "lower-case letters, digits, . _ -")
        files = self.files(self.get(plain, "files", list, ""), start, size)
        variants = self.get(plain, "variants", list, "")
        made = tuple(self.variant(one, files, number) for number, one in enumerate(variants))
        if not made or len({one.name for one in made}) != len(made):
            self.fail("variants", [one.name for one in made], "at least one, each with a name of its own")
        version = self.get(plain, "version", str, "")
        preprocessing = self.get(plain, "preprocessing", dict, "")
        return Bundle(self.path, digest, size, name, version, task, tuple(labels), preprocessing, files, made)

    def files(self, plain: list[Any], start: int, size: int) -> tuple[File, ...]:
        if len(plain) > MAX_FILES:
            self.fail("files", len(plain), f"at most {MAX_FILES}")
        made: list[File] = []
        end = start
        for number, one in enumerate(plain):
            where = f"files[{number}]."
            may = {"coded"} if self.version == CODED_VERSION else set()
            if not isinstance(one, dict) or set(one) - may != {"name", "size", "sha256"}:
                self.fail(where[:-1], one, "an object of name, size, sha256")
            name, length = self.get(one, "name", str, where), self.get(one, "size", int, where)
            if not _NAME.fullmatch(name) or ".." in name:
                self.fail(f"{where}name", name, "lower-case letters, digits, . _ - and no folder")
            digest = self.digest(one, length, where)
            coded = None
            if "coded" in one:
                inner = self.get(one, "coded", dict, where)
                if set(inner) != {"size", "sha256"}:
                    self.fail(f"{where}coded", inner, "an object of size, sha256")
                whole = self.get(inner, "size", int, f"{where}coded.")
                coded = Decoded(whole, self.digest(inner, whole, f"{where}coded."))
            offset = _aligned(end)
            made.append(File(name, offset, length, digest, coded))
            end = offset + length
        if self.version == CODED_VERSION and not any(one.coded for one in made):
            self.fail("format version", self.version, f"{VERSION}: no file in it is coded")
        if len({one.name for one in made}) != len(made):
            self.fail("files", [one.name for one in made], "names of their own")
        if end != size:
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


# ---------------------------------------------------------------- writing


def _aligned(offset: int) -> int:
    return -(-offset // ALIGN) * ALIGN


def pack(
    header: Mapping[str, Any], files: Mapping[str, bytes], out: Path, coded: Mapping[str, Decoded] | None = None
) -> Bundle:
    """Write a bundle, atomically. `header` as above without `files`; `files` are named contents, those that are coded
    files (see compress/code.py) named in `coded` too, with what they decode to.

    The result is read back and verified before it takes its name. Raises BundleError for what cannot be read again.
    """
    coded = coded or {}
    listed = [
        {"name": name, "size": len(content), "sha256": sha256(content).hexdigest()}
        | ({"coded": coded[name]._asdict()} if name in coded else {})
        for name, content in sorted(files.items())
    ]
    version = CODED_VERSION if coded else VERSION
    try:
        text = json.dumps(
            {**header, "files": listed}, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
        ).encode()
    except ValueError as error:
        raise BundleError(f"{out}: the header cannot be written: {error}") from error
    if len(text) > MAX_HEADER_BYTES:
        raise BundleError(f"{out}: found a header of {len(text)} bytes, wanted at most {MAX_HEADER_BYTES}")
    partial = out.with_name(f".{out.name}.partial")
    try:
        with partial.open("wb") as stream:
            stream.write(_FIXED.pack(MAGIC, version, len(text), sha256(text).digest()) + text)
            for _, content in sorted(files.items()):
                stream.write(bytes(_aligned(stream.tell()) - stream.tell()) + content)
            stream.flush()
            os.fsync(stream.fileno())
        load_bundle(partial).verify()
        partial.replace(out)
    except BundleError as error:
        raise BundleError(error.message.replace(str(partial), str(out)), hint=error.hint) from error
    except OSError as error:
        raise BundleError(f"{out}: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)
    return load_bundle(out)
