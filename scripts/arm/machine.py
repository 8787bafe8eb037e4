"""The emulated ARM machine: where its parts lie, which cores it can be, and how a command is run in it.

A machine is QEMU's `virt` board with a named core, Debian's kernel, a read-only system disk (one for a 64-bit and one
for a 32-bit userland) and a data disk that is made for each run. The data disk carries the checkout's edge_runtime, so
a change of code needs no new system disk:

    /edge       edge_runtime, device_profiles and the malaria bundle, on PYTHONPATH
    /data       the folder that was given; what the command writes to /data/out is handed back
    /disk       the whole data disk: `command` (a shell script), `exit` (its exit code, when it ended)

There is no network in it. Its wall time says nothing about any ARM device: QEMU emulates floats in software and neither
caches nor pipelines at all. With `icount` its clock counts instructions, one a nanosecond, and those repeat.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[2]
FOLDER = Path(os.environ.get("EDGE_RUNTIME_ARM") or ROOT / "build" / "arm")
TIMEOUT_EXIT = 124  # as coreutils' timeout
SPARE_BYTES = 512 << 20  # free on the data disk; it is a sparse file, so nothing is taken before it is written
_COMMON = "fp asimd evtstrm aes pmull sha1 sha2 crc32"


@dataclass(frozen=True)
class Core:
    """A core that QEMU can be: its part number and the feature words of a 64-bit Linux on it."""

    part: str
    features: str
    known_from: str


# Named ones only. QEMU's default for a single program, `max`, has SME, whose emulation in QEMU 7.2 gives wrong numbers
# in XNNPACK's 8-bit kernels.
CORES = {
    "cortex-a53": Core("0xd03", f"{_COMMON} cpuid", "Raspberry Pi 3 and Zero 2"),
    "cortex-a72": Core("0xd08", f"{_COMMON} cpuid", "Raspberry Pi 4"),
    "cortex-a76": Core(
        "0xd0b",
        f"{_COMMON} atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp",
        "Raspberry Pi 5, with the 8-bit dot product",
    ),
}


class Failure(Exception):
    """What was found and what was wanted; `hint` is the next command."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(f"{message}\n  try: {hint}" if hint else message)


