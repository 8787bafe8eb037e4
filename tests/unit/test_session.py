"""A bundle on a device, with real engines in real children: answers, budgets, breaches, deaths."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

import edge_runtime as edge
from edge_runtime.bundle import load_bundle, pack
from edge_runtime.child import memory_status
from edge_runtime.errors import BudgetError, BundleError, EdgeError, EngineError, InputError
from edge_runtime.guard import Child, Limits
from edge_runtime.phantom import Phantom, write_slide
from edge_runtime.planner import explain, plan
from edge_runtime.profile import Budget
from edge_runtime.task.pictures import load_image
from tests.conftest import IMAGE_TASK, LABELS, PREPROCESSING, ROOT, null_model, picture, small_device

MIB = 1 << 20


@pytest.mark.parametrize("variant", ["fp32", "fp32-lite", "int8-lite"])
def test_a_red_picture_is_red_on_every_engine(means: Path, tmp_path: Path, variant: str):
    with edge.open_session(means, small_device(), variant=variant) as session:
        prediction = session.predict(picture(tmp_path / "a.png", (255, 0, 0)))
        assert prediction.fields["labels"][0] == {"label": "red", "score": 1.0}
        assert session.peak_ram_bytes > 20 * MIB


def test_a_bad_item_is_an_outcome_and_the_next_one_is_read(means: Path, tmp_path: Path):
    (tmp_path / "bad.png").write_bytes(b"not an image")
    with edge.open_session(means, small_device()) as session:
        assert isinstance(session.run(tmp_path / "bad.png").error, InputError)
        with pytest.raises(InputError, match="found nothing there"):
            session.predict(tmp_path / "missing.png")
        outcome = session.run(picture(tmp_path / "b.png", (0, 0, 255)))
        assert outcome.prediction
        plain = outcome.to_json()
        assert plain["labels"][0]["label"] == "blue"
        assert plain["schema"] == 1
        assert plain["latency_ms"] > 0
        assert len(plain["item_digest"]) == len(plain["bundle_digest"]) == 64


def test_the_parent_loads_neither_numpy_nor_an_engine(means: Path, tmp_path: Path):
    picture(tmp_path / "a.png", (255, 0, 0))
    code = (
        "import sys, edge_runtime as edge\n"
        f"with edge.open_session({str(means)!r}) as session: session.predict({str(tmp_path / 'a.png')!r})\n"
        "print([name for name in ('numpy', 'PIL', 'onnxruntime', 'ai_edge_litert') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# ---------------------------------------------------------------- plan


def test_devices_choose_differently_and_say_why(means: Path):
    bundle = load_bundle(means)
    zero = plan(bundle, edge.load_profile("raspberry-pi-zero-2w"))
    tablet = plan(bundle, edge.load_profile("lg-g-pad-7.0"))
    assert zero.choice
    assert tablet.choice
    assert (zero.choice.engine, zero.choice.variant) == ("onnxruntime", "fp32")
    assert (tablet.choice.engine, tablet.choice.variant) == ("litert", "fp32-lite")
    assert "no wheel for 32-bit ARM" in "\n".join(explain(tablet))


def test_int8_comes_first_on_cores_with_dot_products(means: Path):
    found = plan(load_bundle(means), edge.load_profile("raspberry-pi-5"), engine="litert")
    assert [one.variant for one in found.candidates] == ["int8-lite", "fp32-lite"]


def test_what_does_not_fit_is_not_loaded(means: Path):
    with pytest.raises(BudgetError, match="memory: needs .* the device allows 10 MiB") as caught:
        edge.open_session(means, small_device(10 * MIB))
    assert caught.value.exit_code == 3
    with pytest.raises(BudgetError, match="storage: needs"):
        edge.open_session(means, small_device(storage_bytes=1000))


def test_an_engine_that_the_device_lacks_is_no_budget_matter(means: Path):
    with pytest.raises(EngineError, match="engine: test has litert"):
        edge.open_session(means, small_device(engines=("litert",)), engine="onnxruntime")


# ---------------------------------------------------------------- guard


class Hungry:
    """Takes memory, sleeps or dies, as asked."""

    def handle(self, op, meta, arrays, progress):
        if op == "take":
            self.kept = np.ones(meta["bytes"], np.uint8)
        elif op == "sip":  # in small bites, as an engine's arena does
            self.kept = [np.ones(MIB, np.uint8) for _ in range(meta["bytes"] // MIB)]
        elif op == "reserve":
            self.kept = np.empty(meta["bytes"], np.uint8)
        elif op == "signal":
            os.kill(os.getpid(), meta["signal"])
        elif op == "sleep":
            time.sleep(60)
        elif op == "slow":
            time.sleep(0.15)
            progress(1, 2)
        return {"peak": memory_status().get("VmHWM", 0)}, arrays


def hungry(spec):
    return Hungry()


def small_child(ram_bytes: int | None = None, silence_s: float = 30) -> Child:
    child = Child("tests.unit.test_session:hungry", {"predicted_bytes": 40 * MIB}, Limits(ram_bytes, silence_s))
    child.ready()
    return child


@pytest.mark.parametrize("way", ["take", "sip"])
def test_more_memory_than_allowed_is_stopped_with_the_figures(way: str):
    child = small_child(100 * MIB)
    assert child.call(way, {"bytes": 10 * MIB})[0]["peak"] < 100 * MIB
    with pytest.raises(BudgetError, match="predicted 40 MiB") as caught:
        child.call(way, {"bytes": 300 * MIB})
    assert caught.value.allowed_bytes == 100 * MIB
    assert caught.value.measured_bytes
    assert caught.value.measured_bytes < 110 * MIB, "the limit must bite before much more is resident"
    assert not child.alive


def test_an_interrupt_while_asking_ends_the_child_too(monkeypatch: pytest.MonkeyPatch):
    child = small_child()
    send = child._send

    def interrupted(*arguments: object) -> None:
        send(*arguments)  # the question is out, its answer will come
        raise KeyboardInterrupt

    monkeypatch.setattr(child, "_send", interrupted)
    with pytest.raises(KeyboardInterrupt):
        child.call("take", {"bytes": 1})
    assert not child.alive


def test_a_stricter_limit_from_outside_is_kept(means: Path, tmp_path: Path):
    picture(tmp_path / "a.png", (255, 0, 0))
    command = [sys.executable, "-m", "edge_runtime", "run", str(means), str(tmp_path / "a.png")]
    done = subprocess.run(
        ["sh", "-c", 'ulimit -H -d 1000000; ulimit -S -d 1000000; exec "$@"', "sh", *command],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, "red 1.000" in done.stdout) == (0, True), done.stderr


def test_a_child_leaves_it_to_its_parent_to_end():
    child = small_child()
    os.kill(child._process.pid, signal.SIGTERM)
    assert child.call("take", {"bytes": 1})[0]["peak"]
    child.close()


@pytest.mark.parametrize("number", [signal.SIGILL, signal.SIGSEGV, signal.SIGKILL])
def test_a_child_that_dies_is_an_error_with_the_signal(number: signal.Signals):
    child = small_child()
    with pytest.raises(EngineError, match=f"died of {number.name}") as caught:
        child.call("signal", {"signal": int(number)})
    assert ("device=" in str(caught.value.hint)) == (number == signal.SIGKILL), "as a system without memory kills"
    with pytest.raises(EngineError, match="open the session again"):
        child.call("take", {"bytes": 1})


def test_a_model_that_never_answers_is_stopped():
    child = small_child()
    child.limits = replace(child.limits, silence_s=1)  # not from the start: a busy machine takes longer for that
    with pytest.raises(EngineError, match="no sign of life"):
        child.call("sleep", {})
    assert not child.alive


def test_a_child_left_in_the_middle_of_an_answer_is_never_asked_again():
    """The next caller would be given the answer that was left behind: another slide's verdict."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    child = small_child()
    with pytest.raises(KeyboardInterrupt):
        child.call("slow", {}, progress=interrupt)
    assert not child.alive


