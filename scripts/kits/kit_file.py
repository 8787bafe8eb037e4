"""What goes into an install kit, and how the file is made: scripts/kit is its command."""

from __future__ import annotations

import hashlib
import io
import json
import re
import stat
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent
FORMAT = 1
BLOCK_BYTES = 4096
WHEN = (1980, 1, 1, 0, 0, 0)  # of every file: the same inputs give the same bytes


class Failure(Exception):
    """What was found and what was wanted; `hint` is the next command."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(f"{message}\n  try: {hint}" if hint else message)


@dataclass(frozen=True)
class Module:
    """One of the system's own packages, where PyPI has no wheel: `least` <= version < `below`."""

    module: str
    package: str
    least: str
    below: str = ""

    def to_json(self) -> dict[str, str]:
        plain = {"module": self.module, "package": self.package, "least": self.least}
        return plain | ({"below": self.below} if self.below else {})


@dataclass(frozen=True)
class Target:
    """`platforms`: the wheels' tags that are taken, newest first. `features`: words of /proc/cpuinfo without which the
    wheels' programs do not run. `engines`: what there is for it."""

    arch: str
    bits: int
    platforms: tuple[str, ...]
    features: tuple[str, ...]
    engines: dict[str, tuple[str, ...]]
    common: tuple[str, ...] = ()
    system: tuple[Module, ...] = ()
    signing: tuple[Module, ...] = ()  # the system's, beside `system`, in kits that check signatures


_COMMON = ("numpy", "pillow", "psutil")
SIGN = "sign"  # the section of a lock with what checks signatures
_SIGNING = ("pynacl",)
_ENGINES = {"onnxruntime": ("onnxruntime",), "litert": ("ai-edge-litert",)}


def _platforms(arch: str) -> tuple[str, ...]:
    # pip derives no older tag from a newer one when it is told a platform
    return (*(f"manylinux_2_{minor}_{arch}" for minor in (28, 27, 17)), f"manylinux2014_{arch}")


TARGETS = {
    one.arch: one
    for one in (
        Target("aarch64", 64, _platforms("aarch64"), ("asimd",), _ENGINES, _COMMON),
        Target("x86_64", 64, _platforms("x86_64"), ("sse4_2", "ssse3", "popcnt"), _ENGINES, _COMMON),
        Target(
            "armv7l",
            32,
            ("manylinux_2_34_armv7l",),
            ("neon", "vfpv4"),
            {"litert": ("tflite-runtime",)},
            system=(
                Module("numpy", "python3-numpy", "1.24", "2.0"),
                Module("PIL", "python3-pil", "9.4"),
                Module("psutil", "python3-psutil", "5.9"),
            ),
            signing=(Module("nacl", "python3-nacl", "1.5"),),
        ),
    )
}


# ---------------------------------------------------------------- wheels


def lock_path(arch: str, python: str) -> Path:
    return HERE / f"{arch}-{python}.txt"


def pinned(path: Path) -> dict[str, list[str]]:
    """The lines of a lock by section. Raises Failure where there is none."""
    try:
        text = path.read_text()
    except OSError as error:
        known = sorted(one.stem for one in HERE.glob("*-3.*.txt"))
        said = f"{path.name}: {error.strerror}; there are {', '.join(known)}"
        raise Failure(said, f"scripts/kit --lock {path.stem}") from error
    sections: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line.startswith("# section "):
            lines = sections.setdefault(line.removeprefix("# section "), [])
        elif line and not line.startswith("#"):
            lines.append(line)
    return sections


