"""What pip installs: the wheel's contents and size, and the dependencies that each platform gets."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import zipfile
from email.parser import Parser
from types import ModuleType

import pytest
from packaging.requirements import Requirement

from tests.conftest import ROOT


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    out = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(out),
        str(ROOT),
    ]
    subprocess.run(command, check=True)
    (path,) = out.glob("*.whl")
    return zipfile.ZipFile(path)


def installed(wheel: zipfile.ZipFile, machine: str, python: str = "3.11") -> dict[str, Requirement]:
    """What is required without an extra on such a machine."""
    (name,) = (one for one in wheel.namelist() if one.endswith("/METADATA"))
    lines = Parser().parsestr(wheel.read(name).decode()).get_all("Requires-Dist") or []
    about = {"platform_machine": machine, "sys_platform": "linux", "extra": "", "python_version": python}
    found = [one for one in map(Requirement, lines) if one.marker is None or one.marker.evaluate(about)]
    return {one.name: one for one in found}


def test_profiles_and_the_bundle_are_in_the_wheel_and_it_is_small(wheel: zipfile.ZipFile):
    names = wheel.namelist()
    profiles = [one for one in names if one.startswith("edge_runtime/device_profiles/") and one.endswith(".toml")]
    assert len(profiles) >= 16
    assert "edge_runtime/models/malaria.edge" in names
    assert not [one for one in names if one.startswith(("tests", "scripts", "models"))]
    sizes = {one.filename: one.compress_size for one in wheel.infolist() if not one.filename.endswith(".edge")}
    compressor = sum(
        size for name, size in sizes.items() if "/compress/" in name or name.endswith("compress_options.py")
    )
    learning = sum(size for name, size in sizes.items() if "/compress/learn/" in name)
    # a device loads none of the compressor; it is in the same package so that both sides are of one version
    assert sum(sizes.values()) - compressor <= 400 * 1024
    assert compressor - learning <= 250 * 1024
    assert learning <= 90 * 1024


@pytest.mark.parametrize("machine", ["x86_64", "aarch64", "arm64", "AMD64"])
def test_64_bit_machines_get_onnxruntime(wheel: zipfile.ZipFile, machine: str):
    assert set(installed(wheel, machine)) == {"numpy", "psutil", "pillow", "onnxruntime"}


@pytest.mark.parametrize("machine", ["armv7l", "armv6l", "armv8l"])
def test_32_bit_arm_gets_tflite_runtime_and_the_numpy_that_it_needs(wheel: zipfile.ZipFile, machine: str):
    found = installed(wheel, machine)
    assert set(found) == {"numpy", "psutil", "pillow", "tflite-runtime"}
    assert not found["numpy"].specifier.contains("2.0")


def test_a_32_bit_python_on_a_64_bit_kernel_is_told_by_its_pointers():
    """There platform_machine says aarch64: the build itself must not ask it."""
    found = {one.name: one for one in map(Requirement, hook().dependencies(4))}
    assert set(found) == {"numpy", "psutil", "pillow", "tflite-runtime"}
    assert all(one.marker is None for one in found.values())


def hook() -> ModuleType:
    spec = importlib.util.spec_from_file_location("dependencies", ROOT / "scripts" / "dependencies.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
