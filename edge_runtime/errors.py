"""What can go wrong, as one small tree.

EdgeError                exit 1: something asked for cannot be done
|- UsageError            exit 2: the words of the request are wrong
|- BudgetError           exit 3: it does not fit the device, or outgrew its limit while running
|- ProfileError          exit 1: a device profile is not valid
|- BundleError           exit 1: a bundle is damaged, tampered with or too new
|  `- TrustError         exit 1: a bundle is not signed as this device demands, or a key is not what it should be
|- StoreError            exit 1: the store of installed bundles cannot do that
|- EngineError           exit 1: an engine is missing, dies, or refuses a model
|- InputError            exit 1: an image, slide or tensor is not what the model takes
|- MeterError            exit 1: a power meter is missing, may not be read, or gives no sense
`- JournalError          exit 1: the journal cannot be opened or written
"""

from __future__ import annotations


def _escaped(text: str) -> str:
    return "".join(one if one.isprintable() or one == "\n" else ascii(one)[1:-1] for one in text)


class EdgeError(Exception):
    """One clear message: what was found and what was wanted; `hint` is the next command to try.

    What was found may be anybody's bytes: control characters in it, which a terminal would obey, stand as escapes.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str | None = None) -> None:
        message = _escaped(message)
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message}\n  try: {self.hint}" if self.hint else self.message


class UsageError(EdgeError):
    exit_code = 2


class BudgetError(EdgeError):
    """Figures are bytes and None where unknown: what was predicted, what is allowed, what was measured."""

    exit_code = 3

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        predicted_bytes: int | None = None,
        allowed_bytes: int | None = None,
        measured_bytes: int | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.predicted_bytes = predicted_bytes
        self.allowed_bytes = allowed_bytes
        self.measured_bytes = measured_bytes


class ProfileError(EdgeError):
    pass


class BundleError(EdgeError):
    pass


class TrustError(BundleError):
    pass


class StoreError(EdgeError):
    pass


class EngineError(EdgeError):
    pass


class InputError(EdgeError):
    pass


class MeterError(EdgeError):
    pass


class JournalError(EdgeError):
    pass
