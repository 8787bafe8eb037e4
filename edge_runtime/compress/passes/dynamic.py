"""Dynamic int8: weights as integers, activations turned into integers while the model runs. For products of matrices,
as in transformers; a convolution done so is 2 to 15 times slower than in float on onnxruntime, so they stay float."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edge_runtime.compress.artifact import Artifact
from edge_runtime.compress.drift import compare
from edge_runtime.compress.layers import Layer, array_of, attribute, need_layers, weighted
from edge_runtime.compress.outputs import answers
from edge_runtime.compress.passes.static import note_integers
from edge_runtime.compress.qdq import Writer
from edge_runtime.compress.recipe import Context
from edge_runtime.compress.weight_only import SMALL, store_tables
from edge_runtime.compress.weights import to_levels, weight_scales
from edge_runtime.errors import EdgeError, InputError

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True)
class Dynamic:
    """`weight_bits` 0: by target, as for static_w8a8. `tables`: embeddings are stored as int8, too. Where items are
    given and the answers change by more than `limit_sd` on average, the most guilty layers stay float, at most half
    of them; then it is refused."""

    reads: ClassVar[tuple[str, ...]] = ("onnx",)
    writes: ClassVar[str | None] = "onnx_q"
    needs_items: ClassVar[bool] = False

    weight_bits: int = 0
    keep: tuple[str, ...] = ()
    tables: bool = True
    limit_sd: float = 0.05

    def __post_init__(self) -> None:
        if self.weight_bits not in (0, 7, 8):
            raise ValueError(f"weight_bits: found {self.weight_bits}, wanted 0 (by target), 7 or 8")
        if not self.limit_sd > 0:
            raise ValueError(f"limit_sd: found {self.limit_sd}, wanted above 0")

    def __call__(self, artifact: Artifact, context: Context) -> Artifact:
        context = context.against(artifact)
        model = artifact.model()
        need_layers(model, [one for one in self.keep if one not in model.graph.initializers])  # tables have no layer
        layers = [one for one in weighted(model) if one.kind == "dense" and one.matrix().size >= SMALL]
        names = [one.name for one in layers if one.name not in self.keep and _plain(one)]
        if not names:
            raise InputError(
                "found no Gemm or MatMul with 256 constant weights or more: convolutions would get slower this way",
                hint="use static_w8a8",
            )
        bits = self.weight_bits or (8 if context.target.arch in ("aarch64", "armv7l") else 7)
        top = 64 if bits == 7 else 127
        made = self._make(artifact, names, top)
        if context.samples is None:
            context.note("checked", "no items were given: the output change is not known")
        else:
            made = self._rescue(artifact, context, names, top, made)
        note_integers(made, context)
        return made

    def _make(self, artifact: Artifact, names: list[str], top: int) -> Artifact:
        model = artifact.model()
        writer = Writer(model)
        ready: dict[ir.Value, ir.Node] = {}
        for layer in weighted(model):
            if layer.name in names:
                _replace(writer, layer, top, ready)
        if self.tables:
            store_tables(writer, self.keep)
        writer.finish()
        return Artifact.of(model, "onnx_q")

    def _rescue(self, artifact: Artifact, context: Context, names: list[str], top: int, made: Artifact) -> Artifact:
        samples = context.items("dynamic quantization")
        wanted = answers(context.original, samples, 16)
        drift = compare(wanted, answers(made, samples, 16))
        tried = [{"rung": "all layers", "mean_sd": drift.mean, "agreement": drift.agreement}]
        context.note("ladder", tried)
        if drift.mean <= self.limit_sd:
            return made
        few = samples.some(48)
        before = answers(context.original, few, 16)
        guilt = {name: compare(before, answers(self._make(artifact, [name], top), few, 16)).mean for name in names}
        order = sorted(names, key=lambda name: -guilt[name])
        for share in (8, 4, 2):
            left = order[-(-len(order) // share) :]
            if not left:
                break
            made = self._make(artifact, left, top)
            drift = compare(wanted, answers(made, samples, 16))
            words = f"{len(order) - len(left)} of {len(order)} layers left float"
            tried.append({"rung": words, "mean_sd": drift.mean, "agreement": drift.agreement})
            if drift.mean <= self.limit_sd:
                context.note("kept_float", order[: len(order) - len(left)])
                return made
        worst = ", ".join(f"{name} ({guilt[name]:.3f} sd alone)" for name in order[:5])
        raise EdgeError(
            f"8 bits are refused: the output changes by {drift.mean:.3f} sd on average, wanted at most "
            f"{self.limit_sd}; the guilty layers: {worst}",
            hint="name them in keep, take weights_int, or raise limit_sd",
        )


def _plain(layer: Layer) -> bool:
    node = layer.node
    if node.op_type == "MatMul":
        return True
    ones = attribute(node, "alpha", 1.0) == 1 and attribute(node, "beta", 1.0) == 1
    return ones and not attribute(node, "transA", 0)


def _replace(writer: Writer, layer: Layer, top: int, ready: dict[ir.Value, ir.Node]) -> None:
    """The chain of nodes that onnxruntime fuses into one: quantize, multiply, scale, add the bias."""
    import numpy as np
    import onnx_ir as ir

    node = layer.node
    given = node.inputs[0]
    assert given is not None
    matrix = layer.matrix()
    scales = weight_scales(matrix, top)
    levels = np.ascontiguousarray(to_levels(matrix, scales, top).T)
    stem = str(layer.weight.name)
    new: list[ir.Node] = []
    quantized = ready.get(given)
    if quantized is None:
        names = [writer.name(f"{given.name}_{end}") for end in ("u8", "scale", "zero")]
        outputs = [ir.Value(name=name) for name in names]
        quantized = ir.Node("", "DynamicQuantizeLinear", [given], outputs=outputs, name=writer.name(f"{given.name}_q"))
        ready[given] = quantized
        new.append(quantized)
    weight, scale = writer.array(f"{stem}_int8", levels), writer.array(f"{stem}_scale", scales)
    zero = writer.array(f"{stem}_zero", np.zeros(scales.shape, np.int8))
    product = writer.node(
        "MatMulInteger", [quantized.outputs[0], weight, quantized.outputs[2], zero], f"{node.name}_int32"
    )
    cast = writer.node("Cast", [product.outputs[0]], f"{node.name}_real", {"to": 1})
    both = writer.node("Mul", [quantized.outputs[1], scale], f"{node.name}_scales")
    end = writer.node("Mul", [cast.outputs[0], both.outputs[0]], f"{node.name}_scaled")
    new += [product, both, cast, end]
    if layer.bias is not None:
        end = writer.node(
            "Add", [end.outputs[0], writer.array(f"{stem}_bias", array_of(layer.bias))], f"{node.name}_sum"
        )
        new.append(end)
    old, answer = node.outputs[0], end.outputs[0]
    writer.before(node, new)
    answer.shape, answer.type = old.shape, old.type
    name, graph = old.name, writer.model.graph
    for use in list(old.uses()):
        use.node.replace_input_with(use.idx, answer)
    if old.is_graph_output():
        graph.outputs[next(place for place, one in enumerate(graph.outputs) if one is old)] = answer
    graph.remove(node, safe=True)
    answer.name = name
