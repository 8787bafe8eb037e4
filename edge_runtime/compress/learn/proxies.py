"""How promising an architecture is before any training: cheap, and rough.

Synaptic flow: Tanaka and others, 2020, as a score of architectures by Abdelfattah and others, 2021. Overlap of ReLU
patterns: Mellor and others, 2021 (NASWOT).
"""

from __future__ import annotations

import copy
import math
from typing import Any

from edge_runtime.compress.learn.lessons import Lessons
from edge_runtime.compress.learn.loop import own_state
from edge_runtime.compress.torch_graph import need_torch
from edge_runtime.errors import UsageError


def synaptic_flow(net: Any, example: tuple[Any, ...]) -> float:
    """Log of the sum of |weight x gradient| with all weights positive and inputs of one. `net` stays as it is."""
    torch = need_torch()
    net = copy.deepcopy(net)
    with torch.no_grad():
        for one in net.parameters():
            one.abs_()
    net.eval().zero_grad()
    net = net.double()
    net(*(torch.ones_like(one).double() for one in example)).sum().backward()
    total = sum(
        (one * one.grad).abs().sum().item() for one in net.parameters() if one.grad is not None and one.ndim > 1
    )
    return math.log(total + 1e-300)


def pattern_overlap(net: Any, inputs: tuple[Any, ...]) -> float:
    """Log determinant of how alike items' patterns of active units are: high where a net tells items apart.

    Raises UsageError for a net without such units."""
    torch = need_torch()
    total = torch.zeros(len(inputs[0]), len(inputs[0]), dtype=torch.float64)

    def note(module: Any, given: Any, made: Any) -> None:
        active = (made.flatten(1) > 0).double()
        total.add_(active @ active.T + (1 - active) @ (1 - active).T)

    units = [one for one in net.modules() if hasattr(one, "act")]
    if not units:
        raise UsageError(
            f"found no units in {type(net).__name__} whose patterns could be compared, wanted ReLUs",
            hint="search without a sieve: Search(sieve=1)",
        )
    hooks = [one.register_forward_hook(note) for one in units]
    net.train()
    with torch.no_grad():
        net(*inputs)
    for one in hooks:
        one.remove()
    return float(torch.linalg.slogdet(total + 1e-3 * torch.eye(len(total), dtype=torch.float64))[1])


def untrained(builder: Any, lessons: Lessons, seed: int, items: int = 32) -> float:
    """Overlap of patterns on some items, of a net with weights drawn by the seed."""
    torch = need_torch()
    with own_state(seed):
        return pattern_overlap(builder.build(), lessons.take(torch.arange(min(items, lessons.count))))
