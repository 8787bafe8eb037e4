"""What a user sets of a training, of rounding and of pruning: frozen, checked when they are made."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

WEIGHTS = ("int8", "int4", "ternary")
ACTIVATIONS = ("uint8", "float")
RANGES = ("learnt", "average")
KINDS = ("magnitude", "rigl", "set", "channels")
SCOPES = ("layer", "global", "lamp")

Loss = Callable[[Any, tuple[Any, ...], Any], Any]
"""(network, its inputs, places in the lessons) -> scalar tensor."""

Hook = Callable[[int, int], None]
"""(step, of all): around an optimizer step, counted from 0."""


@dataclass(frozen=True)
class Fit:
    """`rate`: the highest learning rate; `decay`: AdamW's weight decay; `warm`: share of the steps in which the rate
    rises; `average`: weight of the past in the running average of the weights, which is what is returned (0: the
    weights as they are); `clip`: largest norm of the gradient, 0 for none; `threads` of PyTorch.

    Raises ValueError for settings that make no sense."""

    epochs: int = 8
    batch: int = 64
    rate: float = 3e-3
    decay: float = 0.02
    warm: float = 0.2
    average: float = 0.998
    clip: float = 5.0
    seed: int = 1
    threads: int = 1

    def __post_init__(self) -> None:
        for name in ("epochs", "batch", "threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"found {name} {getattr(self, name)}, wanted 1 or more")
        for name in ("warm", "average"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"found {name} {getattr(self, name)}, wanted from 0 up to below 1")
        if not 0 < self.rate < math.inf or self.decay < 0 or self.clip < 0:
            raise ValueError(
                f"found rate {self.rate}, decay {self.decay} and clip {self.clip}, wanted a rate above 0, the others "
                "0 or more"
            )


@dataclass(frozen=True)
class QuantAware:
    """`weights` int8, int4 or ternary, with a scale for each output channel; with float activations perhaps for each
    `block` input channels of it. `activations` uint8: products run in integers, and weights of fewer bits stand in
    8-bit integers, which the coder of a bundle makes small; float: weights alone are stored smaller, 4 bits and fewer
    as 4-bit integers.

    `scale_grid` above 0: scales are whole powers of the so manieth root of 2, and a file takes hardly a byte for each;
    0: any number. `ranges` of activations: a learnt step, or an average of what batches hold. `anneal`: share of the
    steps in which rounding grows from none to all. `keep`: layers that stay float, `eight`: that get 8 bits, by the
    module's path, or all that are depthwise, the first, the last. `keep_zeros`: weights that are 0 stay so (after
    pruning). `spare_bit`: 8-bit weights of integer layers reach 64 only, as x86 without VNNI would saturate. `least`:
    with float activations, layers of fewer weights stay float. `tables`: embeddings as int8. `calibrate`: items that
    ranges begin from.

    Raises ValueError for settings that make no sense."""

    weights: str = "int8"
    activations: str = "uint8"
    block: int = 0
    scale_grid: int = 0
    ranges: str = "learnt"
    anneal: float = 0.0
    keep: tuple[str, ...] = ()
    eight: tuple[str, ...] = ()
    keep_zeros: bool = True
    spare_bit: bool = True
    least: int = 64
    tables: bool = True
    calibrate: int = 256

    def __post_init__(self) -> None:
        for name, known in (("weights", WEIGHTS), ("activations", ACTIVATIONS), ("ranges", RANGES)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}: found {getattr(self, name)!r}, wanted {' or '.join(known)}")
        if self.block and (self.block < 16 or self.block & (self.block - 1)):
            raise ValueError(f"block: found {self.block}, wanted 0 or a power of two from 16 on")
        if self.block and self.activations != "float":
            raise ValueError("found block with activations uint8, wanted float: integer products have no blocks")
        if not 0 <= self.anneal < 1 or min(self.calibrate, self.least) < 1 or not 0 <= self.scale_grid <= 16:
            raise ValueError(
                f"found anneal {self.anneal}, calibrate {self.calibrate}, least {self.least} and scale_grid "
                f"{self.scale_grid}, wanted anneal from 0 up to below 1, scale_grid 0 to 16, the others 1 or more"
            )


@dataclass(frozen=True)
class PruneAndTune:
    """`share` of the weights (or of each group's channels) is gone in the end; or all but `n` of each `m` consecutive
    inputs. `scope`: the same share of each layer, one bar for all (global), or one on a layer-adaptive score (lamp).
    Shares rise from `begin` to `end` of the steps, every `every` steps. `exchange`: share of the living that rigl and
    set replace at first, less and less until `end`. Depthwise layers stay whole unless `depthwise`, those in `skip`
    (paths of modules; for channels, names of nodes, too) always.

    For channels: `rounds` cuts, by `importance` as in prune_channels, counts rounded to `multiple` at the last;
    `between`: share of the steps spent before the last cut.

    Raises ValueError for settings that make no sense."""

    share: float = 0.5
    kind: str = "magnitude"
    scope: str = "lamp"
    n: int = 0
    m: int = 0
    begin: float = 0.0
    end: float = 0.6
    every: int = 20
    exchange: float = 0.3
    skip: tuple[str, ...] = ()
    depthwise: bool = False
    rounds: int = 2
    importance: str = "activation"
    multiple: int = 1
    between: float = 0.3
    items: int = 256
    seed: int = 1

    def __post_init__(self) -> None:
        if self.kind not in KINDS or self.scope not in SCOPES:
            raise ValueError(
                f"found kind {self.kind!r} and scope {self.scope!r}, wanted one of {', '.join(KINDS)} and one of "
                f"{', '.join(SCOPES)}"
            )
        if not 0 < self.share < 1 or not 0 <= self.begin < self.end <= 1:
            raise ValueError(
                f"found share {self.share}, begin {self.begin}, end {self.end}, wanted a share between 0 and 1, and "
                "begin before end, within 0 to 1"
            )
        if self.m and (not 0 < self.n < self.m or self.kind != "magnitude"):
            raise ValueError(f"found {self.n} of {self.m}, {self.kind}, wanted n between 0 and m, and magnitude")
        if min(self.every, self.rounds, self.multiple, self.items) < 1:
            raise ValueError("found every, rounds, multiple or items below 1, wanted 1 or more")
        if not 0 < self.exchange <= 1 or not 0 < self.between < 1:
            raise ValueError(f"found exchange {self.exchange}, between {self.between}, wanted them between 0 and 1")
