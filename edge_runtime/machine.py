"""Which machine this is, as far as measurements on it are concerned: the same name after a reboot, another one when the
memory card went into another board. No serial number, no host name: what it is made of, and nothing of whose it is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_runtime.digest import sha256
from edge_runtime.probe import read_machine
from edge_runtime.profile import FEATURE_WORDS

_RAM_STEP_BYTES = 128 << 20  # kernels keep some memory for themselves, and each version another amount


@dataclass(frozen=True)
class MachineId:
    """`cores` are groups of (part, count, MHz). `id` leaves the clock out: where the highest one cannot be read, the
    one of the moment stands in its place."""

    id: str
    title: str
    soc: str
    arch: str
    cores: tuple[tuple[str, int, int], ...]
    features: tuple[str, ...]
    ram_bytes: int
    allowed_cores: int

    def to_json(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "title": self.title,
            "soc": self.soc,
            "arch": self.arch,
            "cores": [list(group) for group in self.cores],
            "features": list(self.features),
            "ram_bytes": self.ram_bytes,
            "allowed_cores": self.allowed_cores,
        }


def machine(root: Path = Path("/")) -> MachineId:
    """The machine that this runs on. Raises ProfileError when its RAM cannot be told."""
    found = read_machine(root)
    features = tuple(sorted(FEATURE_WORDS[word] for word in found.feature_words & FEATURE_WORDS.keys()))
    parts = sorted((part, count) for part, count, _ in found.cores)
    telling = (found.soc, found.arch, parts, features, round(found.ram_bytes / _RAM_STEP_BYTES))
    name = found.soc if found.kind == "computer" else found.title
    return MachineId(
        sha256(repr(telling).encode()).hexdigest()[:16],
        name,
        found.soc,
        found.arch,
        found.cores,
        features,
        found.ram_bytes,
        found.allowed_cores,
    )
