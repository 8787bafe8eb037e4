"""In the emulated machine: the malaria job under the kernel's limits, and the install kit. One JSON object a line.

    python3 job_guest.py [--kit] CHOICE ...

/data has the slides infected/ and clean/ as cells, large.edge and picture.png (a model whose picture alone is larger
than a small device's memory), and kit.pyz for this userland and other.pyz for the other one.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

DATA = Path("/data")
GROUPS = Path("/sys/fs/cgroup")
HOME = Path("/disk/home/somebody")
ROOMY_BYTES, TIGHT_BYTES = 256 << 20, 20 << 20  # libraries are read anew where they do not fit: little is enough
NOBODY = 1000  # a user who is not root


def tell(step: str, **found: object) -> None:
    print(json.dumps({"step": step, **found}), flush=True)


def run(words: list[str], group: Path | None = None, user: int = 0, **variables: str) -> dict[str, object]:
    def before() -> None:
        if group:
            (group / "cgroup.procs").write_text(str(os.getpid()))
        if user:
            os.setgid(user)
            os.setuid(user)

    done = subprocess.run(
        words, capture_output=True, text=True, check=False, env={**os.environ, **variables}, preexec_fn=before
    )
    return {"code": done.returncode, "stdout": done.stdout, "stderr": done.stderr[-3000:]}


def edge(*words: str, group: Path | None = None) -> dict[str, object]:
    return run([sys.executable, "-m", "edge_runtime", *words], group)


def limited(name: str, memory_bytes: int) -> Path:
    """A control group with this much memory, its page cache included, and no swap."""
    group = GROUPS / name
    group.mkdir()
    (group / "memory.max").write_text(str(memory_bytes))
    return group


def read_slides(choice: str) -> list[str]:
    variant, _, engine = choice.partition("@")
    return ["run", "malaria", "infected", "clean", "--json", "--variant", variant, "--engine", engine]


def main() -> None:
    os.chdir(DATA)
    choices = [word for word in sys.argv[1:] if word != "--kit"]
    (GROUPS / "cgroup.subtree_control").write_text("+memory")
    for number, choice in enumerate(choices):
        group = limited(f"job{number}", ROOMY_BYTES)
        found = edge(*read_slides(choice), group=group)
        tell(
            "job", choice=choice, allowed_bytes=ROOMY_BYTES, group_peak_bytes=number_in(group / "memory.peak"), **found
        )
    group = limited("tight", TIGHT_BYTES)
    # of a device that allows more: the plan would refuse it on paper
    found = edge(*read_slides(choices[0]), "--device", "raspberry-pi-zero-2w", "--no-measure", group=group)
    kills = dict(line.split() for line in (group / "memory.events").read_text().splitlines())
    tell("cgroup", allowed_bytes=TIGHT_BYTES, kills=int(kills["oom_kill"]), **found)
    large = ["run", "large.edge", "picture.png", "--device", "raspberry-pi-zero-2w", "--engine", "null", "--no-measure"]
    tell("limits", **edge(*large))
    if "--kit" in sys.argv:
        install(choices[0])


def install(choice: str) -> None:
    HOME.mkdir()
    os.chown(HOME, NOBODY, NOBODY)
    plain = {"PYTHONPATH": "", "HOME": str(HOME)}
    tell("kit, the wrong one", **run([sys.executable, "other.pyz"], user=NOBODY, **plain))
    tell("kit", **run([sys.executable, "kit.pyz", "--no-self-test"], user=NOBODY, **plain))
    start = str(HOME / "edge-runtime" / "edge-runtime")
    tell("kit, its job", **run([start, *read_slides(choice)], user=NOBODY, **plain))
    size = sum(path.lstat().st_blocks * 512 for path in (HOME / "edge-runtime").rglob("*"))
    tell("kit, again", bytes=size, **run([sys.executable, "kit.pyz", "--no-self-test"], user=NOBODY, **plain))


def number_in(path: Path) -> int | None:
    return int(path.read_text()) if path.exists() else None


main()
