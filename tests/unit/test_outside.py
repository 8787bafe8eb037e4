"""A bundle or model file is data: nothing in it is executed, unpickled, or makes an engine read another file."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import edge_runtime as edge
from edge_runtime.bundle import load_bundle, pack
from edge_runtime.errors import BundleError, EdgeError, EngineError
from edge_runtime.outside import refuse_outside
from edge_runtime.packing import pack_folder
from tests.conftest import IMAGE_TASK, LABELS, PREPROCESSING, ROOT, onnx_model, picture, small_device, tflite_model


def outside(tensor: onnx.TensorProto, location: str) -> onnx.TensorProto:
    """The tensor with its numbers said to be in the file `location`."""
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    return tensor


def weights(name: str = "w") -> onnx.TensorProto:
    return numpy_helper.from_array(np.zeros(3, np.float32), name)


def nodes(constant: onnx.TensorProto | None = None) -> list[onnx.NodeProto]:
    made = [helper.make_node("GlobalAveragePool", ["image"], ["p"]), helper.make_node("Flatten", ["p"], ["m"])]
    if constant is not None:
        made.append(helper.make_node("Constant", [], ["w"], value=constant))
    return [*made, helper.make_node("Add", ["m", "w"], ["means"])]


def model(made: list[onnx.NodeProto], tensors: list[onnx.TensorProto], **more: Any) -> onnx.ModelProto:
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 8, 8])
    means = helper.make_tensor_value_info("means", TensorProto.FLOAT, ["batch", 3])
    graph = helper.make_graph(made, "means", [image], [means], tensors, **more)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def within_a_branch(bad: onnx.TensorProto) -> onnx.ModelProto:
    inner = helper.make_graph(
        [helper.make_node("Identity", ["deep"], ["o"])],
        "inner",
        [],
        [helper.make_tensor_value_info("o", TensorProto.FLOAT, [3])],
        [bad],
    )
    condition = numpy_helper.from_array(np.array(True), "c")
    branch = helper.make_node("If", ["c"], ["w"], then_branch=inner, else_branch=inner)
    return model([*nodes()[:2], branch, nodes()[-1]], [condition])


def within_a_function(bad: onnx.TensorProto) -> onnx.ModelProto:
    body = [helper.make_node("Constant", [], ["o"], value=bad)]
    made = model([*nodes()[:2], helper.make_node("f", [], ["w"], domain="d"), nodes()[-1]], [])
    made.opset_import.append(helper.make_opsetid("d", 1))
    made.functions.append(helper.make_function("d", "f", [], ["o"], body, [helper.make_opsetid("", 17)]))
    return made


def within_sparse(bad: onnx.TensorProto) -> onnx.ModelProto:
    places = numpy_helper.from_array(np.arange(3), "i")
    return model(nodes(), [], sparse_initializer=[helper.make_sparse_tensor(bad, places, [3])])


def only_the_flag(bad: onnx.TensorProto) -> onnx.ModelProto:
    bad.ClearField("external_data")
    return model(nodes(), [bad])


def only_the_path(bad: onnx.TensorProto) -> onnx.ModelProto:
    bad.ClearField("data_location")
    return model(nodes(), [bad])


PLACES: dict[str, Callable[[onnx.TensorProto], onnx.ModelProto]] = {
    "an initializer": lambda bad: model(nodes(), [bad]),
    "a constant": lambda bad: model(nodes(bad), []),
    "a sparse one": within_sparse,
    "a branch": within_a_branch,
    "a function": within_a_function,
    "the flag alone": only_the_flag,
    "the path alone": only_the_path,
}


@pytest.mark.parametrize("location", ["w.bin", "../../etc/passwd", "/etc/passwd", "*/_ORT_MEM_ADDR_/*"])
@pytest.mark.parametrize("place", PLACES)
def test_an_onnx_file_that_names_another_one_is_refused(place: str, location: str):
    bad = outside(weights("deep" if place == "a branch" else "w"), location)
    content = PLACES[place](bad).SerializeToString()
    with pytest.raises(BundleError, match="found data outside of the model file .*, wanted all of it inside") as caught:
        refuse_outside(content, "onnx", "b: v")
    assert repr(location) in str(caught.value) or place == "the flag alone"


def test_the_same_ones_whole_pass():
    for made in (model(nodes(), [weights()]), model(nodes(weights()), []), within_a_branch(weights("deep"))):
        refuse_outside(made.SerializeToString(), "onnx", "b")
    refuse_outside(onnx_model(), "onnx", "b")
    refuse_outside(tflite_model(), "tflite", "b")
    refuse_outside(b"{}", "null", "b")


@pytest.mark.parametrize("tag", ["6a", "ea00", "ea80808010", "ea8080808001", "ea80808080808080808001"])
def test_a_tag_is_read_as_onnxruntime_reads_it(tag: str):
    """Field 13 of a tensor, external_data, however its number is written."""
    content = bytes.fromhex(f"{tag}00")
    for field in (b"\x2a", b"\x3a"):  # an initializer of the graph of a model
        content = field + bytes([len(content)]) + content
    assert refused(content, "onnx")


def test_what_was_shipped_passes():
    bundle = load_bundle("malaria")
    for one in bundle.variants:
        refuse_outside(bundle.read(one.file), one.format, "b")


def lite_with_external_buffers() -> bytes:
    import flatbuffers
    from ai_edge_litert import schema_py_generated as tfl

    made = tfl.ModelT.InitFromObj(tfl.Model.GetRootAs(tflite_model()))
    group = tfl.ExternalBufferGroupT()
    group.name = "/etc/passwd"
    made.externalBufferGroups = [group]
    builder = flatbuffers.Builder(1024)
    builder.Finish(made.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def test_a_tflite_file_with_external_buffers_is_refused():
    with pytest.raises(BundleError, match="by its external buffers"):
        refuse_outside(lite_with_external_buffers(), "tflite", "b")


@given(st.binary(max_size=200), st.sampled_from(["onnx", "tflite"]))
def test_noise_is_refused_or_passes_on(content: bytes, form: str):
    refused(content, form)


@given(st.integers(0, 10_000), st.integers(0, 255), st.sampled_from(["onnx", "tflite"]))
def test_damaged_models_are_refused_or_pass_on(place: int, byte: int, form: str):
    content = bytearray(model(nodes(), [weights()]).SerializeToString() if form == "onnx" else tflite_model())
    content[place % len(content)] = byte
    refused(bytes(content), form)
    refused(bytes(content[: place % len(content)]), form)


def refused(content: bytes, form: str) -> bool:
    try:
        refuse_outside(content, form, "b")
        return False
    except BundleError as error:
        return "b: " in error.message


@pytest.mark.parametrize(
    "content",
    [
        b"\x3b",  # a group, which protobuf skips and this walk does not follow
        b"\x3a\x05\x00",  # longer than what is there
        b"\x3a" + b"\xff" * 12,  # a length without an end
        b"\x02\x00",  # field number 0
        b"\x39\x00",  # eight bytes, cut off
        b"\xba\x80\x80\x80\x10\x00",  # a tag of 33 bits, of which protobuf keeps 32: field 7
        b"\xba\x80\x80\x80\x80\x01\x00",  # one of 36 bits
        b"\xba\x00\x00",  # a tag with a needless byte
        b"\x3a\x80\x00",  # and a length
        b"\x3a\x80\x80\x80\x80\x08",  # a length of 32 bits
    ],
)
def test_what_the_walk_cannot_follow_is_refused(content: bytes):
    with pytest.raises(BundleError, match="not the structure of an onnx file"):
        refuse_outside(content, "onnx", "b")


def test_a_model_of_nothing_but_fields_ends(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("edge_runtime.outside._MOST_FIELDS", 1000)
    with pytest.raises(BundleError, match="more than 1,000 fields"):
        refuse_outside(b"\x08\x00" * 2000, "onnx", "b")


# ---------------------------------------------------------------- through the doors


def bundled(content: bytes, out: Path, form: str = "onnx", batch: int | None = None) -> Path:
    """A bundle made by hand: `pack_folder` would refuse the model itself."""
    shape = [batch, 3, 8, 8] if form == "onnx" else [1, 8, 8, 3]
    tensors = {
        "inputs": [{"name": "image", "shape": shape, "dtype": "float32"}],
        "outputs": [{"name": "means", "shape": [batch, 3], "dtype": "float32"}],
    }
    variant = {"name": "v", "format": form, "file": f"m.{form}", "recipe": [], "metrics": {}, "costs": {}, **tensors}
    about = {"name": "b", "version": "1", "task": IMAGE_TASK, "labels": LABELS, "preprocessing": PREPROCESSING}
    return pack(about | {"variants": [variant]}, {f"m.{form}": content}, out).path


def test_in_a_session_the_engine_never_sees_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    red = picture(tmp_path / "a.png", (255, 0, 0))
    (tmp_path / "w.bin").write_bytes(np.array([0, 9, 0], np.float32).tobytes())  # it would say green
    path = bundled(PLACES["an initializer"](outside(weights(), "w.bin")).SerializeToString(), tmp_path / "b.edge")
    with pytest.raises(EdgeError, match="found data outside of the model file"):
        edge.open_session(path, small_device())
    whole = bundled(PLACES["an initializer"](weights()).SerializeToString(), tmp_path / "whole.edge")
    with edge.open_session(whole, small_device()) as session:
        assert session.predict(red).fields["labels"][0]["label"] == "red"


def test_it_is_not_packed_either(models: Path, tmp_path: Path):
    manifest = json.loads((models / "bundle.json").read_text())
    manifest["variants"] = manifest["variants"][:1]
    (tmp_path / "bundle.json").write_text(json.dumps(manifest))
    (tmp_path / "w.bin").write_bytes(bytes(12))
    bad = PLACES["an initializer"](outside(weights(), "w.bin"))
    (tmp_path / "fp32.onnx").write_bytes(bad.SerializeToString())
    with pytest.raises(BundleError, match="fp32.onnx: found data outside"):
        pack_folder(tmp_path, tmp_path / "out.edge")


def custom_onnx() -> bytes:
    made = model([helper.make_node("RunMe", ["image"], ["means"], domain="evil")], [])
    made.opset_import.append(helper.make_opsetid("evil", 1))
    return bytes(made.SerializeToString())


def custom_tflite() -> bytes:
    import flatbuffers
    from ai_edge_litert import schema_py_generated as tfl

    made = tfl.ModelT.InitFromObj(tfl.Model.GetRootAs(tflite_model()))
    for code in made.operatorCodes:
        code.builtinCode = tfl.BuiltinOperator.CUSTOM
        code.deprecatedBuiltinCode, code.customCode = tfl.BuiltinOperator.CUSTOM, "RunMe"
    for one in made.subgraphs[0].operators:
        one.builtinOptionsType, one.builtinOptions = tfl.BuiltinOptions.NONE, None
    builder = flatbuffers.Builder(1024)
    builder.Finish(made.Pack(builder), b"TFL3")
    return bytes(builder.Output())


@pytest.mark.parametrize("form", ["onnx", "tflite"])
def test_operators_that_are_not_the_engines_own_are_refused(form: str, tmp_path: Path):
    content = custom_onnx() if form == "onnx" else custom_tflite()
    path = bundled(content, tmp_path / "b.edge", form, None if form == "onnx" else 1)
    with pytest.raises(EngineError, match="RunMe"):
        edge.open_session(path, small_device())


@pytest.mark.parametrize("form", ["onnx", "tflite"])
def test_a_pickle_in_a_models_place_is_refused_and_not_opened(form: str, tmp_path: Path):
    trap = tmp_path / "trap"
    content = b"cos\nsystem\n(S'touch " + str(trap).encode() + b"'\ntR."
    path = bundled(content, tmp_path / "b.edge", form, None if form == "onnx" else 1)
    with pytest.raises(EdgeError):
        edge.open_session(path, small_device())
    assert not trap.exists()


# ---------------------------------------------------------------- the code itself


def calls(folder: str) -> Iterator[tuple[str, str, ast.Call]]:
    """(where, dotted name, call) of every call in the package."""
    for file in sorted((ROOT / folder).rglob("*.py")):
        for one in ast.walk(ast.parse(file.read_text())):
            if isinstance(one, ast.Call):
                yield f"{file.relative_to(ROOT)}:{one.lineno}", ast.unparse(one.func), one


FORBIDDEN = {
    *("eval", "exec", "compile", "os.system", "os.popen", "pickle.load", "pickle.loads", "marshal.loads"),
    *("joblib.load", "torch.load", "yaml.load", "shelve.open", "__import__"),
}


def test_nothing_in_the_package_executes_or_unpickles_what_it_reads():
    for where, name, call in calls("edge_runtime"):
        assert name not in FORBIDDEN, f"{where}: {name}"
        assert not name.endswith(("register_custom_ops_library", "load_delegate")), f"{where}: {name}"
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        assert given.get("shell", "False") == "False", f"{where}: {name} with a shell"
        if name in ("np.load", "numpy.load"):
            assert given.get("allow_pickle") == "False", f"{where}: np.load without allow_pickle=False"
        assert "experimental_delegates" not in given, f"{where}: a delegate is a library"
        assert "custom_op_registerers" not in given, f"{where}: a registerer is a library"


def test_no_module_imports_what_unpickles():
    for file in sorted((ROOT / "edge_runtime").rglob("*.py")):
        for one in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in one.names] if isinstance(one, ast.Import) else []
            names += [str(one.module)] if isinstance(one, ast.ImportFrom) else []
            bad = {"pickle", "marshal", "shelve", "dill", "joblib", "cloudpickle", "code"}.intersection(names)
            assert not bad, f"{file.name}: {bad}"
