"""8-bit arithmetic for a folded network: one set of integers from which both the ONNX and the TFLite file are written.

Activations are unsigned 8 bit with zero point 0 (everything follows a ReLU), weights signed 8 bit by output channel,
biases 32 bit. The input keeps its 256 levels exactly: scale 1/255. The two poolings and the dense row stay in float:
they cost nothing, and an 8-bit logit would be too coarse for a strict threshold.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from layers import Floats, Folded, IntLayer, IntNet
from torch.nn import functional

Pixels = npt.NDArray[np.uint8]


def convolve(x: torch.Tensor, weight: Floats, bias: Floats, stride: int, depthwise: bool) -> torch.Tensor:
    """The convolution of network.Conv without ReLU, for folded weights."""
    kernel = weight.shape[-1]
    if stride == 2:
        x = functional.pad(x, (0, 1, 0, 1))
    padding = kernel // 2 if stride == 1 else 0
    groups = weight.shape[0] if depthwise else 1
    return functional.conv2d(x, torch.from_numpy(weight), torch.from_numpy(bias), stride, padding, groups=groups)


@torch.inference_mode()
def quantize(folded: Folded, pixels: Pixels, weight_levels: int, share: float = 0.9999) -> IntNet:
    """Post-training quantization, layer after layer on `pixels` uint8 (N,64,64,3).

    Each output's range is the quantile `share` of what the calibration cells give, widened never: a few clipped
    pixels cost less than coarse steps for all. Each bias is then moved by the mean error that rounding has made so
    far in its channel. `weight_levels` is 127, or 63 where kernels add pairs of products in 16 bits and would
    saturate (x86 without VNNI; see onnxruntime's notes on reduce_range).
    """
    exact = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    rough, scale = exact, 1 / 255
    layers = []
    for layer in folded.layers:
        flat = np.abs(layer.weight).reshape(len(layer.weight), -1).max(axis=1)
        scales = np.maximum(flat, 1e-8).astype(np.float32) / weight_levels
        weight = np.rint(layer.weight / scales[:, None, None, None]).astype(np.int8)
        real = weight.astype(np.float32) * scales[:, None, None, None]
        exact = convolve(exact, layer.weight, layer.bias, layer.stride, layer.depthwise)
        off = exact - convolve(rough, real, layer.bias, layer.stride, layer.depthwise)
        alive = (exact > 0).float()  # errors below the ReLU do not count
        shift = (off * alive).sum(dim=(0, 2, 3)) / alive.sum(dim=(0, 2, 3)).clamp(min=1)
        bias = np.rint((layer.bias + shift.numpy()) / (scales * scale)).astype(np.int32)
        exact = functional.relu(exact)
        top = float(np.quantile(exact.numpy().ravel()[:: max(1, exact.numel() // 2_000_000)], share))
        done = IntLayer(weight, scales, bias, scale, max(top, 1e-6) / 255, layer.stride, layer.depthwise)
        layers.append(done)
        rough, scale = _run_layer(rough, done), done.output_scale
    return IntNet(tuple(layers), folded.head, folded.head_bias)


def _run_layer(x: torch.Tensor, layer: IntLayer) -> torch.Tensor:
    """One 8-bit layer in real numbers: the integers stay below 2**24, so float32 holds them exactly."""
    steps = torch.round(x / layer.input_scale)
    total = convolve(
        steps, layer.weight.astype(np.float32), layer.bias.astype(np.float32), layer.stride, layer.depthwise
    )
    gain = torch.from_numpy(layer.scales * layer.input_scale / layer.output_scale)[:, None, None]
    return torch.clamp(torch.round(total * gain), 0, 255) * layer.output_scale
