"""What a model takes and gives: named arrays, and how any array is made to fit.

A `TensorSpec` says shape, dtype and, for integer tensors, the affine quantization real = scale * (q - zero_point).
numpy is imported inside the functions: reading a bundle's header must not load it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from edge_runtime.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[Any]

DTYPES = (
    *("float32", "float16", "float64", "bfloat16", "bool", "string"),
    *("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64", "complex64"),
)


class TensorSpec(NamedTuple):
    """One input or output. `shape` has None where a size is free (batch); scale is per tensor, None for float.

    A NamedTuple, as is all that the child loads before a model: making a frozen dataclass takes ten times as long, and
    the start of a process is what its user waits for.
    """

    name: str
    shape: tuple[int | None, ...]
    dtype: str
    scale: float | None = None
    zero_point: int | None = None

    def __str__(self) -> str:
        sizes = "x".join("?" if size is None else str(size) for size in self.shape)
        return f"{self.name} {self.dtype}[{sizes}]"

    def to_json(self) -> dict[str, Any]:
        plain: dict[str, Any] = {"name": self.name, "shape": list(self.shape), "dtype": self.dtype}
        if self.scale is not None:
            plain |= {"scale": self.scale, "zero_point": self.zero_point or 0}
        return plain

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> TensorSpec:
        shape = tuple(None if size is None else int(size) for size in plain["shape"])
        return cls(str(plain["name"]), shape, str(plain["dtype"]), plain.get("scale"), plain.get("zero_point"))


def distinct(names: Iterable[str], what: str) -> list[str]:
    """Names by which tensors can be told apart: in real files some are blank or stand twice, and get their position."""
    made: list[str] = []
    for position, found in enumerate(names):
        name = found or f"{what}{position}"
        while name in made:
            name = f"{name}#{position}"
        made.append(name)
    return made


def quantize(real: Array, spec: TensorSpec) -> Array:
    """Real numbers to the integers of `spec`: rounded to nearest even, clipped to the dtype's range."""
    import numpy as np

    limits = np.iinfo(spec.dtype)
    steps = np.rint(np.asarray(real, np.float64) / (spec.scale or 1.0)) + (spec.zero_point or 0)
    quantized: Array = np.clip(steps, limits.min, limits.max).astype(spec.dtype)
    return quantized


def dequantize(array: Array, spec: TensorSpec) -> NDArray[np.float32]:
    """The integers of `spec` to real numbers, float32; float arrays pass through."""
    import numpy as np

    if spec.scale is None:
        return np.asarray(array, np.float32)
    return ((array.astype(np.float32) - np.float32(spec.zero_point or 0)) * np.float32(spec.scale)).astype(np.float32)


def fit(array: object, spec: TensorSpec) -> Array:
    """Any array-like made to fit `spec`: cast, quantized when it is real and the tensor is not, shape checked.

    Raises InputError naming the tensor, what was found and what was wanted; nothing is reshaped or broadcast silently.
    """
    import numpy as np

    try:
        found = np.asarray(array)
    except (ValueError, TypeError, OverflowError) as error:
        raise InputError(f"input {spec.name!r}: found {str(error)[:200]}, wanted {spec} as an array") from error
    if spec.dtype == "string":
        found = _strings(found, spec)
    elif spec.dtype in ("bfloat16", "complex64") or found.dtype.kind not in "fiub":
        raise InputError(f"input {spec.name!r}: found {found.dtype}, wanted {spec.dtype} as a numpy array of numbers")
    elif found.dtype != np.dtype(spec.dtype):
        found = _cast(found, spec)
    wanted = spec.shape
    same = len(found.shape) == len(wanted) and all(w in (None, f) for w, f in zip(wanted, found.shape, strict=True))
    if not same:
        raise InputError(f"input {spec.name!r}: found shape {list(found.shape)}, wanted {spec}")
    # of 0-d arrays numpy's functions make scalars, which engines do not take
    return np.ascontiguousarray(found) if found.ndim else np.asarray(found)


def _strings(found: Array, spec: TensorSpec) -> Array:
    made = as_text(found)
    if not all(isinstance(one, str) for one in made.ravel().tolist()):
        raise InputError(f"input {spec.name!r}: found {found.dtype}, wanted strings")
    return made


def as_text(found: Array) -> Array:
    """An array of bytes or strings as one of strings (dtype object): bytes that are not UTF-8 stand as surrogates, as
    in Python's file names, and become the same bytes again. What is neither stays as it is."""
    import numpy as np

    plain = [
        one.decode("utf-8", "surrogateescape") if isinstance(one, bytes) else one for one in found.ravel().tolist()
    ]
    made = np.empty(len(plain), object)
    made[:] = plain
    return made.reshape(found.shape)


def _cast(found: Array, spec: TensorSpec) -> Array:
    import numpy as np

    if found.dtype.kind == "f" and spec.scale is not None:
        if not np.isfinite(found).all():
            raise InputError(f"input {spec.name!r}: found NaN or infinity, wanted finite numbers to quantize")
        return quantize(found, spec)
    target = np.dtype(spec.dtype)
    if found.dtype.kind == "f" and target.kind != "f":
        raise InputError(f"input {spec.name!r}: found {found.dtype}, wanted {spec.dtype}, and the tensor has no scale")
    with np.errstate(over="ignore"):
        cast = found.astype(target)
    if target.kind in "iub" and found.dtype.kind in "iu" and not np.array_equal(cast, found):
        raise InputError(f"input {spec.name!r}: found values that {spec.dtype} cannot hold")
    if target.kind == "f" and found.dtype.kind == "f" and np.isinf(cast).any() and not np.isinf(found).any():
        raise InputError(f"input {spec.name!r}: found values that {spec.dtype} cannot hold")
    return cast


def fit_all(feeds: Mapping[str, object], specs: tuple[TensorSpec, ...]) -> dict[str, Array]:
    """Every input of a program, fitted. Raises InputError when a name is missing or unknown."""
    names = [spec.name for spec in specs]
    if not isinstance(feeds, Mapping):
        raise InputError(f"inputs: found {type(feeds).__name__}, wanted a dictionary of arrays: {', '.join(names)}")
    if set(feeds) != set(names):
        raise InputError(f"inputs: found {sorted(feeds)}, wanted {names}")
    return {spec.name: fit(feeds[spec.name], spec) for spec in specs}
