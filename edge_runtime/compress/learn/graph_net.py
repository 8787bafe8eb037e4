"""An ONNX graph as a PyTorch module: whatever net it was exported from, what is taught is what the engines run.

Batch normalization is folded and constants are worked out before (prepare.py), so that every weight here is one in the
file. `seen` and `weights` are what a subclass changes: quantization-aware training puts its rounding there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from edge_runtime.compress.artifact import Artifact
from edge_runtime.compress.layers import array_of, set_array
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
    """Form onnx, prepared. Called with the inputs in the graph's order; gives the first output."""

    def __init__(self, artifact: Artifact) -> None:
        """Raises InputError for an operator that cannot be trained, naming the module that it comes from."""
        super().__init__()
        _refuse(artifact)
        self.given = artifact
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
        graph = self.structure
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
                if graph.last_use.get(name) == number and name not in graph.outputs:
                    found.pop(name, None)
        return found[graph.outputs[0]]

    def artifact(self) -> Artifact:
        """The float graph with the parameters as they are now."""
        import numpy as np

        model = self.given.model()
        for name, tensor in zip(self.names, self.learnt, strict=True):
            set_array(model.graph.initializers[name], np.ascontiguousarray(tensor.detach().numpy()))
        return Artifact.of(model, self.given.form)


def graph_net(net: Any, example: tuple[Any, ...]) -> GraphNet:
    """Of a PyTorch module, by its exporter, in evaluation mode; of an Artifact in float; a GraphNet as it is.

    Raises InputError: a module with weights that cannot be trained here, named; what the exporter refuses."""
    return net if isinstance(net, GraphNet) else GraphNet(float_graph(net, example))


def float_graph(net: Any, example: tuple[Any, ...]) -> Artifact:
    """Form onnx, prepared. Raises InputError as graph_net does."""
    import copy

    from edge_runtime.compress.export import from_torch
    from edge_runtime.compress.prepare import prepare

    if isinstance(net, GraphNet):
        return net.artifact()
    if isinstance(net, Artifact):
        if net.form != "onnx":
            raise InputError(f"found a model in the form {net.form}, wanted one in float (onnx)")
        return prepare(net)
    for name, module in net.named_modules():
        if next(module.parameters(recurse=False), None) is not None and not isinstance(module, KNOWN):
            kind = type(module)
            if kind.__module__.startswith("torch.nn"):
                raise InputError(
                    f"module {name or 'itself'!r}: found {kind.__name__}, wanted convolutions, linear layers, "
                    "embeddings and normalization",
                    hint="build it from those, or leave it out of what is trained here",
                )
    return prepare(from_torch(copy.deepcopy(net), example))  # exporting leaves a module in evaluation mode


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


def array_now(net: GraphNet, value: ir.Value) -> Any:
    """numpy, of an initializer: as it is now where it is learnt, else as it was given."""
    found = net.parameter(str(value.name))
    return array_of(value) if found is None else found.detach().numpy()
