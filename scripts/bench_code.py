"""Sizes and times of a model file's bytes: as it is, by general compressors, and entropy-coded by this package.

    python scripts/bench_code.py model.onnx ... [--grid 0.5 0.9] [--json]      # one core: taskset -c 0 python ...

`--grid R`: also what is left of an ONNX file when each weight matrix is put on a grid of R times its standard
deviation, one scale for a tensor, as float32: the coarse models that entropy coding is for. Bits a weight are over
all coded tensors. Decoding runs in a fresh process; times are of its CPU, the best of five; "beside" is its peak of
resident memory above what it had after importing numpy, minus the decoded model. zstd is measured where there is a
module for it.
"""

from __future__ import annotations

import argparse
import json
import lzma
import os
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from edge_runtime.compress.code import CodedModel, encode, plain_zeros

_CHILD = """
import io, lzma, os, sys, time, numpy
from edge_runtime import coded
def peak(): return int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) * 1024
path, size = sys.argv[1], int(sys.argv[2])
open("/proc/self/clear_refs", "w").write("5")
before, times = peak(), []
for _ in range(5):
    start = time.process_time()
    with open(path, "rb") as stream:
        made = coded.decode(stream, 0, os.path.getsize(path), size)
    times.append(time.process_time() - start)
    first = peak() if not times[1:] else first
    del made
print(min(times), first - before - size)
"""


def compressors() -> Iterator[tuple[str, Callable[[bytes], bytes], Callable[[bytes], bytes]]]:
    yield "zlib -9", lambda data: zlib.compress(data, 9), zlib.decompress
    yield "xz -9e", lambda data: lzma.compress(data, preset=9 | lzma.PRESET_EXTREME), lzma.decompress
    try:
        import zstandard
    except ImportError:
        print("zstd: no module zstandard: not measured", file=sys.stderr)
        return
    yield "zstd -22", zstandard.ZstdCompressor(level=22).compress, zstandard.ZstdDecompressor().decompress


def on_a_grid(model: bytes, share: float) -> bytes:
    """The ONNX model with each float32 matrix or kernel on a grid of `share` times its standard deviation."""
    import numpy as np
    import onnx

    made = onnx.load_model_from_string(model)
    for one in made.graph.initializer:
        weights = onnx.numpy_helper.to_array(one)
        if weights.dtype == np.float32 and weights.ndim > 1 and weights.std() > 0:
            step = np.float32(weights.std() * share)
            one.CopyFrom(onnx.numpy_helper.from_array(np.rint(weights / step) * step, one.name))
    return plain_zeros(made.SerializeToString(), "onnx")


def decoding(coded: CodedModel) -> tuple[float, int]:
    """Seconds of CPU and bytes beside the model, in a fresh process."""
    with tempfile.NamedTemporaryFile(suffix=".coded") as stream:
        stream.write(coded.content)
        stream.flush()
        command = [sys.executable, "-c", _CHILD, stream.name, str(coded.size)]
        done = subprocess.run(command, capture_output=True, check=True, text=True, env={**os.environ, **_ONE_THREAD})
    seconds, beside = done.stdout.split()
    return float(seconds), int(beside)


_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}


def measure(name: str, model: bytes, format_: str) -> Iterator[dict[str, Any]]:
    yield {"model": name, "how": "as it is", "bytes": len(model), "ratio": 1.0}
    for how, pack, unpack in compressors():
        packed = pack(model)
        times = []
        for _ in range(3):
            start = time.process_time()
            unpack(packed)
            times.append(time.process_time() - start)
        row = {"model": name, "how": how, "bytes": len(packed), "ratio": round(len(model) / len(packed), 2)}
        yield row | {"decode_s": round(min(times), 3)}
    start = time.process_time()
    coded = encode(model, format_)
    encode_s = time.process_time() - start
    seconds, beside = decoding(coded)
    weights = sum(one.number for one in coded.tensors) or 1
    row = {"model": name, "how": "entropy-coded", "bytes": len(coded.content)}
    row |= {"ratio": round(len(model) / len(coded.content), 2), "decode_s": round(seconds, 3)}
    row |= {"beside_bytes": beside, "encode_s": round(encode_s, 1), "weights": weights}
    row |= {
        "bits": round(sum(one.bits * one.number for one in coded.tensors) / weights, 4),
        "entropy_bits": round(sum(one.entropy_bits * one.number for one in coded.tensors) / weights, 4),
        "sections": coded.sections,
    }
    yield row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="+", type=Path)
    parser.add_argument("--grid", nargs="*", type=float, default=[])
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    for path in arguments.models:
        model, format_ = path.read_bytes(), path.suffix.lstrip(".")
        cases = [(path.name, model)]
        if format_ == "onnx":
            cases += [(f"{path.name} on a grid of {share:g} sd", on_a_grid(model, share)) for share in arguments.grid]
        for name, content in cases:
            for row in measure(name, content, format_):
                print(json.dumps(row) if arguments.json else _line(row), flush=True)


def _line(row: dict[str, Any]) -> str:
    text = f"{row['model']:<40} {row['how']:<14} {row['bytes']:>11,} B  x{row['ratio']:<6}"
    if "decode_s" in row:
        text += f" decode {row['decode_s']:.3f} s"
    if "bits" in row:
        text += f", {row['beside_bytes'] / 2**20:.1f} MiB beside the model; {row['bits']:.3f} bits a weight"
        text += f" (one table a tensor: {row['entropy_bits']:.3f})"
    return text


if __name__ == "__main__":
    main()
