"""Weights as a few bits, activations as they are: DequantizeLinear on the stored integers, nothing else changes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edge_runtime.compress.artifact import Artifact
from edge_runtime.compress.cross_moments import gather, measurable
from edge_runtime.compress.layers import Layer, array_of, attribute, need_layers, set_array, weighted
from edge_runtime.compress.qdq import Writer
from edge_runtime.compress.quantizer import model_of
from edge_runtime.compress.rounding import factor, round_together, shrunk
from edge_runtime.compress.samples import Samples
from edge_runtime.compress.weights import weight_scales
from edge_runtime.errors import InputError

if TYPE_CHECKING:
    import numpy as np
    import onnx_ir as ir
    from numpy.typing import NDArray

    from edge_runtime.compress.recipe import Progress

_OPSET = 21  # 4-bit integers and blocks
SMALL = 256  # weights of a layer with fewer stay float: scales would take what is saved


@dataclass(frozen=True)
class Form:
    """`bits` 8, 4, 3, 2; 3 and 2 live in 4-bit integers. `block`: so many input channels share a scale; 0: all of an
    output channel. `symmetric`: levels -top..top about 0; else 0..2^bits-1 with a zero point beside the scale.
    `search`: scales of the least squared error in place of those that reach the largest weight."""

    bits: int = 8
    block: int = 0
    symmetric: bool = True
    search: bool = True

    @property
    def top(self) -> int:
        return (1 << (self.bits - 1)) - 1 if self.symmetric else (1 << self.bits) - 1

    @property
    def low(self) -> int:
        return -self.top if self.symmetric else 0

    def block_of(self, layer: Layer) -> int:
        """0 where the layer has no more input channels than a block, and for a transposed convolution."""
        many = layer.matrix().shape[1] // _inner(layer) > self.block
        return self.block if many and layer.node.op_type != "ConvTranspose" else 0

    def bytes_of(self, layer: Layer) -> int:
        """Of weights and scales in the file."""
        rows, size = layer.matrix().shape
        inner, block = _inner(layer), self.block_of(layer)
        groups = -(-(size // inner) // block) * inner if block else 1
        scales = rows * groups * (4 if self.symmetric else 5)
        return int(rows * size if self.bits == 8 else (rows * size + 1) // 2) + int(scales)


@dataclass(frozen=True)
class Levels:
    """`levels` float32 (O, K), `scales` and `zeros` float32 (O, groups), `spread`: for each column its group."""

    levels: NDArray[np.float32]
    scales: NDArray[np.float32]
    zeros: NDArray[np.float32]
    spread: NDArray[np.int64]

    def real(self) -> NDArray[np.float32]:
        made: NDArray[np.float32] = (self.levels - self.zeros[:, self.spread]) * self.scales[:, self.spread]
        return made


def _inner(layer: Layer) -> int:
    """How many weights one input channel has in a row: the size of the kernel."""
    import math

    return 1 if layer.kind == "dense" else math.prod(array_of(layer.weight).shape[2:])


def scales_of(layer: Layer, matrix: NDArray[np.float32], form: Form) -> Levels:
    """Scales and zero points, and each weight's nearest level."""
    import numpy as np

    size, inner = matrix.shape[1], _inner(layer)
    column = np.arange(size)
    blocks = form.block_of(layer)
    spread = column // inner // blocks * inner + column % inner if blocks else np.zeros(size, np.int64)
    groups = int(spread.max()) + 1
    scales, zeros = np.zeros((len(matrix), groups), np.float32), np.zeros((len(matrix), groups), np.float32)
    for group in range(groups):
        part = matrix[:, spread == group]
        if form.symmetric:
            scales[:, group] = weight_scales(part, form.top, True, form.search)
        else:
            scales[:, group], zeros[:, group] = _asymmetric(part, form)
    levels = np.clip(np.round(matrix / scales[:, spread]) + zeros[:, spread], form.low, form.top)
    return Levels(levels.astype(np.float32), scales, zeros, spread)


