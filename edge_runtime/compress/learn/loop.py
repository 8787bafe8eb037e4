"""The one training loop: AdamW, one cycle of the rate, and a running average of the weights.

AdamW: Loshchilov and Hutter, 2019. One cycle: Smith and Topin, 2018. The average is that of Polyak and Juditsky, 1992,
with exponential forgetting. A run of the same settings, lessons and thread count on one machine gives the same weights.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_runtime.compress.learn import checkpoint
from edge_runtime.compress.learn.checks import check_answer, check_free
from edge_runtime.compress.learn.lessons import Lessons
from edge_runtime.compress.learn.settings import Fit as Fit
from edge_runtime.compress.learn.settings import Hook as Hook
from edge_runtime.compress.learn.settings import Loss as Loss
from edge_runtime.compress.torch_graph import need_torch, single_thread
from edge_runtime.errors import InputError, UsageError

USUAL = Fit()


def fit(
    net: Any,
    lessons: Lessons,
    loss: Loss,
    settings: Fit = USUAL,
    *,
    steps: int | None = None,
    before: Hook | None = None,
    after: Hook | None = None,
    gradients: Hook | None = None,
    parameters: Iterable[Any] | None = None,
    notice: Callable[[str], None] | None = None,
    keep: Path | None = None,
    stay: bool = False,
    tag: str = "",
) -> Any:
    """`net` taught in place; returns it, or the running average of it (a copy), in evaluation mode.

    `steps` ends training early; the rate still falls to its end by then. `before` and `after` are called around each
    step, `gradients` between the gradients and their clipping, where it may change them. `parameters`: what is taught,
    all of `net` by default; parameters of a loss itself go here too. `notice` is told each epoch's mean loss. `keep`: a
    checkpoint, written after each epoch, from which an interrupted run goes on to the same weights; it is removed at
    the end, unless it is to `stay`: then the same run gives its result again at once. `tag` says what else such a run
    must have in common, such as the settings of a hook.

    What a hook remembers from step to step goes into the checkpoint where the hook, or the object whose method it is,
    has state_dict and load_state_dict (tensors and plain values); nothing else that it remembers does.

    Raises UsageError where a checkpoint is of other settings, lessons, weights or losses, or no weight may change;
    InputError where `keep` is no checkpoint or cannot be written, and where the loss is no longer finite.
    """
    keep = None if keep is None else Path(keep)
    with own_state(settings.seed, settings.threads):
        run = _Run(net, lessons, loss, settings, steps, parameters, _Kept(keep, stay, tag, (before, gradients, after)))
        return run.go(before, gradients, after, notice)


@contextmanager
def own_state(seed: int, threads: int = 1) -> Iterator[None]:
    """PyTorch's random numbers begin at `seed` and its threads are `threads` inside; after it the caller's go on."""
    torch = need_torch()
    with torch.random.fork_rng(devices=[]), single_thread(torch, threads):
        torch.manual_seed(seed)
        yield


@dataclass(frozen=True)
class _Kept:
    """As in `fit`."""

    place: Path | None
    stay: bool
    tag: str
    hooks: tuple[Hook | None, ...]

    def stateful(self, net: Any) -> list[Any]:
        """What hooks remember, each object once; the network is in the checkpoint anyway."""
        owners = [getattr(hook, "__self__", hook) for hook in self.hooks]
        found = {id(one): one for one in owners if hasattr(one, "state_dict") and hasattr(one, "load_state_dict")}
        return [one for one in found.values() if one is not net]


class _Run:
    def __init__(
        self,
        net: Any,
        lessons: Lessons,
        loss: Loss,
        settings: Fit,
        steps: int | None,
        parameters: Iterable[Any] | None,
        kept: _Kept,
    ) -> None:
        torch = need_torch()
        self.net, self.lessons, self.loss, self.settings = net, lessons, loss, settings
        self.keep, self.stay, self.stateful = kept.place, kept.stay, kept.stateful(net)
        self.dice = torch.Generator().manual_seed(settings.seed)
        each = lessons.steps(settings.batch)
        self.total = each * settings.epochs if steps is None else min(steps, each * settings.epochs)
        if self.total < 1:
            raise UsageError(f"found {steps} steps to train, wanted 1 or more")
        self.taught = [one for one in (net.parameters() if parameters is None else parameters) if one.requires_grad]
        check_free(self.taught, type(net).__name__)
        self.mean = copy.deepcopy(net) if settings.average else None
        self.optimizer = torch.optim.AdamW(self.taught, settings.rate, weight_decay=settings.decay)
        self.schedule = torch.optim.lr_scheduler.LambdaLR(self.optimizer, self._share)
        self.done = self.epoch = 0
        told = (net, self.taught, lessons, loss, settings, self.total, kept.tag)
        self.of = checkpoint.origin(*told) if self.keep else {}
        if self.stateful:
            self.of["hooks"] = [type(one).__name__ for one in self.stateful]

    def _share(self, step: int) -> float:
        """Of the highest rate: up along half a cosine from a 25th of it, down along one to nothing."""
        warm = self.settings.warm * self.total
        if step < warm:
            return 0.04 + 0.96 * (1 - math.cos(math.pi * step / warm)) / 2
        return (1 + math.cos(math.pi * (step - warm) / max(1.0, self.total - warm))) / 2

    def go(
        self,
        before: Hook | None,
        gradients: Hook | None,
        after: Hook | None,
        notice: Callable[[str], None] | None,
    ) -> Any:
        self._take_up()
        while self.done < self.total:
            said, count = 0.0, 0
            for index, inputs in self.lessons.batches(self.settings.batch, self.dice):
                self.net.train()
                if before:
                    before(self.done, self.total)
                said += self._step(index, inputs, gradients)
                count += 1
                if after:
                    after(self.done, self.total)
                self.done += 1
                self._blend()
                if self.done == self.total:
                    break
            self.epoch += 1
            if notice:
                notice(f"epoch {self.epoch} of {self.settings.epochs}: loss {said / count:.4f}")
            self._put_down()
        if self.keep and not self.stay:
            self.keep.unlink(missing_ok=True)
        return (self.net if self.mean is None else self.mean).eval()

    def _step(self, index: Any, inputs: tuple[Any, ...], gradients: Hook | None) -> float:
        torch = need_torch()
        loss = self.loss(self.net, inputs, index)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise InputError(
                f"step {self.done + 1} of {self.total}: found a loss of {value}, wanted a finite one",
                hint="lower the rate, or look for inputs that are not finite",
            )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if gradients:
            gradients(self.done, self.total)
        if self.settings.clip:
            torch.nn.utils.clip_grad_norm_(self.taught, self.settings.clip)
        self.optimizer.step()
        self.schedule.step()
        return value

    def _blend(self) -> None:
        """Weights and statistics of normalisation; short runs forget faster, so that the start does not stay."""
        if self.mean is None:
            return
        torch = need_torch()
        keep = min(self.settings.average, self.done / (self.done + 10))
        with torch.no_grad():
            for old, new in zip(self.mean.state_dict().values(), self.net.state_dict().values(), strict=True):
                if old.dtype.is_floating_point:
                    old.mul_(keep).add_(new, alpha=1 - keep)
                else:
                    old.copy_(new)

    # ------------------------------------------------------------ the checkpoint

    def _put_down(self) -> None:
        if self.keep is None or (self.done == self.total and not self.stay):
            return
        torch = need_torch()
        plain = {
            "of": self.of,
            "done": self.done,
            "epoch": self.epoch,
            "net": self.net.state_dict(),
            "mean": None if self.mean is None else self.mean.state_dict(),
            "taught": [one.detach() for one in self.taught],
            "optimizer": self.optimizer.state_dict(),
            "schedule": self.schedule.state_dict(),
            "hooks": [one.state_dict() for one in self.stateful],
            "dice": self.dice.get_state(),
            "global": torch.get_rng_state(),
        }
        checkpoint.write(self.keep, plain)

    def _take_up(self) -> None:
        if self.keep is None:
            return
        checkpoint.ready(self.keep)
        if not self.keep.is_file():
            return
        torch = need_torch()
        plain = checkpoint.read(self.keep, self.of)
        self.done, self.epoch = plain["done"], plain["epoch"]
        self.net.load_state_dict(plain["net"])
        if self.mean is not None:
            self.mean.load_state_dict(plain["mean"])
        with torch.no_grad():
            for one, value in zip(self.taught, plain["taught"], strict=True):
                one.copy_(value)
        self.optimizer.load_state_dict(plain["optimizer"])
        self.schedule.load_state_dict(plain["schedule"])
        for one, state in zip(self.stateful, plain.get("hooks", ()), strict=True):
            one.load_state_dict(state)
        self.dice.set_state(plain["dice"])
        torch.set_rng_state(plain["global"])


def cross_entropy(lessons: Lessons, smoothing: float = 0.0) -> Loss:
    """Against the labels: softmax over (N,C), or the logistic loss for one logit (N,1).

    Raises InputError where the lessons have no labels, or the network no output for one; UsageError for a smoothing
    that is not in 0 to 1."""
    torch = need_torch()
    if lessons.labels is None:
        raise InputError("found lessons without labels, wanted labels to learn from", hint="give a teacher instead")
    if not 0 <= smoothing < 1:
        raise UsageError(f"found smoothing {smoothing}, wanted from 0 up to below 1")
    labels, largest = torch.from_numpy(lessons.labels.astype(np.int64)), lessons.largest_label
    functional = torch.nn.functional

    def loss(net: Any, inputs: tuple[Any, ...], index: Any) -> Any:
        logits = net(*inputs)
        check_logits(logits, largest)
        wanted = labels[index]
        if logits.shape[1] == 1:
            target = wanted.float() * (1 - smoothing) + smoothing / 2
            return functional.binary_cross_entropy_with_logits(logits[:, 0], target)
        return functional.cross_entropy(logits, wanted, label_smoothing=smoothing)

    return loss


def check_logits(logits: Any, largest: int | None, who: str = "network") -> None:
    """Raises InputError for anything but (N, 1) or (N, C), and for labels, `largest` of them, that are no class."""
    check_answer(logits, who)
    if logits.ndim != 2 or logits.shape[1] < 1:
        raise InputError(f"{who}: found answers of shape {list(logits.shape)}, wanted logits (N, 1) or (N, C)")
    classes = max(2, int(logits.shape[1]))
    if largest is not None and largest >= classes:
        raise InputError(
            f"labels: found {largest} as the largest, {logits.shape[1]} outputs of the {who}, wanted labels from 0 to "
            f"{classes - 1}",
            hint="number the classes from 0 on, or give the network an output for each",
        )


def answers(net: Any, lessons: Lessons, batch: int = 256, threads: int = 1) -> npt.NDArray[np.float32]:
    """float32 (N, ...) of every item, unvaried, with the network in evaluation mode, by `threads` of PyTorch."""
    torch = need_torch()
    was = net.training
    net.eval()
    with torch.inference_mode(), single_thread(torch, threads):
        found = [net(*inputs).numpy() for _, inputs in lessons.batches(batch)]
    net.train(was)
    return np.concatenate(found).astype(np.float32, copy=False)
