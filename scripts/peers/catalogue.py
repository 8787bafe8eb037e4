"""What is measured: environments, peers, models. Data, and the one place to add a peer. Standard library alone.

Versions are pinned, so that a later run measures the same; raise them here. Packages come from wherever pip is told
to look. (PyPI's torch for Linux brings 4 GB of CUDA along; point PIP_EXTRA_INDEX_URL at PyTorch's own index of CPU
wheels to be spared that.)
"""

from __future__ import annotations

from dataclasses import dataclass, field

ROUNDS = 9
SEED = 5
WINDOW_S = 0.5  # of inferences in each process
TEST_IMAGES = 400
SIZES = {"malaria": 64, "mobilenet": 96}
OUTPUTS = {"malaria": 1, "mobilenet": 2}
ABOUT = {
    "malaria": "the shipped malaria network, 64 x 64 pixels",
    "mobilenet": "MobileNetV2 1.0, 96 x 96 pixels, trained by the script",
}
REFERENCE = "onnxruntime"  # its fp32 is what all others are compared with
# A row below either of these gives other answers than the float model: its speed is not compared.
SAME_DECISIONS, DIFFERENCE_SD = 0.97, 0.3


@dataclass(frozen=True)
class Environment:
    """`steps`: arguments of pip install, one call each; {root} is the checkout. `pythons`: versions, first is best."""

    steps: tuple[tuple[str, ...], ...]
    pythons: tuple[str, ...] = ()
    of_checkout: bool = False


ORT, LITERT = "onnxruntime==1.31.1", "ai-edge-litert==2.3.0"  # bare and under our layer, the same
ENVIRONMENTS = {
    "onnxruntime": Environment(((ORT,),)),
    "litert": Environment(((LITERT,),)),
    "tflite-runtime": Environment((("tflite-runtime==2.14.0", "numpy<2"),), ("3.11", "3.10", "3.9")),
    "ncnn": Environment((("ncnn==1.0.20261020", "numpy"),)),
    "mnn": Environment((("MNN==3.6.1", "numpy"),)),
    "openvino": Environment((("openvino==2026.4.1",),)),
    "executorch": Environment((("executorch-numpy-runtime==1.4.0",),), ("3.12", "3.13", "3.14")),
    "edge_runtime": Environment((("{root}", ORT),), of_checkout=True),
    "edge_runtime-litert": Environment((("{root}[litert]", ORT, LITERT),), of_checkout=True),
    # converters: nothing of these is measured
    "convert": Environment(
        (
            ("torch==2.13.0", "onnx==1.23.2", "onnxscript", "onnxruntime==1.31.1", "sympy", "pillow"),
            ("executorch==1.5.1",),
            ("litert-torch==0.10.0",),
            ("--no-deps", "pnnx==20261020"),
        )
    ),
    "convert-openvino": Environment((("openvino==2026.4.1", "nncf==3.4.0"),)),
}


@dataclass(frozen=True)
class Peer:
    """`files`: by precision, the file names in a model's folder; the first is loaded, all are counted.

    `version_of`: the distributions whose versions are recorded. `bare`: the peer that our own layer is around.
    """

    name: str
    environment: str
    adapter: str
    version_of: tuple[str, ...]
    files: dict[str, tuple[str, ...]]
    not_measured: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    bare: str | None = None


def _single(ending: str) -> dict[str, tuple[str, ...]]:
    return {precision: (f"{precision}.{ending}",) for precision in ("fp32", "int8")}


