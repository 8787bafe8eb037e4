"""Device profiles: the shipped ones are sound, bad ones are refused by file and field, this machine is probed."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_runtime import profile as profiles
from edge_runtime.errors import ProfileError
from edge_runtime.profile import ENGINES_OF_ARCH, Cores, DeviceProfile, list_profiles, load_profile, probe_device

FOLDER = Path(__file__).parents[2] / "device_profiles"
GOOD = (FOLDER / "raspberry-pi-zero-2w.toml").read_text(encoding="utf-8")
GIB = 2**30


# ------------------------------------------------------------------------------------------------------------ shipped


def test_shipped_profiles_are_sound() -> None:
    shipped = list_profiles()
    assert len(shipped) >= 16
    assert [p.name for p in shipped] == sorted(file.stem for file in FOLDER.glob("*.toml"))
    for p in shipped:
        assert load_profile(p.name) == p
        assert hash(p) is not None
        assert p.budget.ram_bytes <= p.ram_bytes / 2, p.name
        assert p.engines == ENGINES_OF_ARCH[p.arch], p.name
        assert p.sources["budget"].sure == "derived"
        assert "rule" in p.sources["budget"].where
        assert not any("devices.md" in source.where for source in p.sources.values())  # public places only


ARCHETYPES: dict[str, Callable[[DeviceProfile], bool]] = {
    "A7, 32-bit, 1 GB": lambda p: p.cores[0].part == "cortex-a7" and p.arch == "armv7l" and p.ram_bytes == GIB,
    "A53, 32-bit userland, to 1.5 GB": lambda p: _is(p, "cortex-a53", "armv7l") and p.ram_bytes <= 1.5 * GIB,
    "A53, 64-bit, 2 GB": lambda p: _is(p, "cortex-a53", "aarch64") and p.ram_bytes == 2 * GIB,
    "A55 with dotprod": lambda p: p.cores[0].part == "cortex-a55" and "dotprod" in p.features,
    "Zero 2 W": lambda p: p.name == "raspberry-pi-zero-2w" and p.ram_bytes == GIB / 2,
    "3B+": lambda p: p.name == "raspberry-pi-3b-plus" and p.arch == "aarch64",
    "3B+, 32-bit": lambda p: p.name == "raspberry-pi-3b-plus-32bit" and p.arch == "armv7l",
    "Pi 4": lambda p: _is(p, "cortex-a72", "aarch64"),
    "Pi 5": lambda p: _is(p, "cortex-a76", "aarch64") and p.power_meter == "pmic",
}


def _is(p: DeviceProfile, part: str, arch: str) -> bool:
    return p.cores[0].part == part and p.arch == arch


@pytest.mark.parametrize("archetype", ARCHETYPES)
def test_archetypes_are_covered(archetype: str) -> None:
    assert any(ARCHETYPES[archetype](p) for p in list_profiles())


def test_a_shipped_profile_is_called_as_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "other.toml").write_text(GOOD)
    monkeypatch.setattr(profiles, "_shipped_files", lambda: [tmp_path / "other.toml"])
    with pytest.raises(ProfileError, match=r"other\.toml: name: found 'raspberry-pi-zero-2w', wanted 'other'"):
        list_profiles()


def test_a_wheels_profiles_come_before_a_checkouts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profiles, "__file__", str(tmp_path / "edge_runtime" / "profile.py"))
    with pytest.raises(ProfileError, match="the shipped device profiles are missing"):
        list_profiles()
    (tmp_path / "device_profiles").mkdir()
    (tmp_path / "device_profiles" / "raspberry-pi-zero-2w.toml").write_text(GOOD)
    assert len(list_profiles()) == 1
    (tmp_path / "edge_runtime" / "device_profiles").mkdir(parents=True)
    assert list_profiles() == []


# ---------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize("name", ["raspberry-pi-zero", "Raspberry-Pi-Zero-2W"])
def test_an_unknown_name_lists_the_closest(name: str) -> None:
    with pytest.raises(ProfileError, match="raspberry-pi-zero-2w") as caught:
        load_profile(name)
    assert caught.value.hint == "edge-runtime devices"


@pytest.mark.parametrize("name", ["", "xyzzy", "a\0b", "nowhere/x", "../x.toml", "a\0b.toml", "9" * 300 + ".toml"])
def test_a_name_of_nothing(name: str) -> None:
    with pytest.raises(ProfileError):
        load_profile(name)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('ram = "512MB"', 'ram = "512"', "ram: found '512', wanted a number with one of the units"),
        ('ram = "512MB"', "ram = 512", "ram: found 512, wanted a number with its unit"),
        ('ram = "512MB"', 'ram = "0B"', "ram: found '0B', wanted more than nothing"),
        ('ram = "512MB"', 'ram = "' + "9" * 400 + 'GB"', "ram: found '999.*wanted a number with its unit"),
        ('ram = "512MB"', "", "ram: found nothing"),
        ('ram = "512MB"', 'ramm = "512MB"', "unknown field 'ramm', wanted only name, .*ram"),
        ('storage = "256MiB"', 'storage = "64GB"', r"budget\.storage: found '64GB', wanted no more than .* 29\.8 GiB"),
        ('ram = "192MiB"', 'ram = "513MB"', r"budget\.ram: found '513MB', wanted no more than .* 488 MiB"),
        ('ram = "192MiB"', 'ram = "1ms"', r"budget\.ram: found '1ms'"),
        ("[budget]", '[budget]\nspeed = "1ms"', r"unknown field 'budget\.speed'"),
        ("[budget]", '[budget]\nlatency = "12mJ"', r"budget\.latency: found '12mJ'.* 250ms"),
        ('kind = "board"', 'kind = "toaster"', "kind: found 'toaster', wanted one of board, tablet"),
        ('kind = "board"', "kind = ['board']", r"kind: found \['board'\], wanted a text"),
        ('"Raspberry Pi Zero 2 W"', r'"\u001b[2J"', "title: found .*without control characters"),
        ('name = "raspberry', 'name = "Raspberry', "name: found 'Raspberry-pi-zero-2w', wanted small letters"),
        ('"raspberry-pi-zero-2w"', '"this-device"', "name: found 'this-device'"),
        ("year = 2021", "year = true", "year: found True, wanted a whole number"),
        ("year = 2021", "year = 2021.0", "year: found 2021.0, wanted a whole number"),
        ("year = 2021\n", "", r"sources\.year: found a source for a fact that the file does not state"),
        ('arch = "aarch64"', 'arch = "armv7l"', "engines: found .*wanted only litert: nothing else has a wheel"),
        ('arch = "aarch64"', 'arch = "arm64"', "arch: found 'arm64', wanted one of aarch64"),
        ('"onnxruntime", "litert"', '"tensorrt"', r"engines: found \['tensorrt'\], wanted a list of some of onnx"),
        ('"onnxruntime", "litert"', "", r"engines: found \[\]"),
        ('"onnxruntime", "litert"', '"litert", "litert"', "engines: found .* names each only once"),
        ('["onnxruntime", "litert"]', "[[1]]", r"engines: found \[\[1\]\]"),
        ('"asimd"', '"dotproduct"', r"features: found \['dotproduct'\]"),
        ("threads = 4", "threads = 5", "threads: found 5, wanted no more than the 4 cores"),
        ("count = 4", "count = 0", r"cores\[0\]\.count: found 0"),
        ("count = 4, ", "", r"cores\[0\]\.count: found nothing"),
        ("cores = [{", "cores = [7, {", r"cores\[0\]: found 7, wanted a table"),
        ("threads = 4", "threads = 4\nbattery_mah = 5000", "battery_mah: found a fact without a source"),
        ('soc = { sure = "read"', 'soc = { sure = "sure"', r"sources\.soc\.sure: found 'sure', wanted one of"),
        ('soc = { sure = "read"', 'soc = { sur = "read"', r"unknown field 'sources\.soc\.sur'"),
        ("[sources]", '[sources]\ngpu = { sure = "read", from = "x" }', r"sources\.gpu: found a source"),
        ("[budget]", "[budget", "not TOML"),
        ("year = 2021", "year = " + "9" * 4_080, "wanted a whole number"),
        ("year = 2021", "year = 0x" + "f" * 4_080, "year: found an endless number"),
        ("year = 2021", "year = " + "[" * 4_000, "not TOML"),
        ("year = 2021", "#" + "x" * 4_096, "found more than 4 KiB in line 4"),
        ("year = 2021", "year = 2021\nyear = 2021", "not TOML"),
        ("year = 2021", "\n" * 65_536, "found a file of more than 64 KiB"),
    ],
)
def test_a_bad_profile_names_file_and_field(tmp_path: Path, old: str, new: str, message: str) -> None:
    good = GOOD.replace('ram = "512MiB"', 'ram = "512MB"')
    assert old in good
    path = tmp_path / "bad.toml"
    path.write_text(good.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ProfileError, match=message) as caught:
        load_profile(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value).replace(str(path), "")) < 500


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "name: found nothing"), (b"\xff\xfe", "byte 0 that is not UTF-8"), (b"\0" * 70_000, "64 KiB")],
)
def test_a_file_that_is_no_profile(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.toml").write_bytes(content)
    with pytest.raises(ProfileError, match=re.escape(str(tmp_path)) + ".*" + message):
        load_profile(str(tmp_path / "x.toml"))


@pytest.mark.parametrize(
    "text", ["a." * 32_000 + "a = 1", "a." * 2_000 + "a = 1", "a = " + "{a = " * 12_000, "a = [" + "1," * 32_000 + "]"]
)
def test_hostile_toml_is_refused_soon(tmp_path: Path, text: str) -> None:
    (tmp_path / "x.toml").write_text(text)
    started = time.perf_counter()
    with pytest.raises(ProfileError):
        load_profile(tmp_path / "x.toml")
    assert time.perf_counter() - started < 10


def test_a_folder_and_a_missing_file(tmp_path: Path) -> None:
    for path, found in ((tmp_path, "a folder"), (tmp_path / "x.toml", "nothing")):
        with pytest.raises(ProfileError, match=f"found {found}, wanted a device profile"):
            load_profile(path)


# -------------------------------------------------------------------------------------------------------- this-device

PI = "processor\t: {n}\nBogoMIPS\t: 38.40\nFeatures\t: fp asimd evtstrm crc32 cpuid\nCPU implementer\t: 0x41\n"
PI += "CPU architecture: 8\nCPU variant\t: 0x0\nCPU part\t: 0xd03\nCPU revision\t: 4\n\n"
ZERO_2W = {
    "proc/cpuinfo": "".join(PI.format(n=n) for n in range(4)) + "Revision\t: 902120\nModel\t: Raspberry Pi Zero 2 W\n",
    "proc/meminfo": "MemTotal:         436000 kB\nMemFree:          100000 kB\nMemAvailable:     300000 kB\n",
    "proc/device-tree/model": "Raspberry Pi Zero 2 W Rev 1.0\0",
    "proc/device-tree/compatible": "raspberrypi,model-zero-2-w\0brcm,bcm2837\0",
} | {f"sys/devices/system/cpu/cpu{n}/cpufreq/cpuinfo_max_freq": "1000000\n" for n in range(4)}
OLD_TABLET = {  # kernel 3.4: one part for all cores, no MemAvailable, no device tree
    "proc/cpuinfo": "Processor\t: ARMv7 Processor rev 3 (v7l)\nprocessor\t: 0\n\nprocessor\t: 1\n\nFeatures\t: half"
    " neon vfpv4\nCPU implementer\t: 0x41\nCPU part\t: 0xc07\n\nHardware\t: Qualcomm MSM8226\n",
    "proc/meminfo": "MemTotal: 900000 kB\nMemFree: 50000 kB\nCached: 200000 kB\n",
    "sys/class/power_supply/battery/type": "Battery\n",
    "sys/class/power_supply/battery/charge_full": "3900000\n",
}
BIG_LITTLE = {
    "proc/cpuinfo": "".join(
        f"processor\t: {n}\nFeatures\t: asimd asimddp asimdhp atomics\nCPU implementer\t: 0x41\nCPU part\t: {part}\n\n"
        for n, part in enumerate(["0xd05"] * 4 + ["0xd0b"] * 2)
    ),
    "proc/meminfo": ZERO_2W["proc/meminfo"],
} | {f"sys/devices/system/cpu/cpu{n}/cpufreq/cpuinfo_max_freq": f"{1800 + 200 * (n > 3)}000" for n in range(6)}
X86 = {
    "proc/cpuinfo": "".join(
        f"processor\t: {n}\nvendor_id\t: GenuineIntel\nmodel name\t: Intel(R) N100\ncpu MHz\t\t: {mhz}\n"
        "flags\t\t: fpu sse4_2 avx avx2 fma avx_vnni\n\n"
        for n, mhz in enumerate(("800.000", "3400.123"))
    ),
    "proc/meminfo": "MemTotal: 16000000 kB\nMemAvailable: 8000000 kB\n",
}


def _machine(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def test_a_pi_zero_is_probed(tmp_path: Path) -> None:
    p = probe_device(_machine(tmp_path, ZERO_2W), pointer_bytes=8)
    assert (p.name, p.title, p.kind, p.arch) == ("this-device", "Raspberry Pi Zero 2 W Rev 1.0", "board", "aarch64")
    assert (p.soc, p.cores, p.features) == ("bcm2837", (Cores("cortex-a53", 4, 1000),), ("asimd",))
    assert (p.ram_bytes, p.budget.ram_bytes) == (436_000 * 1024, 150_000 * 1024)
    assert p.storage_bytes > p.budget.storage_bytes >= 0
    assert p.engines == ("onnxruntime", "litert")
    assert p.power_meter == "none"
    assert set(p.sources) == set(load_profile("raspberry-pi-zero-2w").sources) - {"year"}


def test_a_32_bit_userland_on_a_64_bit_kernel_is_armv7l(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    p = probe_device(_machine(tmp_path, ZERO_2W), pointer_bytes=4)
    assert (p.arch, p.engines, p.features) == ("armv7l", ("litert",), ("neon",))


def test_an_old_tablet_is_probed(tmp_path: Path) -> None:
    p = probe_device(_machine(tmp_path, OLD_TABLET), pointer_bytes=4)
    assert (p.arch, p.soc, p.cores) == ("armv7l", "Qualcomm MSM8226", (Cores("cortex-a7", 2, 0),))
    assert (p.power_meter, p.battery_mah, p.budget.ram_bytes) == ("battery", 3900, 75_000 * 1024)
    assert p.sources["battery_mah"].sure == "derived"


def test_only_big_cores_get_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(6)), raising=False)
    p = probe_device(_machine(tmp_path, BIG_LITTLE), pointer_bytes=8)
    assert p.cores == (Cores("cortex-a76", 2, 2000), Cores("cortex-a55", 4, 1800))
    assert p.threads == 2
    assert p.features == ("asimd", "atomics", "dotprod", "fp16")


def test_a_computer_is_probed(tmp_path: Path) -> None:
    p = probe_device(_machine(tmp_path, X86), pointer_bytes=8)
    assert (p.arch, p.soc, p.kind) == ("x86_64", "Intel(R) N100", "computer")
    assert p.cores == (Cores("Intel(R) N100", 2, 3400),)
    assert "avx_vnni" in p.features
    assert p.budget.ram_bytes == GIB  # half of what is free would be more


V1 = {"proc/self/cgroup": "3:cpu:/\n2:memory:/a/b\n0::/\n"}
V1 |= {f"sys/fs/cgroup/memory/{name}": text for name, text in (
    ("memory.limit_in_bytes", "9223372036854771712"), ("a/memory.limit_in_bytes", str(256 * 2**20)),
    ("a/memory.usage_in_bytes", str(96 * 2**20)), ("a/memory.stat", f"cache 1\ntotal_inactive_file {32 * 2**20}\n"),
)}  # fmt: skip
V2 = {"proc/self/cgroup": "0::/not/seen/in/here\n", "sys/fs/cgroup/memory.max": str(256 * 2**20)}
V2 |= {"sys/fs/cgroup/memory.current": str(96 * 2**20), "sys/fs/cgroup/memory.stat": f"inactive_file {32 * 2**20}\n"}


@pytest.mark.parametrize("group", [V1, V2], ids=["v1", "v2"])
def test_a_cgroup_limit_bounds_the_ram(tmp_path: Path, group: dict[str, str]) -> None:
    p = probe_device(_machine(tmp_path, X86 | group), pointer_bytes=8)
    assert (p.ram_bytes, p.budget.ram_bytes) == (256 * 2**20, (256 - 96 + 32) // 2 * 2**20)


def test_no_limit_and_nothing_to_read(tmp_path: Path) -> None:
    free = {"proc/self/cgroup": "0::/\nnonsense\n", "sys/fs/cgroup/memory.max": "max\n"}
    assert probe_device(_machine(tmp_path / "a", X86 | free), pointer_bytes=8).ram_bytes == 16_000_000 * 1024
    pytest.importorskip("psutil")  # as on macOS and Windows
    assert probe_device(tmp_path / "empty").budget.ram_bytes > 0


def test_the_machine_that_runs_this() -> None:
    p = load_profile("this-device")
    assert p.ram_bytes > 0
    assert p.threads >= 1
    assert p.budget.ram_bytes <= p.ram_bytes
