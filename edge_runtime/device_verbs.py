"""What the verb `doctor` does with its options. Printing stands in cli.py."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from edge_runtime.errors import UsageError

if TYPE_CHECKING:
    from edge_runtime.child import Progress


def doctor(arguments: argparse.Namespace, progress: Progress | None) -> dict[str, Any]:
    """All that was found, plain; `text` as lines for a person, `code` to exit with."""
    from edge_runtime.doctor import examine, profile_of_this_device, self_test
    from edge_runtime.profile_file import refuse_overwriting, write_profile

    out = arguments.write_profile
    if out is None and (arguments.name is not None or arguments.force):
        raise UsageError("--name and --force go with --write-profile FILE.toml")
    if out is not None:
        refuse_overwriting(out, arguments.force)
    found = examine(arguments.device, arguments.folder)
    text = found["text"]
    if out is not None:
        profile = write_profile(profile_of_this_device(found, arguments.name), out, force=arguments.force)
        found["profile"] = {"file": str(out), "name": profile.name}
        text.append(f"profile   {profile.name}, written to {out}")
    passed = True
    if arguments.self_test:
        found["self_test"] = self_test(arguments.bundle, arguments.device, progress)
        passed = found["self_test"]["ok"]
        text += [
            f"self-test: {'ok    ' if one['ok'] else 'FAILED'} {one['slide']}: {one['found']}"
            for one in found["self_test"]["slides"]
        ]
        text.append("self-test: it proves the path on this device (decode, segment, classify, decide), not the clinic")
    found["code"] = 0 if passed and any(one["works"] for one in found["engines"]) else 1
    return found