def _asymmetric(part: NDArray[np.float32], form: Form) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    import numpy as np

    low, high = np.minimum(part.min(axis=1), 0), np.maximum(part.max(axis=1), 0)
    best_scale, best_zero = np.ones(len(part), np.float32), np.zeros(len(part), np.float32)
    least = np.full(len(part), np.inf)
    for share in np.linspace(1.0, 0.5, 11) if form.search else (1.0,):
        scale = np.maximum((high - low) * share / form.top, 1e-12).astype(np.float32)
        zero = np.clip(np.round(-low * share / scale), 0, form.top)
        back = (np.clip(np.round(part / scale[:, None]) + zero[:, None], 0, form.top) - zero[:, None]) * scale[:, None]
        loss = ((back - part) ** 2).sum(axis=1)
        better = loss < least
        best_scale, best_zero = np.where(better, scale, best_scale), np.where(better, zero, best_zero)
        least = np.minimum(loss, least)
    return best_scale, best_zero


def quantizable(artifact: Artifact, keep: tuple[str, ...] = ()) -> list[Layer]:
    """Raises InputError: no layer with enough weights, a layer of `keep` that is not there."""
    need_layers(artifact.model(), keep)
    found = [one for one in weighted(artifact.model()) if one.matrix().size >= SMALL and one.name not in keep]
    if not found:
        raise InputError(f"found no layer with {SMALL} weights or more, wanted some to quantize")
    return found


def feedback(
    artifact: Artifact, samples: Samples, forms: Mapping[str, Form], progress: Progress
) -> tuple[Artifact, dict[str, Levels]]:
    """Levels rounded together, layer by layer, each fitted to what the layers before it have become. The artifact
    returned is float still, its weights on their levels and its biases corrected."""
    import numpy as np

    model = artifact.model()
    made = {}
    layers = weighted(model)
    for number, layer in enumerate(layers):
        form = forms.get(layer.name)
        if form is None or not measurable(layer):
            continue
        progress(number, len(layers), f"rounding {layer.name}")
        moments = gather(Artifact.of(model, "onnx"), samples, [layer], artifact)[0]
        matrix, centred = layer.matrix(), layer.bias is not None
        target = moments.target(matrix, centred, 1.0)
        second = moments.centred() if centred else moments.second
        found = scales_of(layer, target, form)
        rows = len(matrix) // len(second)
        by, zero = found.scales[:, found.spread], found.zeros[:, found.spread]
        parts = []
        for place, one in enumerate(second):
            cut = slice(place * rows, (place + 1) * rows)
            # a zero point only shifts the levels: rounded as level - zero, the bounds are each weight's own
            low, top = form.low - zero[cut], form.top - zero[cut]

            def choose(
                column: int,
                goal: NDArray[np.float32],
                weight: NDArray[np.float32],
                low: NDArray[np.float32] = low,
                top: NDArray[np.float32] = top,
            ) -> NDArray[np.float32]:
                return np.clip(np.round(goal), low[:, column], top[:, column])

            parts.append(round_together(target[cut], by[cut], factor(shrunk(one, moments.rows)), choose)[0])
        levels = Levels(np.concatenate(parts) + zero, found.scales, found.zeros, found.spread)
        if layer.bias is not None:
            bias = array_of(layer.bias)
            shift = moments.shift(matrix, levels.real())
            set_array(layer.bias, (bias + shift.reshape(bias.shape)).astype(np.float32))
        layer.set_matrix(levels.real())
        made[layer.name] = levels
    return Artifact.of(model, "onnx"), made


def store(
    artifact: Artifact,
    forms: Mapping[str, Form],
    levels: Mapping[str, Levels] | None = None,
    tables: bool = False,
) -> Artifact:
    """Form onnx_q. `levels`: where they were chosen already; else each weight's nearest. `tables`: embeddings too."""
    model = model_of(artifact, _OPSET if any(one.bits < 8 or one.block for one in forms.values()) else 0)
    writer = Writer(model)
    for layer in weighted(model):
        form = forms.get(layer.name)
        if form is not None:
            found = (levels or {}).get(layer.name) or scales_of(layer, layer.matrix(), form)
            _write(writer, layer, found, form)
    if tables:
        store_tables(writer)
    writer.finish()
    return Artifact.of(model, "onnx_q")


