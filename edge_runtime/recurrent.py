"""State that goes through the model's own tensors: what an output gave is fed to an input at the next run.

Recurrent networks written as one step, and language models with a cache, are exported so. The caller sees neither
end: the state stays where the model runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from edge_runtime.errors import InputError, UsageError
from edge_runtime.tensors import dequantize, fit

if TYPE_CHECKING:
    from edge_runtime.engine import Program
    from edge_runtime.tensors import Array, TensorSpec

# Words by which exporters call what comes in and what goes out.
_PAIRS = (("in", "out"), ("past", "present"), ("prev", "next"), ("0", "n"), ("h0", "hn"), ("c0", "cn"), ("t_1", "t"))


class Recurrent:
    """A Program whose inputs `state` (input name -> output name) are fed what those outputs gave.

    Before the first run, and after `reset`, the state is zeros (empty strings), or what `reset` was given. A first
    size that is free is the batch of the other inputs; other free sizes cannot be guessed and must be given.
    Raises UsageError for names that the model does not have, and for pairs that can never fit.
    """

    def __init__(self, program: Program, state: Mapping[str, str]) -> None:
        self._program = program
        self._state = dict(state)
        self._specs = _checked(program, state)
        self._out_specs = {one.name: one for one in program.outputs}
        self.inputs = tuple(one for one in program.inputs if one.name not in state)
        self.outputs = tuple(one for one in program.outputs if one.name not in state.values())
        self.labels, self.signatures = program.labels, program.signatures
        self._start: dict[str, Array] = {}
        self._now: dict[str, Array] = {}

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Raises InputError where the state cannot be begun, or where what came out does not go in again."""
        now = {name: self._now.get(name, self._start.get(name)) for name in self._state}
        whole = dict(feeds)
        for name, array in now.items():
            whole[name] = self._zeros(self._specs[name], feeds) if array is None else array
        found = self._program.run(whole)
        self._now = {name: self._again(name, found[source]) for name, source in self._state.items()}
        return {one.name: found[one.name] for one in self.outputs}

    def reset(self, start: Mapping[str, object] | None = None) -> None:
        """Forget. `start`: what the state is now, by input name; what is left out is zeros. Raises InputError."""
        unknown = set(start or {}) - set(self._state)
        if unknown:
            raise InputError(f"state: found {sorted(unknown)}, wanted some of {sorted(self._state)}")
        made = {name: fit(array, self._specs[name]) for name, array in (start or {}).items()}
        self._program.reset()
        self._start, self._now = made, {}

    def close(self) -> None:
        self._now = {}
        self._program.close()

    def _zeros(self, spec: TensorSpec, feeds: Mapping[str, Array]) -> Array:
        import numpy as np

        shape = list(spec.shape)
        if shape and shape[0] is None:
            free = (feeds[one.name].shape[0] for one in self.inputs if one.shape and one.shape[0] is None)
            shape[0] = next(free, None)
        if None in shape:
            raise InputError(
                f"state {spec.name!r}: found free sizes in {spec}, wanted an array to begin with",
                hint=f"program.reset({{{spec.name!r}: array}})",
            )
        if spec.dtype == "string":
            return np.full(shape, "", object)  # type: ignore[arg-type]
        # real zeros: in a quantized tensor they are not the integer 0
        return fit(np.zeros(shape, np.float32 if spec.scale else spec.dtype), spec)  # type: ignore[arg-type]

    def _again(self, name: str, found: Array) -> Array:
        import numpy as np

        out, into = self._out_specs[self._state[name]], self._specs[name]
        if (out.scale, out.zero_point) != (into.scale, into.zero_point):
            return fit(dequantize(found, out), into)
        # the engine may give the same memory again
        return np.array(fit(found, into))


def _checked(program: Program, state: Mapping[str, str]) -> dict[str, TensorSpec]:
    inputs, outputs = {one.name: one for one in program.inputs}, {one.name: one for one in program.outputs}
    for name, source in state.items():
        if name not in inputs or source not in outputs:
            raise UsageError(
                f"state: found {name!r} fed by {source!r}, wanted an input ({', '.join(inputs)}) fed by an output "
                f"({', '.join(outputs)})"
            )
        if not _fits(outputs[source], inputs[name]):
            raise UsageError(f"state: found {outputs[source]} for {inputs[name]}, wanted the same dtype and sizes")
    return {name: inputs[name] for name in state}


def _fits(out: TensorSpec, into: TensorSpec) -> bool:
    sizes = zip(out.shape, into.shape, strict=False)
    quantized = out.scale is not None and into.scale is not None
    same = len(out.shape) == len(into.shape) and all(None in (a, b) or a == b for a, b in sizes)
    return same and (quantized or (out.dtype == into.dtype and out.scale == into.scale))


def likely_state(inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> dict[str, str]:
    """The pairs that look like state by their names (h_in and h_out, past.0 and present.0): a guess, for a hint."""
    by_name = {one.name: one for one in outputs}
    found: dict[str, str] = {}
    for one in inputs:
        for a, b in _PAIRS:
            head, word, rest = one.name.rpartition(a)
            other = by_name.get(head + b + rest)
            if word and other and other.name not in found.values() and _fits(other, one):
                found[one.name] = other.name
                break
    return found
