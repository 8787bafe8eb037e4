"""How much memory the process of a model takes at its peak, from a few numbers that are read when it is packed.

    while it loads   the engine's base + the file + what is made of it: the parsed graph, packed copies of the weights
    while it runs    the engine's base + what stays of the weights + activations
    the peak         the larger of the two, + the task's own: its modules, a decoded photograph

The coefficients were fitted to networks with random weights (scripts/check_memory --fit), on x86-64 and for 32-bit ARM
in an emulated machine (scripts/arm/footprints.py), and checked on others: models/memory.jsonl, models/arm.jsonl.
Without the numbers there is the model's size alone, which says much less.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

_MIB = 1 << 20


class Parts(NamedTuple):
    """Bytes of a model as its engine runs it, batch 1 (compress/footprint_read.py reads them).

    file_bytes        the model file
    conv_bytes        float weights of convolutions, which engines keep packed in an order of their own
    matrix_bytes      the same of matrix products
    int8_bytes        weights that are computed with in 8 bits
    rest_bytes        every other constant
    spread_bytes      weights after what widens them when the model is loaded, TFLite's DEQUANTIZE of a constant
    input_bytes       what a caller gives
    activation_bytes  the most that is alive together, in the order of execution
    scratch_bytes     the largest that one operator needs besides
    operators         their number
    """

    file_bytes: int
    conv_bytes: int = 0
    matrix_bytes: int = 0
    int8_bytes: int = 0
    rest_bytes: int = 0
    spread_bytes: int = 0
    input_bytes: int = 0
    activation_bytes: int = 0
    scratch_bytes: int = 0
    operators: int = 0


class Law(NamedTuple):
    """Of one engine: what a byte of each part (or one operator) takes at the peak of loading, and when it runs."""

    loading: Mapping[str, float]
    running: Mapping[str, float]
    by_size: float  # of the file, where nothing else is known


LAWS = {
    "onnxruntime": Law(
        {
            "file_bytes": 2.64,
            "conv_bytes": 1.28,
            "matrix_bytes": 0.19,
            "int8_bytes": 0.30,
            "operators": 9.4e3,
        },
        {
            "file_bytes": 0.96,
            "conv_bytes": 0.53,
            "matrix_bytes": 0.17,
            "int8_bytes": 0.07,
            "activation_bytes": 1.41,
            "scratch_bytes": 0.155,
            "input_bytes": 4.0,
            "operators": 17.5e3,
        },
        3.4,
    ),
    "litert": Law(
        {
            "file_bytes": 0.95,
            "conv_bytes": 1.03,
            "matrix_bytes": 1.03,
            "int8_bytes": 1.18,
            "spread_bytes": 1.0,
            "activation_bytes": 1.63,
            "operators": 1.0e3,
        },
        {
            "file_bytes": 0.965,
            "conv_bytes": 1.04,
            "matrix_bytes": 1.02,
            "int8_bytes": 1.17,
            "spread_bytes": 1.0,
            "activation_bytes": 1.97,
            "input_bytes": 3.25,
            "operators": 2.0e3,
        },
        2.2,
    ),
}
# Where the engine is another program: TFLite's own kernels, which keep weights as the file has them. Fitted to 13
# networks in an emulated machine; what 8-bit weights take for a moment is the mean of the two that have such. By the
# size alone 9 of the 10 of over a megabyte take less than is said (a U-Net of large activations takes far more).
_LAWS_BY_ARCH = {
    ("litert", "armv7l"): Law(
        {"file_bytes": 0.98, "int8_bytes": 0.05, "operators": 14e3},
        {
            "file_bytes": 0.98,
            "int8_bytes": 0.35,
            "activation_bytes": 0.9,
            "scratch_bytes": 0.98,
            "input_bytes": 4.4,
            "operators": 14e3,
        },
        2.25,
    )
}
# A process with Python, numpy, the engine and a model of a few kilobytes; the second: what its first inference adds.
BASES = {
    ("onnxruntime", "x86_64"): (54.1, 1.4),
    ("litert", "x86_64"): (39.2, 0.1),
    # of emulated machines; on aarch64 the factors of x86-64 hold as well (models/arm.jsonl)
    ("onnxruntime", "aarch64"): (51.6, 1.3),
    ("litert", "aarch64"): (36.2, 0.1),
    ("litert", "armv7l"): (24.2, 0.9),
}
# Where an architecture was not measured: the largest that was.
_UNKNOWN = {"onnxruntime": (57.0, 1.5), "litert": (42.0, 0.5)}
# The modules of a task and an item as phones give it: JPEGs of 4000 x 3000 pixels (costing.render).
TASKS = {"slides": 37.0, "image": 60.0}
MEASURED_ERROR = {  # by architecture: models/memory.jsonl, models/arm.jsonl
    "x86_64": "within 9 % for 50 model files",
    "aarch64": "within 10 % for 26 model files in an emulated machine",
    "armv7l": "within 5 % for 10 model files in an emulated machine",
}


def predict(engine: str, arch: str, parts: Parts, task: str | None = None) -> int:
    """Peak resident bytes of the model's process. `task`: the kind of a bundle's; None for a model file alone.

    Raises KeyError for an engine that has no law."""
    law = _law(engine, arch)
    base, first = BASES.get((engine, arch)) or _UNKNOWN[engine]
    plain: dict[str, int] = parts._asdict()
    loading = base * _MIB + sum(factor * plain[name] for name, factor in law.loading.items())
    running = (base + first) * _MIB + sum(factor * plain[name] for name, factor in law.running.items())
    # a task's memory comes after what loading took and gave back
    return round(max(loading, running + task_bytes(task)))


def task_bytes(task: str | None) -> int:
    """What a task of this kind takes with an item in hand; 0 where nothing is known of it."""
    return round(TASKS.get(task or "", 0.0) * _MIB)


def predict_by_size(engine: str, arch: str, model_bytes: int) -> int:
    """The same from the size of the file alone."""
    base, first = BASES.get((engine, arch)) or _UNKNOWN[engine]
    return round((base + first) * _MIB + _law(engine, arch).by_size * model_bytes)


def _law(engine: str, arch: str) -> Law:
    return _LAWS_BY_ARCH.get((engine, arch)) or LAWS[engine]
