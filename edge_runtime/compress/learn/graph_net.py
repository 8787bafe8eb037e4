"""An ONNX graph as a PyTorch module: whatever net it was exported from, what is taught is what the engines run.

Batch normalization is folded and constants are worked out before (prepare.py), so that every weight here is one in the
file. `seen` and `weights` are what a subclass changes: quantization-aware training puts its rounding there.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from torch import nn

from edge_runtime.compress.artifact import Artifact
from edge_runtime.compress.layers import set_array
from edge_runtime.compress.torch_graph import TorchGraph
from edge_runtime.errors import InputError

if TYPE_CHECKING:
    import onnx_ir as ir

KNOWN = (nn.Linear, nn.Embedding, nn.modules.conv._ConvNd, nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.PReLU)


class _Structure(TorchGraph):
    """What never changes: copies of a net share it."""

    def __deepcopy__(self, memo: dict[int, Any]) -> _Structure:
        return self


class GraphNet(nn.Module):  # type: ignore[misc]
    """Form onnx, prepared. Called with the inputs in the graph's order; gives the first output. `parts`: what else
    forward_parts gives, by name, and the tensor of the graph that it is."""

    def __init__(self, artifact: Artifact, parts: Mapping[str, str] = MappingProxyType({})) -> None:
        """Raises InputError for an operator that cannot be trained, naming the module that it comes from."""
        super().__init__()
        _refuse(artifact)
        self.given, self.parts = artifact, dict(parts)
        self.structure = _Structure(artifact)
        self.names = list(self.structure.parameters)
        self.learnt = nn.ParameterList(nn.Parameter(one.detach()) for one in self.structure.parameters.values())
        self.inputs = [str(one.name) for one in self.structure.model.graph.inputs]

    def parameter(self, name: str) -> Any:
        """Of an initializer; None where it is not learnt."""
        return self.learnt[self.names.index(name)] if name in self.names else None

    def weights(self) -> dict[str, Any]:
        """Initializers as the nodes are given them."""
        return dict(zip(self.names, self.learnt, strict=True))

    def seen(self, name: str, tensor: Any) -> Any:
        """A tensor, once it is made, as every node that reads it gets it."""
        return tensor

    def read(self, number: int, name: str, found: dict[str, Any]) -> Any:
        """A tensor as the node of this number gets it."""
        return found[name]

    def forward(self, *inputs: Any) -> Any:
        return self._run(inputs)[self.structure.outputs[0]]

    def forward_parts(self, *inputs: Any) -> dict[str, Any]:
        """ "logits", and what the module that this net was exported from calls its parts, as they are rounded."""
        found = self._run(inputs)
        return {"logits": found[self.structure.outputs[0]]} | {key: found[name] for key, name in self.parts.items()}

    def _run(self, inputs: tuple[Any, ...]) -> dict[str, Any]:
        """What is left of the tensors: outputs and parts among them."""
        graph, wanted = self.structure, {*self.structure.outputs, *self.parts.values()}
        found: dict[str, Any] = {**graph.constants, **self.weights()}
        for name, tensor in zip(self.inputs, inputs, strict=True):
            found[name] = self.seen(name, tensor)
        for number, (node, rule) in enumerate(zip(graph.nodes, graph.rules, strict=True)):
            names = [None if value is None else str(value.name) for value in node.inputs]
            made = rule(graph, node, *[name and self.read(number, name, found) for name in names])
            made = made if isinstance(made, tuple | list) else (made,)
            for output, tensor in zip(node.outputs, made, strict=False):
                found[str(output.name)] = self.seen(str(output.name), tensor)
            for name in filter(None, names):
                if graph.last_use.get(name) == number and name not in wanted:
                    found.pop(name, None)
        return found

    def artifact(self) -> Artifact:
        """The float graph with the parameters as they are now."""
        import numpy as np

        model = self.given.model()
        for name, tensor in zip(self.names, self.learnt, strict=True):
            set_array(model.graph.initializers[name], np.ascontiguousarray(tensor.detach().numpy()))
        return Artifact.of(model, self.given.form)


def float_graph(net: Any, example: tuple[Any, ...]) -> Artifact:
    """Form onnx, prepared. Raises InputError as graph_and_parts does."""
    return graph_and_parts(net, example)[0]


def graph_and_parts(net: Any, example: tuple[Any, ...]) -> tuple[Artifact, dict[str, str]]:
    """Of a PyTorch module, by its exporter, in evaluation mode; of an Artifact in float; of a GraphNet. Form onnx,
    prepared; and where the module has forward_parts, the tensors of the graph that those are: parts that the answer
    does not come from are left out. Of an Artifact, its other outputs.

    Raises InputError: a module with weights that cannot be trained here, named; what the exporter refuses."""
    import copy
    import functools

    from edge_runtime.compress.export import from_torch
    from edge_runtime.compress.prepare import prepare

    if isinstance(net, GraphNet):
        return net.artifact(), net.parts
    if isinstance(net, Artifact):
        if net.form != "onnx":
            raise InputError(f"found a model in the form {net.form}, wanted one in float (onnx)")
        made = prepare(net)
        others = [str(one.name) for one in made.model().graph.outputs[1:]]
        return made, dict(zip(others, others, strict=True))
    for name, module in net.named_modules():
        if next(module.parameters(recurse=False), None) is not None and not isinstance(module, KNOWN):
            kind = type(module)
            if kind.__module__.startswith("torch.nn"):
                raise InputError(
                    f"module {name or 'itself'!r}: found {kind.__name__}, wanted convolutions, linear layers, "
                    "embeddings and normalization",
                    hint="build it from those, or leave it out of what is trained here",
                )
    module = copy.deepcopy(net)  # exporting leaves a module in evaluation mode
    if not hasattr(net, "forward_parts"):
        return prepare(from_torch(module, example)), {}
    names: list[str] = []

    @functools.wraps(module.forward)  # the exporter reads the names of its inputs
    def forward(*inputs: Any) -> tuple[Any, ...]:
        parts = module.forward_parts(*inputs)
        names[:] = ["logits", *(name for name in parts if name != "logits")]
        return tuple(parts[name] for name in names)

    module.forward = forward
    return _alone(prepare(from_torch(module, example)), names)


def _alone(artifact: Artifact, names: list[str]) -> tuple[Artifact, dict[str, str]]:
    """The graph with its first output alone; of the others, the names of tensors that are still there."""
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    from edge_runtime.compress.shapes import settle

    model = artifact.model()
    outputs = [str(one.name) for one in model.graph.outputs]
    del model.graph.outputs[1:]
    RemoveUnusedNodesPass()(model)
    there = {str(one.name) for node in model.graph for one in node.outputs}
    parts = {name: tensor for name, tensor in zip(names[1:], outputs[1:], strict=True) if tensor in there}
    return settle(model), parts


def _refuse(artifact: Artifact) -> None:
    from edge_runtime.compress.torch_rules import RULES

    for node in artifact.model().graph:
        if node.op_type not in RULES:
            raise InputError(f"{_origin(node)}: found the operator {node.op_type}, which cannot be trained here")


def _origin(node: ir.Node) -> str:
    """The module that PyTorch's exporter says a node comes from, else the node's own name."""
    import ast

    try:
        scopes = ast.literal_eval(node.metadata_props["pkg.torch.onnx.name_scopes"])
        return f"module {scopes[-2]!r}"
    except (KeyError, ValueError, SyntaxError, IndexError):
        return f"node {node.name!r}"
