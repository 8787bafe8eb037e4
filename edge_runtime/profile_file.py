"""A device profile as a file: TOML that load_profile reads back, each fact with its source and how sure it is."""

from __future__ import annotations

import json
import os
import re
import tempfile
from pathlib import Path

from edge_runtime.errors import ProfileError
from edge_runtime.operators import format_operators
from edge_runtime.profile import ENGINES_OF_ARCH, THIS_DEVICE, DeviceProfile, parse_profile


def slug(text: str) -> str:
    """'Raspberry Pi 5 Model B Rev 1.0' -> 'raspberry-pi-5-model-b-rev-1.0': a profile's name, at most 60 characters."""
    made = re.sub(r"[^a-z0-9.]+", "-", text.lower().encode("ascii", "ignore").decode())
    made = re.sub(r"[.-]*-[.-]*|\.{2,}", "-", made)[:60].strip("-.")
    return made if made and made != THIS_DEVICE else "device"


def check_profile(profile: DeviceProfile, path: Path) -> tuple[str, DeviceProfile]:
    """The text that write_profile would write there, and what load_profile would read from it.

    Raises ProfileError where the profile is not valid: an architecture that has no engine, a name with spaces, no RAM
    free. Ask before measuring for a minute.
    """
    if profile.arch not in ENGINES_OF_ARCH:
        wanted = ", ".join(ENGINES_OF_ARCH)
        raise ProfileError(
            f"{path}: found the architecture {profile.arch!r}, wanted one of {wanted}: no engine has others"
        )
    text = format_profile(profile)
    return text, parse_profile(text.encode(), path)


def write_profile(profile: DeviceProfile, path: Path, *, force: bool = False) -> DeviceProfile:
    """Write `path`, whole or not at all, and give what load_profile reads from it.

    Raises ProfileError where there is such a file and not `force`, where it cannot be written, and as check_profile.
    """
    refuse_overwriting(path, force)
    text, read = check_profile(profile, path)
    partial = None
    try:
        with tempfile.NamedTemporaryFile("wb", dir=path.parent, prefix=".", suffix=".toml", delete=False) as file:
            partial = Path(file.name)
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        partial.chmod(0o644)
        if force:
            partial.replace(path)
        else:
            _take_name(partial, path)
        _sync_folder(path.parent)
        return read
    except OSError as error:
        raise ProfileError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        if partial:
            partial.unlink(missing_ok=True)


def refuse_overwriting(path: Path, force: bool) -> None:
    """Raises ProfileError where write_profile would refuse this name: ask before measuring for a minute."""
    if path.suffix != ".toml":
        raise ProfileError(f"{path}: found the ending {path.suffix!r}, wanted .toml: the other verbs know it by that")
    if not force and os.path.lexists(path):
        raise ProfileError(f"{path}: found a file there, which is left as it is", hint="add --force to replace it")


def _take_name(partial: Path, path: Path) -> None:
    """Rename, unless somebody else has taken the name meanwhile; a card's file system may have no hard links."""
    try:
        os.link(partial, path)
    except FileExistsError as error:
        raise ProfileError(f"{path}: found a file there, which is left as it is") from error
    except OSError:
        partial.replace(path)


def _sync_folder(folder: Path) -> None:
    try:
        fd = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows opens no folders
        return
    try:
        os.fsync(fd)
    except OSError:
        pass
    finally:
        os.close(fd)


def format_profile(profile: DeviceProfile) -> str:
    """The text of a profile file."""
    cores = ", ".join(f"{{ part = {_text(c.part, 60)}, count = {c.count}, mhz = {c.mhz} }}" for c in profile.cores)
    lines = [
        f"name = {_text(profile.name, 60)}",
        f"title = {_text(profile.title)}",
        f"kind = {_text(profile.kind)}",
        *([f"year = {profile.year}"] if profile.year else []),
        f"arch = {_text(profile.arch)}",
        f"soc = {_text(profile.soc)}",
        f"cores = [{cores}]",
        f"features = {_list(profile.features)}",
        f'ram = "{profile.ram_bytes}B"',
        f'storage = "{profile.storage_bytes}B"',
        f"engines = {_list(profile.engines)}",
        f"threads = {profile.threads}",
        f"power_meter = {_text(profile.power_meter)}",
        *([f"battery_mah = {profile.battery_mah}"] if profile.battery_mah else []),
        *([f"notes = {_text(profile.notes, 900)}"] if profile.notes else []),
        "",
        *("[budget]", f'ram = "{profile.budget.ram_bytes}B"', f'storage = "{profile.budget.storage_bytes}B"'),
        *([f'latency = "{profile.budget.latency_ms:f}ms"'] if profile.budget.latency_ms else []),
        *([f'energy = "{profile.budget.energy_mj:f}mJ"'] if profile.budget.energy_mj else []),
        *_measured(profile),
        *("", "[sources]"),
        *(
            f"{name} = {{ sure = {_text(source.sure)}, from = {_text(source.where, 400)} }}"
            for name, source in profile.sources.items()
        ),
    ]
    return "\n".join(lines) + "\n\n" * bool(profile.operators) + format_operators(profile.operators) + "\n"


def _measured(profile: DeviceProfile) -> list[str]:
    found = profile.measured
    if found is None:
        return []
    lines = ["", "[measured]", f"when = {_text(found.when)}", f'free_ram = "{found.free_ram_bytes}B"']
    lines += [f'write_per_s = "{found.write_bytes_per_s}B"'] if found.write_bytes_per_s else []
    lines += [f'read_per_s = "{found.read_bytes_per_s}B"'] if found.read_bytes_per_s else []
    return lines + ([f'fsync = "{found.fsync_ms:.6f}ms"'] if found.fsync_ms else [])


def _text(text: str, limit: int = 200) -> str:
    """A TOML string of what a machine said of itself: one line, printable, not too long, never empty."""
    clean = "".join(c if c.isprintable() else " " for c in text)
    return json.dumps(" ".join(clean.split())[:limit].strip() or "unknown", ensure_ascii=False)


def _list(words: tuple[str, ...]) -> str:
    return json.dumps(list(words))
