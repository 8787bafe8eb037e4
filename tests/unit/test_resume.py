"""A run that was cut goes on to the same weights, bit for bit, whatever its hooks, losses and stages remember."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from edge_runtime.compress.learn.distill import Distillation, born_again, distill, learn_from_itself
from edge_runtime.compress.learn.loop import Fit, cross_entropy, fit
from edge_runtime.compress.learn.prune_tune import PruneAndTune, prune_and_tune
from edge_runtime.compress.learn.qat import QuantAware, quantize_aware
from edge_runtime.errors import InputError, UsageError
from tests.unit.test_qat import exported, lessons, net

pytestmark = pytest.mark.torch
QUICK = Fit(epochs=4, batch=32, rate=5e-3, average=0.9)
Run = Callable[..., Any]  # keep, notice -> whatever compared() takes


class Cut(BaseException):
    pass


def cut_at(place: int) -> Callable[[str], None]:
    """Before the checkpoint of so manieth epoch, of all that are told of, is written: the one before it stands."""
    said: list[str] = []

    def notice(words: str) -> None:
        said.append(words)
        if sum(one.startswith("epoch") for one in said) == place:
            raise Cut

    return notice


def goes_on(run: Run, tmp_path: Path, places: tuple[int, ...] = (3,), left: int = 2) -> None:
    """Cut at each of the places in turn, and then not; `left`: epochs that are taught then."""
    whole, keep, said = run(keep=None, notice=None), tmp_path / "runs" / "run.pt", list[str]()
    for place in places:
        with pytest.raises(Cut):
            run(keep=keep, notice=cut_at(place))
        assert any(keep.parent.iterdir())
    again = run(keep=keep, notice=said.append)
    assert compared(again) == compared(whole) and sum(one.startswith("epoch") for one in said) == left
    assert not any(keep.parent.iterdir())


def compared(made: Any) -> list[bytes]:
    """Weights and files, to the bit."""
    if isinstance(made, list):
        return [part for one in made for part in compared(one)]
    found = [made.artifact.content, repr(made.facts).encode()] if hasattr(made, "facts") else []
    weights = getattr(made, "net", made).state_dict().values()
    return [*found, *(one.numpy().tobytes() for one in weights)]


PRUNINGS = [
    {"scope": "layer"},
    {"scope": "lamp", "end": 1.0},
    {"n": 2, "m": 4},
    {"kind": "rigl", "scope": "layer", "end": 1.0},
    {"kind": "set", "scope": "layer", "end": 1.0},  # drawn anew after the cut
]


@pytest.mark.parametrize("settings", PRUNINGS, ids=str)
def test_what_is_held_at_0(settings: dict[str, Any], tmp_path: Path):
    about = exported(), lessons(), PruneAndTune(every=6, **settings), QUICK
    goes_on(lambda **more: prune_and_tune(*about, **more), tmp_path)


def test_masks_of_a_loop_of_ones_own_go_along(tmp_path: Path):
    from edge_runtime.compress.learn.masks import Masks

    def run(**more: Any) -> Any:
        taught, found = net(), lessons()
        masks = Masks(taught, PruneAndTune(0.7, "set", "layer", every=3))
        hooks = {"before": masks.before, "gradients": masks.gradients, "after": masks.after}
        fit(taught, found, cross_entropy(found), QUICK, **hooks, **more)
        assert all(bool((weight[masks.kept[name] == 0] == 0).all()) for name, (weight, _) in masks.found.items())
        assert abs(masks.zeros()["point"] - 0.7) < 0.01
        return taught

    goes_on(run, tmp_path)


def test_a_checkpoint_without_what_hooks_remember_is_refused(tmp_path: Path):
    from edge_runtime.compress.learn.masks import Masks

    taught, found, keep = net(), lessons(), tmp_path / "run.pt"
    with pytest.raises(Cut):
        fit(taught, found, cross_entropy(found), QUICK, notice=cut_at(2), keep=keep)
    masks = Masks(taught := net(), PruneAndTune())
    with pytest.raises(UsageError, match=r"hooks None, wanted one of hooks \['Masks'\]"):
        fit(taught, found, cross_entropy(found), QUICK, after=masks.after, keep=keep)
    with pytest.raises(Cut):
        prune_and_tune(net(), found, PruneAndTune(0.5), QUICK, notice=cut_at(2), keep=tmp_path / "other.pt")
    with pytest.raises(UsageError, match=r"share=0\.5.*share=0\.6"):
        prune_and_tune(net(), found, PruneAndTune(0.6), QUICK, keep=tmp_path / "other.pt")


def spoilt(place: Path, how: str) -> None:
    import torch

    if how == "cut":
        place.write_bytes(place.read_bytes()[:3000])
    elif how == "no archive":
        place.write_bytes(b"abc")
    elif how == "of a net":
        torch.save(net().state_dict(), place)
    elif how == "a folder":
        place.unlink()
        place.mkdir()


@pytest.mark.parametrize(
    ("how", "words"),
    [("cut", "found no checkpoint"), ("no archive", "found no checkpoint"), ("of a net", "found no checkpoint"),
     ("a folder", "found a folder, wanted a file")],
)  # fmt: skip
def test_what_is_no_checkpoint_is_refused_before_the_first_step(how: str, words: str, tmp_path: Path):
    taught, found, keep = net(), lessons(), tmp_path / "run.pt"
    with pytest.raises(Cut):
        fit(taught, found, cross_entropy(found), QUICK, notice=cut_at(2), keep=keep)
    spoilt(keep, how)
    with pytest.raises(InputError, match=rf"run\.pt: {words}") as caught:
        fit(net(), found, cross_entropy(found), QUICK, keep=keep, notice=lambda _: pytest.fail("an epoch was taught"))
    assert caught.value.hint and str(keep) in caught.value.hint


def test_a_checkpoint_that_cannot_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    import torch

    found, said = lessons(), list[str]()
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match="found no way to write a checkpoint"):
        fit(net(), found, cross_entropy(found), QUICK, keep=tmp_path / "file" / "run.pt", notice=said.append)
    assert not said

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    keep = tmp_path / "runs" / "run.pt"
    with pytest.raises(Cut):
        fit(net(), found, cross_entropy(found), QUICK, notice=cut_at(2), keep=str(keep))  # type: ignore[arg-type]
    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(InputError, match=r"No space left on device; the one of the epoch before stays in .*run\.pt"):
        fit(net(), found, cross_entropy(found), QUICK, keep=keep)
    assert list(keep.parent.iterdir()) == [keep]


def test_channels_that_went_in_rounds(tmp_path: Path):
    """Cut in the first round, then in the last: what the first has learnt is not taught again."""
    about = exported(), lessons(), PruneAndTune(0.6, "channels", rounds=2, between=0.5), QUICK
    goes_on(lambda **more: prune_and_tune(*about, **more), tmp_path, (2, 3), left=1)


@pytest.mark.parametrize(
    "settings",
    [
        QuantAware("int8", least=16),
        QuantAware("ternary", least=16, anneal=0.9, ranges="average"),
        QuantAware("int4", "float", block=16, least=16, anneal=0.5),
    ],
    ids=lambda one: one.weights,
)
def test_bits_that_grow_and_zeros_that_stay(settings: QuantAware, tmp_path: Path):
    import torch

    sparse = net()
    with torch.no_grad():
        sparse.point.weight[::2] = 0
    goes_on(lambda **more: quantize_aware(sparse, lessons(), settings, QUICK, **more), tmp_path)


def test_projections_of_features_and_items_that_are_varied(tmp_path: Path):
    import torch

    from tests.unit.test_distill import PAIRS, Reader, sequences

    def noisy(inputs: Any, dice: Any) -> Any:
        x, mask = inputs
        return (x if dice is None else x + 0.1 * torch.randn(x.shape, generator=dice)), mask

    found, teacher = replace(sequences(), prepare=noisy), Reader(8, 4)
    how = Distillation(features=1.0, attention=1.0, layers=PAIRS, mask="mask")
    goes_on(lambda **more: distill(Reader(4, 2), teacher, found, how, replace(QUICK, batch=8), **more), tmp_path)


def test_a_net_that_teaches_itself_and_its_generations(tmp_path: Path):
    found, how = lessons(), Distillation(temperature=(1.0, 2.0))
    goes_on(lambda **more: learn_from_itself(net(), found, how, QUICK, **more), tmp_path)
    born = partial(born_again, lambda _: net(), found, how, QUICK, generations=3)
    goes_on(born, tmp_path, (2, 5, 3), left=5)


def test_architectures_that_a_supernet_draws(tmp_path: Path):
    from edge_runtime.compress.learn.supernet import teach
    from edge_runtime.compress.learn.trial import School
    from tests.unit.test_nas import SPACE
    from tests.unit.test_nas import lessons as pictures

    school = School(pictures(), pictures())

    def run(**more: Any) -> Any:
        return teach(SPACE, school, replace(QUICK, batch=8), **more).net

    goes_on(run, tmp_path)


@pytest.mark.parametrize(
    ("settings", "left"),
    [
        ({"pass": "quantize_aware", "weights": "int4", "anneal": 0.8}, 3),
        ({"pass": "prune_and_tune", "kind": "rigl"}, 3),
        ({"pass": "prune_and_tune", "kind": "channels"}, 4),  # two epochs of the first round, five of the last
    ],
    ids=["quantize_aware", "rigl", "channels"],
)
def test_a_step_of_a_recipe(settings: dict[str, Any], left: int, tmp_path: Path):
    from edge_runtime.compress.recipe import read_recipe
    from edge_runtime.compress.steps import run_recipe
    from tests.unit.small_nets import context, items, residual

    def progress(done: int, total: int, words: str) -> None:
        if done == 4 and cuts:
            raise cuts.pop()

    original, folder, cuts = residual(), tmp_path / "steps", [Cut()]
    recipe = read_recipe({"name": "one", "passes": [settings | {"epochs": 6, "rate": 3e-3}]}, "here")
    here = replace(context(original, items(original, 96)), progress=progress)
    with pytest.raises(Cut):
        run_recipe(original, recipe, here, keep=folder)
    assert list(folder.glob("*.pt"))
    made, (report,) = run_recipe(original, recipe, here, keep=folder)
    assert len(report.facts["epochs"]) == left and not list(folder.glob("*.pt"))
    assert made == run_recipe(original, recipe, here)[0]
