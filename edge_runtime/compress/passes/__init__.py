"""The passes by name. A pass raises ValueError from its own __post_init__ for a setting that makes no sense.

Names decode themselves: what is done, then to how many bits. A new pass is a file here and its line.
"""

# name -> "module:class"
PASSES: dict[str, str] = {
    "static_w8a8": "static:Static",
    "dynamic_w8a8": "dynamic:Dynamic",
    "weights_fp16": "fp16:WeightsFp16",
    "weights_minifloat": "minifloat:Minifloat",
    "weights_int": "weights:WeightsOnly",
    "mixed": "mixed:Mixed",
    "grid": "grid:Grid",
}
