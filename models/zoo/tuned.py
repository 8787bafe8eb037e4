"""MiniLM taught further on the messages, head and layers, as a teacher: better than the published encoder and a head.

python models/zoo/tuned.py OUT    # OUT/minilm-tuned.safetensors, and what it reaches on val
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import torch
from torch import nn

from edge_runtime.compress.learn.lessons import Lessons
from edge_runtime.compress.learn.loop import Fit, cross_entropy, fit
from models.zoo.encoder import Encoder, Sorter, load, tokens
from models.zoo.texts import read

HOW = Fit(epochs=2, batch=16, rate=5e-5, decay=0.01, warm=0.2, average=0.0, clip=1.0)


def trimmed(inputs: tuple[torch.Tensor, ...], dice: Any = None) -> tuple[torch.Tensor, ...]:
    """input_ids and attention_mask without the filling that all of the batch have."""
    longest = int(inputs[1].sum(1).max())
    return tuple(one[:, :longest] for one in inputs)


def blank() -> Sorter:
    """The published encoder and an untaught head; the words' embedding is not taught."""
    torch.manual_seed(HOW.seed)
    encoder: Encoder = load()
    encoder.words.weight.requires_grad_(False)
    return Sorter(encoder, nn.Linear(encoder.words.embedding_dim, 2))


def tune(out: Path) -> Sorter:
    """OUT/minilm-tuned.safetensors: found there, or taught first."""
    from safetensors.torch import load_file, save_file

    path, net = out / "minilm-tuned.safetensors", blank()
    if not path.is_file():
        messages, labels = read("train")
        lessons = Lessons(dict(tokens(messages)), labels, prepare=trimmed)
        began = time.monotonic()
        fit(net, lessons, cross_entropy(lessons), HOW, notice=lambda words: print(words, file=sys.stderr, flush=True))
        print(f"tuned in {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
        draft = path.with_suffix(".new")
        save_file(net.state_dict(), str(draft))
        draft.replace(path)
    net.load_state_dict(load_file(str(path)))
    return net.eval()


@torch.inference_mode()
def logits(net: Sorter, inputs: dict[str, np.ndarray], batch: int = 32) -> np.ndarray:
    """float32 (N,2); messages of like length together."""
    lengths = inputs["attention_mask"].sum(1)
    order = np.argsort(lengths, kind="stable")
    found = np.empty((len(order), 2), np.float32)
    for start in range(0, len(order), batch):
        some = order[start : start + batch]
        given = (torch.from_numpy(inputs[name][some]) for name in ("input_ids", "attention_mask"))
        found[some] = net(*trimmed(tuple(given))).numpy()
    return found


def main() -> None:
    from sklearn.metrics import f1_score

    torch.set_num_threads(1)
    out = Path(sys.argv[1])
    net = tune(out)
    messages, labels = read("val")
    print(f"F1 on val {f1_score(labels, logits(net, tokens(messages)).argmax(1)):.4f}")


if __name__ == "__main__":
    main()