def test_a_hanging_model_does_not_outlive_a_parent_that_is_killed():
    code = (
        "from tests.unit.test_session import small_child\n"
        "child = small_child()\nprint(child._process.pid, flush=True)\nchild.call('sleep', {})"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=ROOT) as parent:
        assert parent.stdout
        pid = int(parent.stdout.readline())
        time.sleep(0.3)
        parent.kill()
    for _ in range(50):
        status = Path(f"/proc/{pid}/status")
        if not status.exists() or "State:\tZ" in status.read_text():
            return
        time.sleep(0.1)
    pytest.fail("the child still runs")


def test_arrays_larger_than_the_limit_are_a_breach(models: Path):
    program = edge.open_program(models / "fp32.onnx", device=small_device(90 * MIB))
    with program, pytest.raises(BudgetError, match="allowed 90 MiB"):
        program.run({"image": np.zeros((200_000, 3, 8, 8), np.float32)})


def test_what_fits_by_the_measured_cost_runs_inside_it(tmp_path: Path):
    """Five per cent above the measured peak: address space that libraries reserve must not count as used."""
    write_slide(tmp_path / "slide", Phantom(88, 8))
    machine = edge.load_profile("this-device")
    for variant, engine in (("fp32", "onnxruntime"), ("int8-lite", "litert")):
        cost = load_bundle("malaria").variant(variant).costs[f"{engine}/{machine.arch}"]
        device = replace(machine, budget=Budget(int(cost.ram_bytes * 1.05), 64 * MIB))
        with edge.open_session("malaria", device, variant=variant, threads=1) as session:
            assert session.run(tmp_path / "slide").error is None


