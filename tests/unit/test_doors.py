"""Trained models from their own frameworks. Those that need the frameworks run when asked for: -m torch."""

from __future__ import annotations

import numpy as np
import pytest

from edge_runtime.compress.export import from_keras, from_sklearn, from_torch, load_model
from edge_runtime.compress.outputs import answers, specs
from edge_runtime.compress.prepare import prepare
from edge_runtime.compress.samples import Samples
from edge_runtime.errors import InputError

from .compress_models import pictures, small_net

torch_too = pytest.mark.torch


def test_what_is_no_model_and_what_would_run_code_is_refused(tmp_path):
    for name in ("net.pt", "net.pth", "net.joblib", "net.pkl"):
        (tmp_path / name).write_bytes(b"\x80\x04")
        with pytest.raises(InputError, match="pickles, which run code"):
            load_model(tmp_path / name)
    with pytest.raises(InputError, match="found no file there"):
        load_model(tmp_path / "net.onnx")
    (tmp_path / "net.onnx").write_bytes(small_net())
    assert load_model(tmp_path / "net.onnx").form == "onnx"


@torch_too
def test_a_torch_module_and_its_exported_program_answer_as_in_torch(tmp_path):
    import torch

    torch.manual_seed(0)
    layers = [torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU(), torch.nn.Flatten()]
    net = torch.nn.Sequential(*layers, torch.nn.Linear(8 * 14 * 14, 2)).eval()
    x = pictures(4)
    wanted = net(torch.from_numpy(x)).detach().numpy()
    batch = torch.export.Dim("batch")
    program = torch.export.export(net, (torch.from_numpy(x),), dynamic_shapes=({0: batch},))
    torch.export.save(program, tmp_path / "net.pt2")
    for made in (from_torch(net, torch.from_numpy(x[:1])), load_model(tmp_path / "net.pt2")):
        ready = prepare(made)
        inputs, _ = specs(ready)
        assert inputs[0].shape == (None, 3, 16, 16)
        found = answers(ready, Samples("x", 4, None, {inputs[0].name: x}), 4)
        assert np.allclose(next(iter(found.values())), wanted, atol=1e-5)


@torch_too
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # Keras's own, with numpy 2
def test_a_keras_model_answers_as_in_keras(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    import keras

    layers = [keras.layers.Input((16, 16, 3)), keras.layers.Conv2D(4, 3, activation="relu")]
    net = keras.Sequential([*layers, keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(2)])
    net.save(tmp_path / "net.keras")
    x = np.ascontiguousarray(np.moveaxis(pictures(3), 1, -1))
    for made in (from_keras(net), load_model(tmp_path / "net.keras")):
        ready = prepare(made)
        found = answers(ready, Samples("x", 3, None, {specs(ready)[0][0].name: x}))
        assert np.allclose(next(iter(found.values())), keras.ops.convert_to_numpy(net(x)), atol=1e-5)


@torch_too
def test_a_scikit_learn_network_answers_as_there_and_trees_are_refused():
    from sklearn.ensemble import RandomForestClassifier
    from sklearn.neural_network import MLPClassifier

    x = np.random.default_rng(0).random((80, 6), np.float32)
    y = (x.sum(axis=1) > 3).astype(int)
    fitted = MLPClassifier((8,), max_iter=500, tol=0.1, random_state=0).fit(x, y)
    ready = prepare(from_sklearn(fitted, 6))
    found = answers(ready, Samples("x", 80, None, {"features": x}), 16)
    assert np.allclose(next(iter(found.values())), fitted.predict_proba(x), atol=1e-5)
    with pytest.raises(InputError, match="TreeEnsembleClassifier"):
        prepare(from_sklearn(RandomForestClassifier(3).fit(x, y), 6))


@torch_too
def test_what_an_exporter_refuses_is_one_clear_error():
    import torch

    class Odd(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(InputError, match="torch cannot export the model"):
        from_torch(Odd(), torch.ones(1, 2))
