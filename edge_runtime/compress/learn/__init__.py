"""Learning smaller models, on the workstation, with PyTorch (the extra "train"): distillation, quantization-aware
training, pruning with tuning, compact architectures, and the search for them.

One training loop (loop.py) over one kind of lessons (lessons.py) serves them all: a technique is a loss, a wrapped
network, or what is done around a step.
"""