@contextlib.contextmanager
def failures_are_told() -> Iterator[None]:
    """Ends the program with exit code 1 and the words of a Failure."""
    try:
        yield
    except Failure as failure:
        print(failure, file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def say(*words: object) -> None:
    print(*words, file=sys.stderr, flush=True)


def need(path: Path, parts: str) -> Path:
    """`path`, or a Failure that names the parts of setup that make it."""
    if not path.exists():
        at = "" if path.parent == ROOT / "build" / "arm" else f" --dir {shlex.quote(str(path.parent))}"
        raise Failure(f"{path}: not there; the emulated machine is not set up", f"scripts/arm/setup{at} {parts}")
    return path


def in_environment() -> None:
    """Go on in the checkout's development environment, which is made where it is not there."""
    if not all(importlib.util.find_spec(name) for name in ("onnx", "ai_edge_litert", "edge_runtime")):
        if os.environ.get("EDGE_RUNTIME_IN_VENV"):
            raise Failure(f"{sys.prefix}: found no onnx or ai_edge_litert in it", "rm -rf .venv; scripts/check")
        script = '. "$(dirname "$0")/env.sh"; prepare .venv "[dev,litert]"; exec "$VENV/bin/python" "$@"'
        os.environ["EDGE_RUNTIME_IN_VENV"] = "1"
        os.execv("/bin/sh", ["sh", "-c", script, str(ROOT / "scripts" / "env.sh"), *sys.argv])


def copy_package(target: Path) -> None:
    """What runs on a device: the package, the profiles and the bundle, as they are in this checkout."""
    passed_over = shutil.ignore_patterns("__pycache__", "compress")
    shutil.copytree(ROOT / "edge_runtime", target / "edge_runtime", ignore=passed_over)
    shutil.copytree(ROOT / "device_profiles", target / "device_profiles")
    (target / "models" / "malaria").mkdir(parents=True)
    shutil.copy(ROOT / "models" / "malaria" / "malaria.edge", target / "models" / "malaria")
    compile_python(target)


def compile_python(folder: Path) -> None:
    """Byte code beside the sources, where this Python writes the guest's kind (3.11): compiling is slow in there."""
    if sys.version_info[:2] == (3, 11):
        command = [
            sys.executable,
            "-m",
            "compileall",
            "-q",
            "-j2",
            "--invalidation-mode",
            "unchecked-hash",
            str(folder),
        ]
        subprocess.run(command, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@dataclass(frozen=True)
class Machine:
    """`memory_mib`: of RAM. `icount`: the clock counts instructions (one core only). `arm32`: the 32-bit userland."""

    cpu: str = "cortex-a53"
    memory_mib: int = 512
    cores: int = 1
    icount: bool = False
    arm32: bool = False
    folder: Path = FOLDER

    def check(self) -> None:
        """Raises Failure where it cannot be, or its parts are not there."""
        if self.cpu not in CORES:
            raise Failure(f"--cpu: found {self.cpu!r}, wanted one of {', '.join(CORES)}")
        if self.icount and self.cores != 1:
            raise Failure(f"--icount: found {self.cores} cores, wanted 1: instructions are counted on one core only")
        need(self.folder / "boot", "vm")
        need(self.folder / "initrd.gz", "vm")
        need(self.system, "armhf vm" if self.arm32 else "arm64 vm")
        if not shutil.which("qemu-system-aarch64"):
            raise Failure("found no qemu-system-aarch64", "scripts/arm/setup vm")

    @property
    def system(self) -> Path:
        return self.folder / ("armhf.img" if self.arm32 else "arm64.img")

    def environment(self) -> dict[str, str]:
        """Of the command. Byte code is not written: the disk is thrown away."""
        plain = {"PATH": "/usr/bin:/bin", "HOME": "/disk/home", "LANG": "C.UTF-8", "PYTHONPATH": "/edge:/site"}
        plain |= {"PYTHONDONTWRITEBYTECODE": "1"}
        return plain | ({"PYTHONHASHSEED": "0"} if self.icount else {})

    def command_line(self, disk: Path) -> list[str]:
        """QEMU's. `norandmaps` and the fixed clock take chance out of a count of instructions."""
        words = "console=ttyAMA0 quiet panic=-1" + (" norandmaps" if self.icount else "")
        line = ["qemu-system-aarch64", "-M", "virt", "-cpu", self.cpu, "-smp", str(self.cores)]
        line += ["-m", str(self.memory_mib), "-display", "none", "-monitor", "none", "-no-reboot", "-nic", "none"]
        line += [
            "-kernel",
            str(self.folder / "boot" / "kernel"),
            "-initrd",
            str(self.folder / "initrd.gz"),
            "-append",
            words,
        ]
        line += ["-serial", f"file:{disk.with_name('console')}"]
        line += ["-device", "virtio-serial-device"]
        for number, name in enumerate(("stdout", "stderr"), 1):
            # Not QEMU's own `stdio`: when its stdin ends it hangs up, and the guest waits for ever.
            line += ["-chardev", f"file,id={name},path=/proc/self/fd/{number},append=on"]
            line += ["-device", f"virtserialport,chardev={name},name={name}"]
        for name, path, rest in (("system", self.system, ",readonly=on"), ("data", disk, "")):
            line += ["-drive", f"file={_escaped(path)},format=raw,if=none,id={name}{rest}"]
            line += ["-device", f"virtio-blk-device,drive={name}"]
        if self.icount:
            # sleep=on: while the guest waits for its disk, time passes as here. With sleep=off it jumps to the next
            # timer at once, and whatever waits with a limit (for a child that is being read from the disk) gives up.
            line += ["-icount", "shift=0,sleep=on", "-rtc", "base=2026-01-01,clock=vm"]
        return line


def _escaped(path: Path) -> str:
    return str(path).replace(",", ",,")  # QEMU's own way


@dataclass(frozen=True)
class Done:
    """`exit_code` of the command (128 + n where signal n ended it); seconds of wall time on this computer."""

    exit_code: int
    stdout: bytes
    stderr: bytes
    seconds: float


@dataclass
class _Pump:
    """Reads a stream to its end in a thread: keeps it, or hands it on as it comes."""

    source: IO[bytes]
    target: IO[bytes] | None
    kept: bytearray = field(default_factory=bytearray)

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        while part := os.read(self.source.fileno(), 65536):
            if self.target is None:
                self.kept += part
            else:
                with contextlib.suppress(BrokenPipeError):  # the command still runs to its end
                    self.target.write(part)
                    self.target.flush()


def boot(
    machine: Machine,
    command: Sequence[str],
    *,
    data: Path | None = None,
    out: Path | None = None,
    timeout_s: float = 600,
    streams: tuple[IO[bytes], IO[bytes]] | None = None,
    environment: Mapping[str, str] | None = None,
    devices: Sequence[str] = (),
) -> Done:
    """Boot the machine, run `command` in it with the folder `data` at /data, and give the files of /data/out back in
    the folder `out`. `streams` get stdout and stderr as they come, else they are kept. `devices`: more words for QEMU.

    Raises Failure where the machine cannot start, or ends without the command's exit code; a command that takes longer
    than `timeout_s` has the exit code 124.
    """
    machine.check()
    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="edge-arm-") as scratch:
        disk = Path(scratch, "data.img")
        _write_disk(Path(scratch, "tree"), disk, command, machine.environment() | dict(environment or {}), data)
        line = [*machine.command_line(disk), *devices]
        process = subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        assert process.stdout and process.stderr
        targets = streams or (None, None)
        pumps = [_Pump(process.stdout, targets[0]), _Pump(process.stderr, targets[1])]
        timed_out = False
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            timed_out = True
        finally:
            process.kill()
            process.wait()
            for pump in pumps:
                pump.thread.join()
        console = Path(scratch, "console")
        said = console.read_text(errors="replace").splitlines()[-12:] if console.exists() else []
        if timed_out:
            say("the emulated machine was switched off after", f"{timeout_s:.0f} s (--timeout); its console:", *said)
        code = TIMEOUT_EXIT if timed_out else _exit_code(disk, [*said, pumps[1].kept.decode(errors="replace")])
        if out is not None and not timed_out:
            _give_back(disk, out)
        return Done(code, bytes(pumps[0].kept), bytes(pumps[1].kept), time.monotonic() - start)


def _write_disk(
    tree: Path, disk: Path, command: Sequence[str], environment: Mapping[str, str], data: Path | None
) -> None:
    (tree / "edge").mkdir(parents=True)
    (tree / "home").mkdir()
    copy_package(tree / "edge")
    if data is None:
        (tree / "data").mkdir()
    else:
        shutil.copytree(data, tree / "data", symlinks=True)
    (tree / "data" / "out").mkdir(exist_ok=True)
    lines = [f"export {key}={shlex.quote(value)}" for key, value in environment.items()]
    (tree / "command").write_text("\n".join([*lines, "cd /data", f"exec {shlex.join(command)}"]) + "\n")
    used = sum(path.lstat().st_size + 4096 for path in tree.rglob("*"))
    size = (used * 5 // 4 + SPARE_BYTES) >> 20
    make_filesystem(tree, disk, "data", size)
    shutil.rmtree(tree)


def make_filesystem(tree: Path, image: Path, label: str, size_mib: int, *options: str) -> None:
    """An ext4 image with what is in `tree`, without mounting anything. Raises Failure."""
    line: list[str | Path] = ["mke2fs", "-q", "-F", "-t", "ext4", "-L", label, "-m", "0", *options]
    run_tool([*line, "-d", tree, image, f"{size_mib}M"], "scripts/arm/setup vm")


def run_tool(line: Sequence[str | Path], hint: str = "") -> str:
    """stdout of a program. Raises Failure with its last words where it fails."""
    words = [str(word) for word in line]
    path = os.environ.get("PATH", "") + os.pathsep + "/usr/sbin:/sbin"
    found = shutil.which(words[0], path=path)
    if found is None:
        raise Failure(f"found no program {words[0]}", hint)
    done = subprocess.run([found, *words[1:]], capture_output=True, text=True, check=False)
    if done.returncode:
        last = "\n".join((done.stderr or done.stdout).strip().splitlines()[-8:])
        raise Failure(f"{shlex.join(words[:4])} ...: exit status {done.returncode}\n{last}", hint)
    return str(done.stdout)


def _exit_code(disk: Path, said: list[str]) -> int:
    text = run_tool(["debugfs", "-R", "cat /exit", disk]).strip()
    if not text.isdigit():
        last = "\n".join(line for line in said if line.strip()) or "(nothing)"
        raise Failure(f"the emulated machine ended without the command's exit code; its console ends with:\n{last}")
    return int(text)


def _give_back(disk: Path, out: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="edge-arm-") as scratch:
        run_tool(["debugfs", "-R", f'rdump /data/out "{scratch}"', disk])
        shutil.copytree(Path(scratch, "out"), out, dirs_exist_ok=True)


def read_stamp(path: Path) -> object:
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None
