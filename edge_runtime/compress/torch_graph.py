"""Run an ONNX graph in PyTorch, its weights as parameters that training can change and that are written back by name.

For the form onnx, float32. What has no rule here is refused by name. Torch is imported in functions only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from edge_runtime.compress.artifact import Artifact
from edge_runtime.compress.layers import array_of, set_array
from edge_runtime.compress.samples import Samples
from edge_runtime.errors import EngineError, InputError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# initializers of more numbers than these are learned; smaller ones are settings: bounds, exponents, epsilons
LEARNED = ("Conv", "ConvTranspose", "Gemm", "MatMul", "Add", "Sub", "Mul", "Div", "PRelu", "Gather")
NORMALIZED = ("BatchNormalization", "LayerNormalization", "InstanceNormalization")


def need_torch() -> Any:
    """The module. Raises EngineError where it is not installed."""
    try:
        import torch
    except ImportError as error:
        raise EngineError("torch is not installed", hint="pip install 'edge-runtime[train]'") from error
    return torch


class TorchGraph:
    """`parameters` by initializer name: float tensors that ask for gradients. Call it with {input: tensor}."""

    def __init__(self, artifact: Artifact) -> None:
        """Raises InputError for an operator without a rule, EngineError without torch."""
        from edge_runtime.compress.torch_rules import RULES

        torch = need_torch()
        self.model = artifact.model()
        self.form = artifact.form
        self.nodes = list(self.model.graph)
        missing = sorted({node.op_type for node in self.nodes if node.op_type not in RULES})
        if missing:
            raise InputError(f"found operators that cannot be trained here: {', '.join(missing)}")
        self.rules = [RULES[node.op_type] for node in self.nodes]
        self.parameters: dict[str, Any] = {}
        self.constants: dict[str, Any] = {}
        self.arrays: dict[str, Any] = {}  # as numpy: for rules that need plain numbers, such as a shape
        for name, value in self.model.graph.initializers.items():
            array = array_of(value).copy()
            tensor = torch.from_numpy(array)
            if self._is_learned(value):
                if tensor.ndim == 4:
                    tensor = tensor.contiguous(memory_format=torch.channels_last)
                self.parameters[name] = tensor.requires_grad_()
            else:
                self.constants[name] = tensor
                self.arrays[name] = array
        self.outputs = [value.name or "" for value in self.model.graph.outputs]
        self.last_use = self._last_uses()

    def _is_learned(self, value: Any) -> bool:
        if value.dtype is None or value.dtype.name != "FLOAT":
            return False
        uses = value.uses()
        if any(node.op_type in NORMALIZED and place >= 3 for node, place in uses):
            return False  # running means and variances
        kinds = {node.op_type for node, _ in uses}
        return bool(kinds) and kinds <= {*LEARNED, *NORMALIZED} and value.const_value.size > 1

    def _last_uses(self) -> dict[str, int]:
        made: dict[str, int] = {}
        for number, node in enumerate(self.nodes):
            for value in node.inputs:
                if value is not None and value.name:
                    made[value.name] = number
        return made

    def __call__(self, feed: dict[str, Any], also: Sequence[str] = ()) -> dict[str, Any]:
        """Outputs, then the tensors called `also`, by name. Tensors are let go once nothing reads them."""
        found: dict[str, Any] = {**self.constants, **self.parameters, **feed}
        wanted = {*self.outputs, *also}
        for number, (node, rule) in enumerate(zip(self.nodes, self.rules, strict=True)):
            given = [None if value is None else found[value.name or ""] for value in node.inputs]
            made = rule(self, node, *given)
            made = made if isinstance(made, tuple | list) else (made,)
            for output, tensor in zip(node.outputs, made, strict=False):
                found[output.name or ""] = tensor
            for one in node.inputs:
                name = "" if one is None else one.name or ""
                if self.last_use.get(name) == number and name in found and name not in wanted:
                    del found[name]
        return {name: found[name] for name in dict.fromkeys([*self.outputs, *also])}

    def artifact(self) -> Artifact:
        """The graph with the parameters as they are now."""
        import numpy as np

        for name, tensor in self.parameters.items():
            array = np.ascontiguousarray(tensor.detach().numpy())
            set_array(self.model.graph.initializers[name], array)
        return Artifact.of(self.model, self.form)


def effects(
    artifact: Artifact, samples: Samples, names: Sequence[str], seed: int
) -> Iterator[dict[str, NDArray[np.float32]]]:
    """For each item, weight x gradient of the weights called `names`: how far the answers move, to first order, along a
    random direction (plus or minus one standard deviation for each number), were that weight 0."""
    torch = need_torch()
    graph = TorchGraph(artifact)
    dice = torch.Generator().manual_seed(seed)
    with single_thread(torch):
        for feed in samples.feeds():
            answers = graph({key: torch.from_numpy(array) for key, array in feed.items()})
            moved = sum((one * _signs(torch, one, dice)).sum() for one in answers.values() if one.is_floating_point())
            chosen = [graph.parameters[name] for name in names]
            slopes = torch.autograd.grad(moved, chosen, allow_unused=True)
            yield {
                name: (weight.detach() * (0 if slope is None else slope)).numpy()
                for name, weight, slope in zip(names, chosen, slopes, strict=True)
            }


def _signs(torch: Any, like: Any, dice: Any) -> Any:
    return torch.randint(0, 2, like.shape, generator=dice).float() * 2 - 1


class single_thread:
    """One thread inside, so that the same run gives the same bytes; what was set before, after."""

    def __init__(self, torch: Any, threads: int = 1) -> None:
        self.torch, self.threads = torch, threads

    def __enter__(self) -> None:
        self.before = self.torch.get_num_threads()
        self.torch.set_num_threads(self.threads)

    def __exit__(self, *_: object) -> None:
        self.torch.set_num_threads(self.before)