def test_arrays_cross_unchanged():
    child = small_child()
    sent = {"a": np.arange(6, dtype=np.int16).reshape(2, 3), "s": np.array([["x", "é"]], object), "n": np.float32(3)}
    _, back = child.call("echo", {}, {name: np.asarray(one) for name, one in sent.items()})
    child.close()
    for name, one in sent.items():
        np.testing.assert_array_equal(back[name], one)


def test_a_photograph_that_lies_on_its_side_is_turned_and_is_in_memory_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    turn = ImageOps.exif_transpose  # that of Debian 12, which 32-bit ARM has, takes a picture and nothing else
    monkeypatch.setattr(ImageOps, "exif_transpose", lambda image: turn(image))
    image = Image.new("RGB", (40, 20), (9, 9, 9))
    turned = image.getexif()
    turned[0x0112] = 6
    image.save(tmp_path / "side.jpg", exif=turned)
    image.save(tmp_path / "upright.jpg")
    sizes = [
        load_image(path, path.read_bytes(), upright=True).size
        for path in (tmp_path / "side.jpg", tmp_path / "upright.jpg")
    ]
    assert sizes == [(20, 40), (40, 20)]


def test_a_breach_costs_one_item_and_not_the_session(means: Path, tmp_path: Path):
    """A picture that decodes to more than the device allows is refused; the next one is read by a fresh child."""
    huge = picture(tmp_path / "huge.png", (9, 9, 9), (4900, 4900))
    with edge.open_session(means, small_device(110 * MIB), engine="litert") as session:
        error = session.run(huge).error
        assert isinstance(error, BudgetError)
        assert error.allowed_bytes == 110 * MIB
        assert session.run(picture(tmp_path / "a.png", (255, 0, 0))).prediction


# ---------------------------------------------------------------- models that are not what the bundle says


def header(**changes: object) -> dict[str, object]:
    tensors = {"inputs": [{"name": "image", "shape": [1, 3, 8, 8], "dtype": "float32"}]}
    tensors["outputs"] = [{"name": "means", "shape": [1, 3], "dtype": "float32"}]
    variant = {"name": "only", "format": "null", "file": "m.null", "recipe": [], "metrics": {}, "costs": {}, **tensors}
    plain = {"name": "means", "version": "1", "task": IMAGE_TASK, "labels": LABELS, "preprocessing": PREPROCESSING}
    return {**plain, "variants": [variant], **changes}


@pytest.mark.parametrize(
    ("changes", "content", "said"),
    [
        ({"preprocessing": {**PREPROCESSING, "size": [9, 9]}}, null_model(), "9 x 9 pixels, as the preprocessing says"),
        ({"labels": ["a", "b"]}, null_model(), "wanted one with 2"),
        ({}, null_model(shape=(1, 3, 16, 16)), "wanted those that the bundle states"),
        ({"task": {"kind": "juggle"}}, null_model(), "found task 'juggle'"),
        ({"task": {**IMAGE_TASK, "tops": 3}}, null_model(), "found task"),
    ],
)
def test_a_model_that_does_not_match_is_refused(changes: dict[str, object], content: bytes, said: str, tmp_path: Path):
    bundle = pack(header(**changes), {"m.null": content}, tmp_path / "b.edge")
    with pytest.raises(EdgeError, match=said):
        edge.open_session(bundle, small_device(), engine="null")


def test_a_bundle_swapped_behind_our_back_is_noticed(tmp_path: Path):
    first = pack(header(), {"m.null": null_model()}, tmp_path / "b.edge")
    pack(header(version="2"), {"m.null": null_model()}, tmp_path / "b.edge")
    with pytest.raises((BundleError, EdgeError), match="changed after it was read"):
        edge.open_session(first, small_device(), engine="null")
