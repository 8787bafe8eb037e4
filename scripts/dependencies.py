"""What `pip install` brings, decided when the package is built.

Markers cannot tell a 32-bit userland on a 64-bit kernel (the default of a 32-bit Raspberry Pi OS on a Pi 4): there
platform_machine says aarch64. So a build that runs on a 32-bit interpreter writes what that needs without asking for
the machine's name, and every other build writes markers.
"""

from __future__ import annotations

import struct

from hatchling.metadata.plugin.interface import MetadataHookInterface

COMMON = ["psutil>=5.9", "pillow>=9.4"]
ARM32 = "platform_machine in 'armv6l armv7l armv8l'"
OTHERS = "platform_machine not in 'armv6l armv7l armv8l'"


def dependencies(pointer_bytes: int) -> list[str]:
    if pointer_bytes == 4:
        return [*COMMON, "numpy>=1.24,<2", "tflite-runtime==2.14.0"]
    return [
        *COMMON,
        f"numpy>=1.24; {OTHERS}",
        f"onnxruntime>=1.17; {OTHERS}",
        f"numpy>=1.24,<2; {ARM32}",
        f"tflite-runtime==2.14.0; {ARM32}",
    ]


class Hook(MetadataHookInterface):
    def update(self, metadata: dict[str, object]) -> None:
        metadata["dependencies"] = dependencies(struct.calcsize("P"))
