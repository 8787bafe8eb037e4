"""How unlike a teacher a student is: in its answers, its features and its attention, each as a loss to make small.

Answers: Hinton, Vinyals and Dean, 2015. Features by a linear projection: FitNets (Romero and others, 2015) and TinyBERT
(Jiao and others, 2020). Attention by the divergence of its rows: MobileBERT (Sun and others, 2020).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from edge_runtime.compress.learn.teachers import widened
from edge_runtime.compress.torch_graph import need_torch
from edge_runtime.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor, nn

TINY = 1e-9


def answer_loss(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Divergence of the student's probabilities from the teacher's, both softened, times the temperature squared, which
    keeps the gradient's size whatever the temperature. Logits (N, C), or (N, 1) for two classes."""
    functional = need_torch().nn.functional
    ours = functional.log_softmax(widened(student) / temperature, dim=-1)
    theirs = functional.log_softmax(widened(teacher) / temperature, dim=-1)
    return functional.kl_div(ours, theirs, reduction="batchmean", log_target=True) * temperature**2


def number_loss(student: Tensor, teacher: Tensor, spread: Tensor) -> Tensor:
    """Mean square of the difference of answers that are numbers, each in the teacher's standard deviation."""
    return ((student - teacher) / spread).square().mean()


def label_loss(student: Tensor, labels: Tensor, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy; with one logit the logistic loss."""
    return need_torch().nn.functional.cross_entropy(widened(student), labels, label_smoothing=smoothing)


def feature_loss(student: Tensor, teacher: Tensor, projection: nn.Module, mask: Tensor | None = None) -> Tensor:
    """Mean square of the difference, in the teacher's variance, after `projection` of the student's channels to the
    teacher's. Vectors (N, W), sequences (N, T, W) or maps (N, W, H, V); maps of other sizes meet at the smaller one.
    `mask` (N, T): 1 where a place of a sequence counts."""
    torch = need_torch()
    if student.ndim == 4:
        size = tuple(min(pair) for pair in zip(student.shape[2:], teacher.shape[2:], strict=True))
        student, teacher = (torch.nn.functional.adaptive_avg_pool2d(one, size) for one in (student, teacher))
        student, teacher = student.movedim(1, -1), teacher.movedim(1, -1)
    if mask is not None and student.ndim == 3:
        counts = mask[:, : student.shape[1]].bool()
        student, teacher = student[counts], teacher[:, : counts.shape[1]][counts]
    change = projection(student) - teacher
    return change.square().mean() / teacher.var(correction=0).clamp_min(TINY)


def attention_loss(student: Tensor, teacher: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean divergence of the rows of attention (N, heads, T, T), each of which adds up to 1. Where the teacher has more
    heads, groups of them are averaged. `mask` (N, T): 1 where a token counts."""
    length = student.shape[2]
    theirs = teacher[:, :, :length, :length]
    theirs = theirs.unflatten(1, (student.shape[1], -1)).mean(2)
    rows = (theirs * (theirs.clamp_min(TINY).log() - student.clamp_min(TINY).log())).sum(3).mean(1)  # (N, T)
    if mask is None:
        return rows.mean()
    counts = mask[:, :length].to(rows.dtype)
    return (rows * counts).sum() / counts.sum().clamp_min(1)


def check_pair(name: str, student: Tensor, theirs: str, teacher: Tensor) -> None:
    """Raises InputError where one cannot be compared with the other."""
    ours, wanted = list(student.shape[1:]), list(teacher.shape[1:])
    where = f"{name} of the student {ours} an item, {theirs} of the teacher {wanted}"
    if name.startswith("attention"):
        if student.ndim != 4 or teacher.ndim != 4 or teacher.shape[1] % student.shape[1]:
            raise InputError(
                f"found {where}: wanted (heads, T, T), and the teacher's heads a multiple of the student's"
            )
        return
    if student.ndim != teacher.ndim or student.ndim not in (2, 3, 4):
        raise InputError(f"found {where}: wanted vectors, sequences or maps, both of one kind")
    if student.ndim == 3 and student.shape[1] > teacher.shape[1]:
        raise InputError(f"found {where}: wanted the same places of the sequence in both")


def channels(part: Tensor) -> int:
    """Of a vector, a sequence (channels last) or a map (channels first)."""
    return int(part.shape[1] if part.ndim == 4 else part.shape[-1])
