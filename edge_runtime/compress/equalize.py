"""Cross-layer equalisation (Nagel 2019): the channels between two layers are brought to like sizes.

A positive factor passes through Relu and pools: what one layer's output channel is divided by, the next layer's weights
for it are multiplied with, and the answers stay what they were. Integers with one scale for a tensor then serve all its
channels. Factors come from the activations seen, so that they are right where weights have scales by channel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edge_runtime.compress.artifact import Artifact
from edge_runtime.compress.calibrate import Seen
from edge_runtime.compress.layers import Layer, array_of, set_array, weighted

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir
    from numpy.typing import NDArray

_THROUGH = ("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "Identity", "Dropout", "Flatten", "Relu")


@dataclass(frozen=True)
class Link:
    """A layer whose output channels only other layers read. `end`: the tensor between them, after Relu or Clip; `cap`:
    where a Clip ends it."""

    layer: Layer
    end: ir.Value
    readers: tuple[Layer, ...]
    cap: float | None


def equalize(artifact: Artifact, seen: Mapping[str, Seen]) -> tuple[Artifact, int]:
    """The same function in other numbers, and how many tensors were equalised."""
    import numpy as np

    model = artifact.model()
    done = 0
    for link in links(model):
        known = seen.get(str(link.end.name))
        channels = link.layer.matrix().shape[0]
        if known is None or known.peak is None or len(known.peak) != channels:
            continue
        factors = _factors(link, known.peak)
        if factors is None or not np.isfinite(factors).all() or float(np.abs(np.log(factors)).max()) < 0.05:
            continue
        _divide(link.layer, factors)
        for reader in link.readers:
            _multiply(reader, factors)
        done += 1
    return Artifact.of(model, "onnx"), done


def links(model: ir.Model) -> list[Link]:
    layers = {one.node: one for one in weighted(model)}
    shared = [one.weight for one in layers.values()]
    found = []
    for layer in layers.values():
        end, cap = layer.node.outputs[0], None
        readers = end.consumers()
        if len(readers) == 1 and readers[0].op_type in ("Relu", "Clip") and not end.is_graph_output():
            if readers[0].op_type == "Clip":
                bounds = [
                    one.const_value.numpy() for one in readers[0].inputs[1:3] if one is not None and one.const_value
                ]
                if len(bounds) != 2 or float(bounds[0]) != 0:
                    continue
                cap = float(bounds[1])
            end = readers[0].outputs[0]
        after = _readers(end, layers)
        once = all(shared.count(one.weight) == 1 for one in (layer, *(after or ())))
        if after and once and layer.node.op_type != "ConvTranspose":
            found.append(Link(layer, end, after, cap))
    return found


def _readers(value: ir.Value, layers: Mapping[ir.Node, Layer]) -> tuple[Layer, ...] | None:
    """The layers that read a tensor, pools passed through; None where anything else reads it."""
    if value.is_graph_output() or not value.uses():
        return None
    found: list[Layer] = []
    for use in value.uses():
        node = use.node
        if node in layers and use.idx == 0 and _columns(layers[node]):
            found.append(layers[node])
        elif node.op_type in _THROUGH and len(node.outputs) == 1:
            after = _readers(node.outputs[0], layers)
            if after is None:
                return None
            found += after
        else:
            return None
    return tuple(found)


def _columns(layer: Layer) -> bool:
    """Whether one input channel is one slice of the weight."""
    from edge_runtime.compress.layers import attribute

    return layer.kind in ("depthwise", "dense") or (
        layer.node.op_type == "Conv" and attribute(layer.node, "group", 1) == 1
    )


def _factors(link: Link, peak: NDArray[np.float64]) -> NDArray[np.float64] | None:
    import numpy as np

    top = float(peak.max())
    if top <= 0:
        return None
    alive = np.maximum(peak, top * 1e-6)
    sizes = [_sizes(one, len(peak)) for one in link.readers if one.kind != "depthwise"]
    if any(one is None for one in sizes):
        return None
    if any(one.kind == "depthwise" and array_of(one.weight).shape[0] % len(peak) for one in link.readers):
        return None
    factors = alive
    if sizes:
        least = np.maximum(np.max(np.stack([one for one in sizes if one is not None]), axis=0), 1e-12)
        factors = np.sqrt(alive / least)
    factors = factors * (top / float((alive / factors).max())) ** -1  # the largest activation stays as large
    if link.cap is not None:
        bound = peak >= link.cap * 0.999
        factors = np.where(bound, 1.0, np.maximum(factors, alive / link.cap * 1.05))
    return factors


def _sizes(layer: Layer, channels: int) -> NDArray[np.float64] | None:
    """The largest |weight| that reads each channel."""
    import numpy as np

    matrix = np.abs(layer.matrix())
    if matrix.shape[1] % channels:
        return None
    found: NDArray[np.float64] = matrix.reshape(len(matrix), channels, -1).max(axis=(0, 2)).astype(np.float64)
    return found


def _divide(layer: Layer, factors: NDArray[np.float64]) -> None:
    layer.set_matrix((layer.matrix() / factors[:, None]).astype("float32"))
    if layer.bias is not None:
        bias = array_of(layer.bias)
        set_array(layer.bias, (bias / factors.reshape(bias.shape)).astype("float32"))


def _multiply(layer: Layer, factors: NDArray[np.float64]) -> None:
    import numpy as np

    matrix = layer.matrix()
    if layer.kind == "depthwise":
        each = np.repeat(factors, len(matrix) // len(factors))
        layer.set_matrix((matrix * each[:, None]).astype(np.float32))
    else:
        each = np.repeat(factors, matrix.shape[1] // len(factors))
        layer.set_matrix((matrix * each).astype(np.float32))