def pip(*words: str | Path) -> None:
    line = [sys.executable, "-m", "pip", "--disable-pip-version-check", *map(str, words)]
    done = subprocess.run(line, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        last = "\n".join(text for text in done.stderr.strip().splitlines() if text.startswith("ERROR"))
        raise Failure(f"pip {words[0]}: exit code {done.returncode}\n{last or done.stderr[-2000:]}")


def download(target: Target, python: str, into: Path, wheels: Path | None, *words: str) -> list[Path]:
    line: list[str | Path] = ["download", "--quiet", "--dest", into, "--only-binary=:all:", "--python-version", python]
    line += ["--implementation", "cp", "--abi", f"cp{python.replace('.', '')}", "--abi", "abi3", "--abi", "none"]
    line += [word for platform in target.platforms for word in ("--platform", platform)]
    if wheels is not None:
        line += ["--no-index", "--find-links", wheels.resolve()]
    pip(*line, *words)
    return sorted(into.glob("*.whl"))


def fetch(
    target: Target, python: str, engines: Sequence[str], into: Path, wheels: Path | None = None, *, sign: bool = False
) -> list[Path]:
    """The locked wheels, each with the digest that the lock says, from PyPI or from the folder `wheels`. `sign`: with
    what checks signatures."""
    sections = pinned(lock_path(target.arch, python))
    if unknown := [name for name in engines if name not in sections]:
        raise Failure(f"engine: found {unknown[0]}, wanted one of {', '.join(target.engines)} on {target.arch}")
    lines = [line for name in ("common", *engines, *([SIGN] if sign else [])) for line in sections.get(name, ())]
    needs = into / "needs.txt"
    needs.write_text("".join(f"{line}\n" for line in sorted(set(lines))))
    return download(target, python, into, wheels, "--no-deps", "--require-hashes", "-r", str(needs))


def lock(arch: str, python: str) -> Path:
    """Resolve anew, and write which files were found with their digests."""
    target = TARGETS[arch]
    lines = [f"# What a kit for {arch} and Python {python} is made of. scripts/kit --lock {arch}-{python} writes it."]
    groups = {"common": target.common, **target.engines, SIGN: () if target.signing else _SIGNING}
    common: set[str] = set()
    with tempfile.TemporaryDirectory() as scratch:
        for section, names in groups.items():
            into = Path(scratch, section)
            into.mkdir()
            # all at once, so that one version of numpy suits them all; 32 bit: what it needs is the system's
            words = ["--no-deps", *names] if target.system else [*target.common, *names]
            made = []
            for path in download(target, python, into, None, *words) if names else ():
                name, version = path.name.split("-")[:2]
                made.append(f"{name.replace('_', '-').lower()}=={version} --hash=sha256:{digest(path.read_bytes())}")
            lines += [f"# section {section}", *(line for line in made if line not in common)]
            common = common or set(made)
    path = lock_path(arch, python)
    path.write_text("\n".join(lines) + "\n")
    return path


def own_wheel(into: Path) -> Path:
    """This checkout's package."""
    pip("wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", into, ROOT)
    (wheel,) = into.glob("edge_runtime-*.whl")
    return wheel


# ---------------------------------------------------------------- the file


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def least_glibc(names: Sequence[str]) -> str:
    """Of the wheels' own tags: what all of them run on."""
    oldest = []
    for name in names:
        tags = name.removesuffix(".whl").split("-")[-1]
        found = [(int(major), int(minor)) for major, minor in re.findall(r"manylinux_(\d+)_(\d+)_", tags)]
        found += [(2, 17)] if "manylinux2014" in tags else []
        if found:
            oldest.append(min(found))
    major, minor = max(oldest, default=(2, 17))
    return f"{major}.{minor}"


def make_kit(
    target: Target,
    python: str,
    wheels: Sequence[Path],
    out: Path,
    *,
    bundle: Path | None = None,
    device: str = "",
    sign: bool = False,
) -> dict[str, Any]:
    """Write the kit to `out`, and return its kit.json. `bundle`: else the one that is in the package's wheel. `sign`:
    the system must have what checks signatures, where that is no wheel.

    Raises Failure where it cannot be written.
    """
    parts: list[tuple[str, bytes]] = [(f"wheels/{one.name}", one.read_bytes()) for one in sorted(wheels)]
    if bundle is not None:
        parts.append((f"models/{bundle.name}", bundle.read_bytes()))
    sizes = [size for name, content in parts for size in sizes_of(name, content)]
    (version,) = (one.name.split("-")[1] for one in wheels if one.name.startswith("edge_runtime-"))
    about: dict[str, Any] = {"format": FORMAT, "version": version, "device": device}
    about["target"] = {"arch": target.arch, "bits": target.bits, "python": python, "features": list(target.features)}
    about["target"]["glibc"] = least_glibc([one.name for one in wheels])
    about["system"] = [one.to_json() for one in (*target.system, *(target.signing if sign else ()))]
    about["bundle"] = f"models/{bundle.name}" if bundle else "malaria"
    about["parts"] = [{"name": name, "sha256": digest(content), "bytes": len(content)} for name, content in parts]
    about["files"] = len(sizes)
    about["installed_bytes"] = sum(-(-size // BLOCK_BYTES) * BLOCK_BYTES for size in sizes)
    installer = (HERE / "installer.py").read_bytes()
    telling = json.dumps([about, digest(installer)], sort_keys=True).encode()
    about["id"] = f"{version}-{digest(telling)[:12]}"
    files = [("__main__.py", installer), ("kit.json", json.dumps(about, indent=1).encode()), *parts]
    write(out, files)
    return about


def sizes_of(name: str, content: bytes) -> list[int]:
    """Of the files that a part becomes on the device, in bytes."""
    if not name.endswith(".whl"):
        return [len(content)]
    with zipfile.ZipFile(io.BytesIO(content)) as wheel:
        return [one.file_size for one in wheel.infolist() if not one.is_dir()]


def write(out: Path, files: Sequence[tuple[str, bytes]]) -> None:
    trial = out.with_name(f"{out.name}.new")
    try:
        with open(trial, "wb") as file:
            file.write(b"#!/usr/bin/env python3\n")
            with zipfile.ZipFile(file, "w") as archive:
                for name, content in files:  # stored: wheels are compressed already, and zlib's versions differ
                    about = zipfile.ZipInfo(name, WHEN)
                    about.create_system, about.external_attr = 3, (stat.S_IFREG | 0o644) << 16
                    archive.writestr(about, content)
        trial.chmod(0o755)
        trial.replace(out)
    except OSError as error:
        trial.unlink(missing_ok=True)
        raise Failure(f"{out}: {error.strerror or error}") from error