PEERS = (
    Peer("onnxruntime", "onnxruntime", "onnxruntime", ("onnxruntime",), _single("onnx")),
    Peer("ai-edge-litert", "litert", "litert", ("ai-edge-litert",), _single("tflite")),
    Peer("tflite-runtime", "tflite-runtime", "tflite_runtime", ("tflite-runtime",), _single("tflite")),
    Peer(
        "ncnn", "ncnn", "ncnn", ("ncnn",), {"fp32": ("fp32.ncnn.param", "fp32.ncnn.bin")},
        not_measured={"int8": "the wheel has no int8 tool"},
    ),
    Peer("MNN", "mnn", "mnn", ("MNN",), _single("mnn"), notes={"int8": "weights only; the tool for activations fails"}),
    Peer(
        "OpenVINO", "openvino", "openvino", ("openvino",),
        {precision: (f"{precision}.xml", f"{precision}.bin") for precision in ("fp32", "int8")},
    ),
    Peer(
        "ExecuTorch", "executorch", "executorch", ("executorch-numpy-runtime",), _single("pte"),
        notes=dict.fromkeys(("fp32", "int8"), "starts threads of its own, with no switch in this package"),
    ),
    Peer(
        "edge_runtime, onnxruntime", "edge_runtime", "edge", ("edge-runtime", "onnxruntime"), _single("onnx"),
        bare="onnxruntime",
    ),
    Peer(
        "edge_runtime, litert", "edge_runtime-litert", "edge", ("edge-runtime", "ai-edge-litert"), _single("tflite"),
        bare="ai-edge-litert",
    ),
    Peer(
        "edge_runtime guarded, onnxruntime", "edge_runtime", "edge_guarded", ("edge-runtime", "onnxruntime"),
        _single("onnx"), bare="onnxruntime",
    ),
    Peer(
        "edge_runtime guarded, litert", "edge_runtime-litert", "edge_guarded", ("edge-runtime", "ai-edge-litert"),
        _single("tflite"), bare="ai-edge-litert",
    ),
)  # fmt: skip


@dataclass(frozen=True)
class Conversion:
    """One call of `script` in `environment`: writes `outputs` of the work folder from `inputs`."""

    script: str
    words: tuple[str, ...]
    environment: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def title(self) -> str:
        return " ".join(self.words)


def _pictures(part: str) -> tuple[str, ...]:
    return tuple(f"images/{model}-{part}.u8" for model in SIZES)


def conversions(models: tuple[str, ...]) -> list[Conversion]:
    """In the order in which one needs the other."""
    found = [Conversion("train.py", ("images",), "convert", (), (*_pictures("test"), *_pictures("calibration")))]
    for model in models:
        folder = f"models/{model}"
        calibration = f"images/{model}-calibration.u8"

        def convert(
            target: str, precision: str, environment: str, sources: tuple[str, ...], outputs: tuple[str, ...],
            model: str = model, folder: str = folder, calibration: str = calibration,
        ) -> None:  # fmt: skip
            inputs = tuple(f"{folder}/{one}" for one in sources) + ((calibration,) if precision == "int8" else ())
            files = tuple(f"{folder}/{one}" for one in outputs)
            found.append(Conversion("convert.py", (target, model, precision), environment, inputs, files))

        if model == "malaria":
            files = tuple(file for ending in ("onnx", "tflite") for one in _single(ending).values() for file in one)
            convert("shipped", "all", "convert", (), files)
            weights = "fp32.onnx"
        else:
            found.append(Conversion("train.py", ("train",), "convert", (), (f"{folder}/trained.pt",)))
            weights = "trained.pt"
            convert("onnx", "fp32", "convert", (weights,), ("fp32.onnx",))
            convert("onnx", "int8", "convert", ("fp32.onnx",), ("int8.onnx",))
            convert("tflite", "fp32", "convert", (weights,), ("fp32.tflite",))
            convert("tflite", "int8", "convert", ("fp32.tflite",), ("int8.tflite",))
        convert("ncnn", "fp32", "convert", ("fp32.onnx",), ("fp32.ncnn.param", "fp32.ncnn.bin"))
        for precision in ("fp32", "int8"):
            convert("mnn", precision, "mnn", ("fp32.onnx",), (f"{precision}.mnn",))
            pair = (f"{precision}.xml", f"{precision}.bin")
            convert("openvino", precision, "convert-openvino", ("fp32.onnx",), pair)
            convert("pte", precision, "convert", (weights,), (f"{precision}.pte",))
    return found
