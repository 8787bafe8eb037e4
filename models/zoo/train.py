"""One trained model, and the items to compress and measure it with:

    python models/zoo/train.py NAME OUT      NAME: resnet18, mobilenetv2, squeezenet, vgg, minilm, ai4i, ai4i-sklearn,
                                             minilm-student (when minilm is made),
                                             or bearing, whose data states no licence: to measure with, never to ship

-> OUT/NAME.onnx                         float32, the first dimension of every input free, output "logits" (N,2)
   OUT/NAME-{calibration,unlabelled,val,test}.npz
                                         one array an input as the model takes it, and labels int64 (N,)
   OUT/NAME.json                         settings, seconds and accuracy on val; test is for card.py, once, at the end

It wants the extra "train" (PyTorch) and the data; it runs on one processor core and says how far it is on stderr.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from importlib.metadata import version
from pathlib import Path

if __name__ == "__main__":  # before numpy and PyTorch count the cores: sums in another order give another model
    os.environ["OMP_NUM_THREADS"] = os.environ["OPENBLAS_NUM_THREADS"] = "1"
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from models.zoo.files import write_bytes

FAMILIES = {
    "resnet18": "vision",
    "mobilenetv2": "vision",
    "squeezenet": "vision",
    "vgg": "vision",
    "minilm": "texts",
    "minilm-student": "distilled",
    "ai4i": "tables",
    "ai4i-sklearn": "tables",
    "bearing": "bearing",
}
"""Model -> the file beside this one: its `make(name, out)` trains and writes, `measure(content, out, part)` judges."""

PACKAGES = ("torch", "numpy", "scikit-learn", "onnx", "onnxruntime")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=FAMILIES)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    name, out = arguments.name, arguments.out
    family = importlib.import_module(f"models.zoo.{FAMILIES[name]}")
    facts = family.make(name, out)
    facts["packages"] = {one: version(one) for one in PACKAGES}
    facts["val"] = family.measure((out / f"{name}.onnx").read_bytes(), out, "val")
    write_bytes(out / f"{name}.json", json.dumps(facts, indent=1).encode() + b"\n")
    print(json.dumps(facts["val"]))


if __name__ == "__main__":
    main()
