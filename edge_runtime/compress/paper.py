"""What a candidate costs on a device: at least, before it is made, and as its file says once it is there.

Memory comes from the file by the laws of footprint.py for the profile's architecture and engines; latency from the
profile's operator tables where it has any. `basis` says which.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_runtime.budget import ESTIMATED, Cost
from edge_runtime.coded import WORK_BYTES
from edge_runtime.compress.artifact import Artifact
from edge_runtime.compress.footprint_read import read_parts
from edge_runtime.compress.recipe import Pass, Recipe, pass_name
from edge_runtime.compress.steps import write_whole
from edge_runtime.errors import EdgeError
from edge_runtime.footprint import Parts, predict, predict_by_size, task_bytes
from edge_runtime.operators import predict as forecast

if TYPE_CHECKING:
    from edge_runtime.profile import DeviceProfile

AT_LEAST = "at least"  # the basis of a cost that is a bound

# They change what numbers weights are, but no tensor's shape or type: the engine holds as much as of the original.
_SAME_TENSORS = ("share_weights", "prune_weights", "grid", "repair", "code")
# What they store of each weight is known; what else they do leaves the number of weights.
_SAME_COUNT = (
    *_SAME_TENSORS,
    "static_w8a8",
    "dynamic_w8a8",
    "weights_int",
    "weights_fp16",
    "weights_minifloat",
    "mixed",
    "quantize_aware",
)


@dataclass(frozen=True)
class Place:
    """Where a variant runs: an engine on the device, with the kind of the bundle's task beside it."""

    device: DeviceProfile
    engine: str
    task: str | None

    @property
    def arch(self) -> str:
        return self.device.arch

    def cost(self, artifact: Artifact, coded: bool, stored_bytes: int) -> Cost:
        """Predicted from the file."""
        more = WORK_BYTES if coded else 0
        try:
            ram = predict(self.engine, self.arch, read_parts(artifact.content, artifact.format, self.arch), self.task)
            where = f"memory predicted from the graph, for {self.engine} on {self.arch}"
        except EdgeError:  # sizes that are not fixed
            ram = predict_by_size(self.engine, self.arch, len(artifact.content)) + task_bytes(self.task)
            where = f"memory predicted from the file's size, for {self.engine} on {self.arch}"
        latency, how = self._latency(artifact)
        return Cost(ram + more, stored_bytes, latency, None, ESTIMATED, f"{where}{'; ' if how else ''}{how}")

    def _latency(self, artifact: Artifact) -> tuple[float | None, str]:
        table = next((one for one in self.device.operators if one.engine == self.engine), None)
        if table is None:
            return None, ""
        from edge_runtime.compress.graph import read_graph

        with tempfile.TemporaryDirectory(prefix="edge-runtime-") as folder:
            path = Path(folder, f"model.{artifact.format}")
            write_whole(path, artifact.content)
            try:
                found = forecast(table, read_graph(path, artifact.format, table.arch))
            except EdgeError as error:
                return None, f"no latency: {error.message}"
        without = f", without {', '.join(found.unknown)}" if found.unknown else ""
        return found.latency_ms, f"latency from the operator table of {table.when}{without}"

    def least(self, recipe: Recipe, coded: bool, unchanged: Cost, facts: Facts) -> Cost:
        """What it takes at least, knowing the recipe and the original alone. `unchanged`: the original's cost here."""
        names = [pass_name(one) for one in recipe.passes]
        same = all(name in _SAME_TENSORS for name in names)
        ram = unchanged.ram_bytes if same else predict(self.engine, self.arch, Parts(0), self.task)
        stored = 0
        if not coded:
            if same:
                stored = unchanged.storage_bytes
            elif all(name in _SAME_COUNT for name in names):
                stored = int(facts.weights * min(_bits(one) for one in recipe.passes)) // 8
        latency = unchanged.latency_ms if same else None
        return Cost(ram + (WORK_BYTES if coded else 0), stored, latency, None, AT_LEAST, "on paper")


@dataclass(frozen=True)
class Facts:
    """Of the original: `weights` that can be stored in fewer bits, `macs` of one item (None where not known)."""

    weights: int
    macs: int | None

    @classmethod
    def of(cls, artifact: Artifact) -> Facts:
        if artifact.form == "tflite":
            return cls(0, None)
        from edge_runtime.compress.layers import weighted

        layers = weighted(artifact.model()) if artifact.form == "onnx" else ()
        sizes = {str(one.weight.name): one.matrix().size for one in layers}  # layers may share weights
        return cls(sum(sizes.values()), macs_of(artifact))


def macs_of(artifact: Artifact) -> int | None:
    """Multiplications with accumulation for one item, where they can be told."""
    if artifact.form == "tflite":
        return None
    from edge_runtime.compress.count import count

    try:
        return count(artifact).macs
    except EdgeError:
        return None


def _bits(one: Pass) -> float:
    """At least, of a weight as it is stored before entropy coding; layers that are left out take more."""
    name = pass_name(one)
    settings: Any = one
    if name in _SAME_TENSORS:
        return 32
    if name == "quantize_aware":
        return {"int8": 8, "int4": 4, "ternary": 2}[settings.weights]
    if name == "weights_int":
        return int(settings.bits)
    if name == "mixed":
        return int(min(settings.bits))
    if name == "weights_minifloat":
        return 16 if settings.container == "FLOAT16" else 8
    # 0 for what is not known here: then nothing is refused on paper that might fit
    return {"static_w8a8": 8, "dynamic_w8a8": 8, "weights_fp16": 16}.get(name, 0)
