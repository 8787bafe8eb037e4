"""Weights for micro-models: random, as engines must not meet zeros or numbers so small that a CPU is slow on them."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from edge_runtime.tensors import Array

_BLOCK = 1 << 14


def random_weights(rng: np.random.Generator, shape: tuple[int, ...], integers: bool, depth: int) -> Array:
    """int8 from -63 to 63, or float32 such that sums of `depth` products stay of the size of one. A block of random
    numbers is repeated: making millions would take longer than measuring with them."""
    import numpy as np

    size = math.prod(shape)
    if integers:
        block = rng.integers(-63, 64, min(size, _BLOCK)).astype(np.int8)
    else:
        block = (rng.standard_normal(min(size, _BLOCK)) / depth**0.5).astype(np.float32)
    return np.resize(block, shape)
