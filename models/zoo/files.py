"""Where data is found, and what a training run leaves: files that nobody ever sees half written."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Arrays = Mapping[str, npt.NDArray[Any]]

REPOSITORY = Path(__file__).resolve().parents[2]


def data_folder(name: str) -> Path:
    """The folder of the data set `name`; SystemExit says where it was looked for."""
    root = Path(os.environ.get("EDGE_RUNTIME_DATA") or REPOSITORY.parent / "shared" / "data")
    if not (root / name / "manifest.csv").is_file():
        raise SystemExit(f"{root / name}: found no data there; set EDGE_RUNTIME_DATA to the folder that holds {name}")
    return root / name


def write_bytes(path: Path, content: bytes) -> None:
    """Under another name first, then renamed: a reader finds the old file, the new one or none."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_bytes(content)
    draft.replace(path)


def write_arrays(path: Path, arrays: Arrays) -> None:
    """An uncompressed .npz, renamed into place when it is whole."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.getpid()}.npz")
    np.savez(draft, **arrays)
    draft.replace(path)


def write_items(out: Path, name: str, train: Arrays, val: Arrays, test: Arrays) -> None:
    """OUT/NAME-{calibration,unlabelled,val,test}.npz, one array an input and `labels`, first axis items.

    Calibration and unlabelled items are spread evenly over training's: data lies in the order of its classes.
    """
    count = len(train["labels"])
    for part, wanted in (("calibration", 256), ("unlabelled", 2000)):
        places = np.linspace(0, count - 1, min(wanted, count)).round().astype(np.intp)
        write_arrays(out / f"{name}-{part}.npz", {key: array[places] for key, array in train.items()})
    write_arrays(out / f"{name}-val.npz", val)
    write_arrays(out / f"{name}-test.npz", test)


def write_model(
    out: Path, name: str, content: bytes, parameters: int, settings: Mapping[str, Any], seconds: float
) -> dict[str, Any]:
    """OUT/NAME.onnx, and the facts about it that metrics.json holds."""
    write_bytes(out / f"{name}.onnx", content)
    return {
        "parameters": parameters,
        "file_bytes": len(content),
        "file_sha256": hashlib.sha256(content).hexdigest(),
        "settings": dict(settings),
        "train_seconds": round(seconds),
    }
