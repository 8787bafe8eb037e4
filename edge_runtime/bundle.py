"""The bundle, `.edge`: one file with a task, a card and several variants of a model.

    bytes 0-7      the letters EDGEBNDL
    bytes 8-11     format version, 1 to 3      (unsigned, little-endian, as is the next; 2: a file in it is coded;
                                                3: it is signed, and a file may be coded)
    bytes 12-15    length N of the header      (at most 1 MiB: it is parsed whole, on a device with little memory)
    bytes 16-47    SHA-256 of the header       (also the bundle's digest: the header binds every other byte)
    N bytes        the header: JSON, UTF-8, keys sorted, no repeated keys, finite numbers,
                   no control characters in any text, at most 32 values deep
    then           the files, each at the next multiple of 64 (so that one can be mapped), zeros between
    then           in version 3 the signatures, at the next multiple of 64 (signatures.py); and nothing behind

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
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from edge_runtime.bundle_header import (
    CODED_VERSION,
    FIXED,
    MAX_HEADER_BYTES,
    NAME,
    SIGNED_VERSION,
    VERSION,
    Checker,
    aligned,
    read_header,
)
from edge_runtime.bundle_header import MAGIC as MAGIC
from edge_runtime.bundle_header import Decoded as Decoded
from edge_runtime.bundle_header import File as File
from edge_runtime.bundle_header import Variant as Variant
from edge_runtime.digest import sha256
from edge_runtime.errors import BundleError
from edge_runtime.regular import open_regular
from edge_runtime.signatures import Signature, parse, trailer


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
    signatures: tuple[Signature, ...] = ()

    @property
    def content_bytes(self) -> int:
        """The size without signatures."""
        last = self.files[-1]
        return last.offset + last.size

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
            with open_regular(self.path) as stream:
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
        try:
            self._verify()
        except OSError as error:
            raise BundleError(f"{self.path}: {error.strerror or error}") from error

    def _verify(self) -> None:
        with open_regular(self.path) as stream:
            for one in self.files:
                self._check(stream, one)
            stream.seek(0)
            length = FIXED.unpack(stream.read(FIXED.size))[2]
            ends = [FIXED.size + length, *(one.offset + one.size for one in self.files)]
            starts = [*(one.offset for one in self.files), *([aligned(self.content_bytes)] if self.signatures else [])]
            for end, start in zip(ends, starts, strict=False):
                stream.seek(end)
                if any(stream.read(start - end)):
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
            "signed_by": [one.key_id for one in self.signatures],
            "task": dict(self.task),
            "labels": list(self.labels),
            "preprocessing": dict(self.preprocessing),
            "variants": variants,
        }


# ---------------------------------------------------------------- reading


def find_bundle(name: str | os.PathLike[str]) -> Path:
    """A Path, and text with a folder or the ending .edge, is a path as it is. A bare name such as "malaria" is an
    installed bundle (see store.py), "malaria@1.0.0" that version of it; else one that came with the package. It is
    never a file: which one it means must not hang on what lies in the folder that the command is started in.

    Raises BundleError where there is none of that name, StoreError where the store cannot be read."""
    path = Path(name)
    bare, at, version = str(name).partition("@")
    if not isinstance(name, str) or path.suffix == ".edge" or path.name != name or not NAME.fullmatch(bare):
        return path
    from edge_runtime.shelf import installed_bundle  # a path needs none of it

    if found := installed_bundle(bare, version if at else None) or (None if at else shipped_bundle(bare)):
        return found
    raise BundleError(
        f"{name}: found no bundle of this name, neither installed nor shipped",
        hint=f"edge-runtime store list; a file in this folder is called ./{name}",
    )


def shipped_bundle(name: str) -> Path | None:
    here = Path(__file__).resolve().parent
    for shipped in (here / "models" / f"{name}.edge", here.parent / "models" / name / f"{name}.edge"):
        if os.path.isfile(shipped):
            return shipped
    return None


def load_bundle(name: str | os.PathLike[str]) -> Bundle:
    """Read and check a bundle's header. Raises BundleError saying what was found and what was wanted; TrustError where
    this device accepts given keys only, and the bundle is not signed by one (see trust.py)."""
    bundle = read_bundle(find_bundle(name))
    demand(bundle)
    return bundle


def demand(bundle: Bundle) -> None:
    """Raises TrustError where this device accepts given keys only, and the bundle is not signed by one."""
    from edge_runtime.trust import demand as demand_of_device

    demand_of_device(str(bundle.path), bundle.digest, bundle.name, bundle.version, bundle.signatures)


def read_bundle(path: Path) -> Bundle:
    """As load_bundle, of a file and whoever signed it: to look at a bundle, and for a child that is told the digest of
    one that was accepted."""
    try:
        with open_regular(path) as stream:
            size = os.fstat(stream.fileno()).st_size
            digest, length, version, plain = read_header(path, stream.read(FIXED.size), size, stream.read)
            bundle = Bundle(*Checker(path, version).bundle(plain, digest, FIXED.size + length, size))
            if version != SIGNED_VERSION:
                return bundle
            stream.seek(aligned(bundle.content_bytes))
            return bundle._replace(signatures=parse(stream.read()))
    except OSError as error:
        raise BundleError(
            f"{path}: {error.strerror or error}", hint="give the path of a .edge file, or malaria for the shipped one"
        ) from error
    except ValueError as error:
        raise BundleError(f"{path}: {error}", hint="copy the bundle again from its source") from error


# ---------------------------------------------------------------- writing


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

    def content(stream: BinaryIO) -> None:
        stream.write(FIXED.pack(MAGIC, version, len(text), sha256(text).digest()) + text)
        for _, content in sorted(files.items()):
            stream.write(bytes(aligned(stream.tell()) - stream.tell()) + content)

    return _write(out, content)


def write_signed(bundle: Bundle, signatures: Iterable[Signature], out: Path) -> Bundle:
    """The same bundle with these signatures in place of those it had; `out` may be its own path. Whether they are good
    is not checked here (trust.py). Raises BundleError."""

    def content(stream: BinaryIO) -> None:
        with bundle.path.open("rb") as source:
            magic, _, length, digest = FIXED.unpack(source.read(FIXED.size))
            stream.write(FIXED.pack(magic, SIGNED_VERSION, length, digest))
            left = bundle.content_bytes - FIXED.size
            while left and (part := source.read(min(left, 1 << 20))):
                stream.write(part)
                left -= len(part)
        stream.write(bytes(aligned(stream.tell()) - stream.tell()) + trailer(signatures))

    made = _write(out, content)
    if made.digest != bundle.digest:
        raise BundleError(f"{bundle.path}: it was changed while it was signed", hint="run the command again")
    return made


def _write(out: Path, content: Callable[[BinaryIO], None]) -> Bundle:
    partial = out.with_name(f".{out.name}.partial")
    try:
        with partial.open("wb") as stream:
            content(stream)
            stream.flush()
            os.fsync(stream.fileno())
        read_bundle(partial).verify()
        partial.replace(out)
    except BundleError as error:
        raise BundleError(error.message.replace(str(partial), str(out)), hint=error.hint) from error
    except OSError as error:
        raise BundleError(f"{out}: {error.strerror}") from error
    finally:
        partial.unlink(missing_ok=True)
    return read_bundle(out)
