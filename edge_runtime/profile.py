"""What a device is and how much of it may be used: read from TOML, or probed on the spot as `this-device`.

A profile is a list of facts, each with where it comes from and how sure that is. `Budget` says what may be *used*,
not what is soldered on: every refusal and every limit in this package is measured against it.

A profile file has the fields of `_REQUIRED` and `_OPTIONAL`, a table `[budget]` (`ram`, `storage`, optionally
`latency`, `energy`) and a table `[sources]` with one `{ sure = "...", from = "..." }` for each fact, which is every
field but name, title and notes. One that `doctor` wrote also has `[measured]`, what was free and how fast the storage
was at that time, and with `--calibrate` also `[operators]` (operators.py). Quantities carry their unit. Memory chips
are counted in binary units (a "1.5 GB" tablet has `1.5GiB`), storage as its maker counts it (`16GB`). Where a device is
sold in several sizes, its profile is the smallest one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from edge_runtime.errors import ProfileError
from edge_runtime.fields import Table, bad, show
from edge_runtime.operators import OperatorTable, parse_operators, parse_when
from edge_runtime.units import format_bytes, parse_bytes, parse_mj, parse_ms

THIS_DEVICE = "this-device"
KINDS = ("board", "tablet", "phone", "computer")
# read in the source; well known; from memory; worked out by a rule; measured on the device itself
SURE = ("read", "known", "unsure", "derived", "measured")
METERS = ("none", "battery", "termux", "ina219", "pmic", "rapl", "log")
# In order of preference. 32-bit ARM has no onnxruntime wheel; it is also the only userland with just one engine.
ENGINES_OF_ARCH = {
    "aarch64": ("onnxruntime", "litert"),
    "armv7l": ("litert",),
    "x86_64": ("onnxruntime", "litert"),
}
# Our word for a CPU feature, by the word that Linux prints in /proc/cpuinfo.
_ARM_WORDS = ("neon", "vfpv4", "asimd", "atomics", "i8mm", "bf16", "sve")
_X86_WORDS = ("sse4_2", "avx", "avx2", "fma", "avx512f", "avx512_vnni", "avx_vnni")
FEATURE_WORDS = {"asimddp": "dotprod", "asimdhp": "fp16"} | {word: word for word in _ARM_WORDS + _X86_WORDS}
_FILE_LIMIT_BYTES = 64 * 1024  # a profile is some 2 KiB: whatever is larger is another kind of file
_LINE_LIMIT_BYTES = 4 * 1024  # tomllib takes the square of a dotted key's length: 17 s for one of 64 KiB
_REQUIRED = (
    *("name", "title", "kind", "arch", "soc", "cores", "features", "ram", "storage", "engines", "threads"),
    *("power_meter", "budget", "sources"),
)
_OPTIONAL = ("year", "battery_mah", "notes", "measured", "operators")
_NAME = re.compile(r"[a-z0-9]+(?:[.-][a-z0-9]+)*")


@dataclass(frozen=True)
class Budget:
    """What may be used of a device by one bundle at work; None is no limit."""

    ram_bytes: int
    storage_bytes: int
    latency_ms: float | None = None
    energy_mj: float | None = None


@dataclass(frozen=True)
class Cores:
    """A group of equal CPU cores; `mhz` is their highest clock, 0 where the system does not tell it."""

    part: str
    count: int
    mhz: int


@dataclass(frozen=True)
class Source:
    """Where a fact comes from, and how sure it is: one of `SURE`."""

    where: str
    sure: str


@dataclass(frozen=True)
class Measured:
    """What was measured on the device at `when` (UTC, ISO 8601); None where it could not be. Speeds are in bytes/s."""

    when: str
    free_ram_bytes: int
    write_bytes_per_s: int | None = None
    read_bytes_per_s: int | None = None
    fsync_ms: float | None = None


@dataclass(frozen=True)
class DeviceProfile:
    """A device. `arch` is that of the userland, `ram_bytes` and `storage_bytes` are what is soldered on or plugged in.

    `engines` stand in order of preference; `threads` is how many of them to start with. `sources` has the fields of
    the profile file as keys: "ram", "budget" and so on.
    """

    name: str
    title: str
    kind: str
    year: int | None
    arch: str
    soc: str
    cores: tuple[Cores, ...]
    features: tuple[str, ...]
    ram_bytes: int
    storage_bytes: int
    engines: tuple[str, ...]
    threads: int
    power_meter: str
    battery_mah: int | None
    budget: Budget
    sources: Mapping[str, Source] = field(hash=False)
    notes: str = ""
    measured: Measured | None = None
    operators: tuple[OperatorTable, ...] = ()


def load_profile(name_or_path: str | os.PathLike[str]) -> DeviceProfile:
    """The profile of that name, of that .toml file, or of the machine this runs on (`this-device`).

    A string is a path when it ends in .toml or holds a separator. Raises ProfileError.
    """
    name = os.fspath(name_or_path)
    if isinstance(name_or_path, os.PathLike) or name.endswith(".toml") or any(c in name for c in {"/", os.sep}):
        return _read_profile(Path(name))
    if name == THIS_DEVICE:
        return probe_device()
    files = {file.stem: file for file in _shipped_files()}
    if name not in files:
        import difflib

        close = difflib.get_close_matches(name.lower(), [*files, THIS_DEVICE], n=3, cutoff=0.4)
        nearest = f"; the closest are {', '.join(close)}" if close else ""
        raise ProfileError(f"no device profile is called {show(name)}{nearest}", hint="edge-runtime devices")
    return _read_shipped(files[name])


def list_profiles() -> list[DeviceProfile]:
    """The shipped profiles by name, `this-device` not among them. Raises ProfileError when one of them is damaged."""
    return [_read_shipped(file) for file in _shipped_files()]


def _shipped_files() -> list[Path]:
    here = Path(__file__).parent
    for folder in (here / "device_profiles", here.parent / "device_profiles"):  # a wheel; a checkout
        if folder.is_dir():
            return sorted(folder.glob("*.toml"), key=lambda file: file.stem)
    raise ProfileError(
        f"the shipped device profiles are missing: found no folder {here / 'device_profiles'}",
        hint="pip install --force-reinstall edge-runtime",
    )


def _read_shipped(path: Path) -> DeviceProfile:
    profile = _read_profile(path)
    if profile.name != path.stem:
        raise bad(str(path), "name", profile.name, f"{path.stem!r}, as the file is called")
    return profile


def _read_profile(path: Path) -> DeviceProfile:
    try:
        if not path.is_file():
            found = "a folder" if path.is_dir() else "no file" if path.exists() else "nothing"
            raise ProfileError(f"{path}: found {found}, wanted a device profile (.toml)", hint="edge-runtime devices")
        with path.open("rb") as file:
            content = file.read(_FILE_LIMIT_BYTES + 1)
    except OSError as error:
        raise ProfileError(f"{path}: cannot be read: {error.strerror or error}") from error
    return parse_profile(content, path)


def parse_profile(content: bytes, path: Path) -> DeviceProfile:
    """The profile that these bytes of a file are; `path` is what a ProfileError calls it."""
    import tomllib

    if len(content) > _FILE_LIMIT_BYTES:
        limit = format_bytes(_FILE_LIMIT_BYTES)
        raise ProfileError(f"{path}: found a file of more than {limit}, wanted a device profile of {limit} at most")
    for number, line in enumerate(content.splitlines(), 1):
        if len(line) > _LINE_LIMIT_BYTES:
            limit = format_bytes(_LINE_LIMIT_BYTES)
            raise ProfileError(f"{path}: found more than {limit} in line {number}, wanted lines of {limit} at most")
    try:
        table = tomllib.loads(content.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ProfileError(f"{path}: found byte {error.start} that is not UTF-8, wanted UTF-8 text") from error
    except (ValueError, RecursionError) as error:
        raise ProfileError(f"{path}: found text that is not TOML ({error}), wanted a device profile") from error
    return _parse_profile(table, str(path))


# ------------------------------------------------------------------------------------------------- what a file says


def _parse_profile(table: dict[str, Any], where: str) -> DeviceProfile:
    top = Table(table, where, "", _REQUIRED, _OPTIONAL)
    name = top.text("name", 60)
    if not _NAME.fullmatch(name) or name == THIS_DEVICE:
        raise top.bad("name", f"small letters, digits, '-' and '.', and not {THIS_DEVICE!r}")
    budget = Table(table["budget"], where, "budget", ("ram", "storage"), ("latency", "energy"))
    profile = DeviceProfile(
        name=name,
        title=top.text("title"),
        kind=top.one_of("kind", KINDS),
        year=top.count("year", 1990, 2100) if "year" in table else None,
        arch=top.one_of("arch", ENGINES_OF_ARCH),
        soc=top.text("soc"),
        cores=_parse_cores(table["cores"], where),
        features=top.some_of("features", sorted(FEATURE_WORDS.values())),
        ram_bytes=top.quantity("ram", parse_bytes, "1.5GiB"),
        storage_bytes=top.quantity("storage", parse_bytes, "16GB"),
        engines=top.some_of("engines", ENGINES_OF_ARCH["aarch64"], at_least=1),
        threads=top.count("threads", 1, 1024),
        power_meter=top.one_of("power_meter", METERS),
        battery_mah=top.count("battery_mah", 1, 10**6) if "battery_mah" in table else None,
        budget=Budget(
            ram_bytes=budget.quantity("ram", parse_bytes, "128MiB"),
            storage_bytes=budget.quantity("storage", parse_bytes, "64MiB"),
            latency_ms=budget.quantity("latency", parse_ms, "250ms") if "latency" in budget.values else None,
            energy_mj=budget.quantity("energy", parse_mj, "12mJ") if "energy" in budget.values else None,
        ),
        sources=_parse_sources(table, where),
        notes=top.text("notes", 2000) if "notes" in table else "",
        measured=_parse_measured(table["measured"], where) if "measured" in table else None,
    )
    if "operators" in table:
        operators = parse_operators(table["operators"], where, ENGINES_OF_ARCH[profile.arch], profile.arch)
        profile = replace(profile, operators=operators)
    _check_sense(profile, top, budget)
    return profile


def _parse_cores(found: object, where: str) -> tuple[Cores, ...]:
    if not isinstance(found, list) or not 1 <= len(found) <= 8:
        raise bad(where, "cores", found, "a list of 1 to 8 groups of cores")
    tables = [Table(group, where, f"cores[{n}]", ("part", "count", "mhz"), ()) for n, group in enumerate(found)]
    return tuple(Cores(t.text("part", 60), t.count("count", 1, 1024), t.count("mhz", 0, 10_000)) for t in tables)


def _parse_measured(found: object, where: str) -> Measured:
    may = ("write_per_s", "read_per_s", "fsync")
    table = Table(found, where, "measured", ("when", "free_ram"), may)
    write, read = (table.quantity(n, parse_bytes, "12MB") if n in table.values else None for n in may[:2])
    fsync = table.quantity("fsync", parse_ms, "4ms") if "fsync" in table.values else None
    return Measured(parse_when(table, "when"), table.quantity("free_ram", parse_bytes, "64MiB"), write, read, fsync)


def _parse_sources(table: dict[str, Any], where: str) -> dict[str, Source]:
    facts = [name for name in table if name not in ("name", "title", "notes", "sources")]
    found = table["sources"]
    if not isinstance(found, dict):
        raise bad(where, "sources", found, 'a table with one { sure = "...", from = "..." } for each fact')
    for name in found:
        if name not in facts:
            raise ProfileError(f"{where}: sources.{name}: found a source for a fact that the file does not state")
    for name in facts:
        if name not in found:
            raise ProfileError(f"{where}: {name}: found a fact without a source, wanted it under [sources]")
    tables = {name: Table(found[name], where, f"sources.{name}", ("sure", "from"), ()) for name in facts}
    return {name: Source(t.text("from", 400), t.one_of("sure", SURE)) for name, t in tables.items()}


def _check_sense(profile: DeviceProfile, top: Table, budget: Table) -> None:
    engines = ENGINES_OF_ARCH[profile.arch]
    if any(engine not in engines for engine in profile.engines):
        raise top.bad("engines", f"only {', '.join(engines)}: nothing else has a wheel for {profile.arch}")
    cores = sum(group.count for group in profile.cores)
    if profile.threads > cores:
        raise top.bad("threads", f"no more than the {cores} cores")
    for name, used, there in (
        ("ram", profile.budget.ram_bytes, profile.ram_bytes),
        ("storage", profile.budget.storage_bytes, profile.storage_bytes),
    ):
        if used > there:
            raise budget.bad(name, f"no more than the device's {name} of {format_bytes(there)}")


# ------------------------------------------------------------------------------------------------ what a machine says


def probe_device(root: Path = Path("/"), pointer_bytes: int | None = None) -> DeviceProfile:
    """The machine this runs on, as the profile `this-device`; a test gives another root with its own proc and sys.

    Budget rule: half of the RAM that is free now, 1 GiB at most; a tenth of the free storage, 1 GiB at most. A memory
    limit of this process's cgroups counts as all the RAM there is. Raises ProfileError when the RAM cannot be told.
    """
    from edge_runtime.probe import read_machine

    machine = read_machine(root, pointer_bytes)
    cores = tuple(Cores(*group) for group in machine.cores)
    words = {FEATURE_WORDS[word] for word in machine.feature_words if word in FEATURE_WORDS}
    if machine.arch == "armv7l" and "asimd" in words:  # a 64-bit kernel's word for what this userland calls neon
        words = words - {"asimd"} | {"neon"}
    budget = Budget(
        ram_bytes=min(machine.available_bytes // 2, 2**30), storage_bytes=min(machine.free_bytes // 10, 2**30)
    )
    return DeviceProfile(
        name=THIS_DEVICE,
        title=machine.title,
        kind=machine.kind,
        year=None,
        arch=machine.arch,
        soc=machine.soc,
        cores=cores,
        features=tuple(sorted(words)),
        ram_bytes=machine.ram_bytes,
        storage_bytes=machine.storage_bytes,
        engines=ENGINES_OF_ARCH.get(machine.arch, ENGINES_OF_ARCH["aarch64"]),
        threads=_threads(cores, machine.allowed_cores),
        power_meter=machine.power_meter,
        battery_mah=machine.battery_mah,
        budget=budget,
        sources=_probe_sources(machine.battery_mah is not None),
    )


def _threads(cores: tuple[Cores, ...], allowed: int) -> int:
    """As many threads as there are big cores, four at most: small models gain nothing from more, and can lose."""
    fastest = max(cores, key=lambda group: group.mhz)
    big = sum(g.count for g in cores if g.part == fastest.part and g.mhz >= 0.8 * fastest.mhz)
    return max(1, min(big, allowed, 4))


def _probe_sources(battery: bool) -> dict[str, Source]:
    where = {
        "kind": "probed: a battery, a board's device tree, or neither",
        "arch": "probed: the size of a pointer in this Python, and the CPU's family",
        "soc": "probed: device tree, else /proc/cpuinfo, else Python's platform module",
        "cores": "probed: /proc/cpuinfo and cpufreq, else psutil",
        "features": "probed: /proc/cpuinfo",
        "ram": "probed: /proc/meminfo (else psutil), bounded by the cgroup's memory limit",
        "storage": "probed: the file system of the home folder",
        "engines": "rule: those with a wheel for this architecture",
        "threads": "rule: big cores that this process may use, four at most",
        "power_meter": "probed: hwmon, the board's name, a readable powercap, power_supply, Termux:API",
        "budget": "rule: half of the RAM free now and a tenth of the free storage, 1 GiB at most each",
    } | ({"battery_mah": "probed: power_supply"} if battery else {})
    return {name: Source(text, "derived") for name, text in where.items()}