def _write(writer: Writer, layer: Layer, found: Levels, form: Form) -> None:
    import numpy as np
    import onnx_ir as ir

    small = form.bits < 8
    if form.symmetric:
        kind = ir.DataType.INT4 if small else ir.DataType.INT8
    else:
        kind = ir.DataType.UINT4 if small else ir.DataType.UINT8
    container = kind.numpy()

    def packed(array: NDArray[np.float32]) -> ir.TensorProtocol:
        return ir.tensor(np.ascontiguousarray(array).astype(np.int32).astype(container), dtype=kind)

    groups = found.scales.shape[1]
    if groups == 1:
        scales, zeros, axis = found.scales[:, 0], found.zeros[:, 0], layer.axis
        extra = {"axis": axis}
    else:
        scales, zeros = (_blocks(layer, one) for one in (found.scales, found.zeros))
        extra = {"axis": 1 - layer.axis, "block_size": form.block}
    stem = str(layer.weight.name)
    inputs = [writer.array(f"{stem}_q", packed(layer.shaped(found.levels))), writer.array(f"{stem}_scale", scales)]
    if not form.symmetric:
        inputs.append(writer.array(f"{stem}_zero", packed(zeros)))
    made = writer.node("DequantizeLinear", inputs, f"{stem}_dq", extra)
    writer.before(layer.node, [made])
    layer.node.replace_input_with(1, made.outputs[0])


def _blocks(layer: Layer, array: NDArray[np.float32]) -> NDArray[np.float32]:
    """(O, groups) in the shape of the weight with its input axis divided into blocks."""
    import numpy as np

    kernel = () if layer.kind == "dense" else array_of(layer.weight).shape[2:]
    shaped = array.reshape(len(array), -1, *kernel)
    return np.ascontiguousarray(np.moveaxis(shaped, 0, layer.axis))


def is_table(node: ir.Node) -> bool:
    """Whether it looks up rows of a table of numbers large enough to be stored smaller."""
    table = node.inputs[0] if node.op_type == "Gather" else None
    if table is None or table.const_value is None or len(table.const_value.shape) != 2:
        return False
    rank = len(node.outputs[0].shape) if node.outputs[0].shape is not None else 0
    array = array_of(table)
    return array.dtype.name == "float32" and array.size >= SMALL and rank >= 2 and attribute(node, "axis", 0) == 0


def store_tables(writer: Writer, keep: tuple[str, ...] = ()) -> int:
    """Tables that rows are looked up in (embeddings) as int8 with a scale for each column: the rows found are turned
    into float32, not the whole table. Returns how many."""
    import numpy as np
    import onnx_ir as ir

    done = 0
    for node in list(writer.model.graph):
        if node.name in keep or not is_table(node):
            continue
        table = node.inputs[0]
        assert table is not None
        array, rank = array_of(table), len(node.outputs[0].shape or ())
        scales = weight_scales(np.ascontiguousarray(array.T), 127)
        levels = np.clip(np.round(array / scales), -127, 127).astype(np.int8)
        stem, name = str(table.name), str(node.outputs[0].name)
        whole, output = node.outputs[0], node.outputs[0].is_graph_output()
        uses = list(whole.uses())
        node.replace_input_with(0, writer.array(f"{stem}_int8", levels))
        inputs = [whole, writer.array(f"{stem}_scale", scales)]
        made = writer.node("DequantizeLinear", inputs, f"{name}_dq", {"axis": rank - 1})
        answer = made.outputs[0]
        answer.shape, answer.type = whole.shape, whole.type
        whole.type = ir.TensorType(ir.DataType.INT8)
        writer.model.graph.insert_after(node, made)
        for use in uses:
            use.node.replace_input_with(use.idx, answer)
        if output:
            whole.name, answer.name = writer.name(f"{name}_int8"), name
            outputs = writer.model.graph.outputs
            outputs[next(place for place, one in enumerate(outputs) if one is whole)] = answer
        done += 1
    return done
