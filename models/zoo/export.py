"""A torch module to an ONNX file, and that file's answers on arrays, by ONNX Runtime."""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

OPSET = 18


def to_onnx(net: nn.Module, example: tuple[torch.Tensor, ...], inputs: tuple[str, ...]) -> bytes:
    """`net` in inference, with a free first dimension, normalisation folded and constants computed, as ONNX bytes.

    The exporter notes the source line of every node in the file: taken out, so paths of this computer stay here.
    """
    import onnx

    net = net.to(memory_format=torch.contiguous_format).eval()  # type: ignore[call-overload]
    free = torch.export.Dim("N", min=1)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        file = Path(folder) / "net.onnx"
        torch.onnx.export(
            net, example, str(file), input_names=list(inputs), output_names=["logits"], opset_version=OPSET,
            dynamo=True, optimize=True, external_data=False, dynamic_shapes=tuple({0: free} for _ in example),
        )  # fmt: skip
        model = onnx.load(str(file))
    for part in (model, model.graph, *model.graph.node, *model.graph.input, *model.graph.output,
                 *model.graph.value_info, *model.graph.initializer):  # fmt: skip
        del part.metadata_props[:]
    model.graph.doc_string = model.doc_string = ""
    for node in model.graph.node:
        node.doc_string = ""
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString(deterministic=True)


def answers(content: bytes, arrays: Mapping[str, npt.NDArray[Any]], output: str = "logits") -> npt.NDArray[Any]:
    """The output of the file `content` for the first-axis items of `arrays`, in batches of 64, on one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    count = len(next(iter(arrays.values())))
    parts = []
    for start in range(0, count, 64):
        feeds = {name: array[start : start + 64] for name, array in arrays.items()}
        parts.append(session.run([output], feeds)[0])
    return np.concatenate(parts)
