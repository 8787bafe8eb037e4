"""The passes by name. A pass raises ValueError from its own __post_init__ for a setting that makes no sense.

Names decode themselves: what is done, then to how many bits. A new pass is a file here and its line.
"""

# name -> "module:class"
PASSES: dict[str, str] = {
    "static_w8a8": "static:Static",
    "dynamic_w8a8": "dynamic:Dynamic",
    "weights_int": "weights:WeightsOnly",
    "weights_fp16": "fp16:WeightsFp16",
    "weights_minifloat": "minifloat:Minifloat",
    "mixed": "mixed:Mixed",
    "grid": "grid:Grid",
    "prune_channels": "prune_channels:PruneChannels",
    "prune_weights": "prune_weights:PruneWeights",
    "prune_and_tune": "prune_tune:PruneTune",
    "low_rank": "low_rank:LowRank",
    "share_weights": "share_weights:ShareWeights",
    "repair": "repair:Repair",
    "quantize_aware": "quantize_aware:QuantizeAware",
    "code": "code:Code",
}
