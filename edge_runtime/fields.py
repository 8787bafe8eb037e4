"""Reading what somebody wrote into a profile: every refusal names the file, the field and what was wanted."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from typing import Any, TypeVar

from edge_runtime.errors import ProfileError, UsageError

# Control characters, which a terminal may obey, those that turn the order of what is read, and halves of characters,
# which JSON can say and no file or terminal can take.
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

_Number = TypeVar("_Number", int, float)


def show(found: object) -> str:
    try:
        text = repr(found)
    except ValueError:  # Python refuses to print whole numbers of more than 4,300 digits
        return "an endless number"
    return text if len(text) <= 80 else text[:77] + "..."


def bad(where: str, name: str, found: object, wanted: str) -> ProfileError:
    return ProfileError(f"{where}: {name}: found {show(found)}, wanted {wanted}")


class Table:
    """A TOML table that knows its file and the way to itself, so that every refusal can name the field."""

    def __init__(self, values: object, where: str, path: str, required: Collection[str], optional: Collection[str]):
        if not isinstance(values, dict):
            raise bad(where, path or "the file", values, f"a table with the fields {', '.join(required)}")
        self.values: dict[str, Any] = values
        self.where = where
        self.prefix = f"{path}." if path else ""
        known = [*required, *optional]
        for name in values:
            if name not in known:
                raise ProfileError(
                    f"{where}: found the unknown field {show(self.prefix + name)}, wanted only {', '.join(known)}"
                )
        for name in required:
            if name not in values:
                raise ProfileError(f"{where}: {self.prefix}{name}: found nothing, wanted this field")

    def bad(self, name: str, wanted: str) -> ProfileError:
        return bad(self.where, self.prefix + name, self.values[name], wanted)

    def text(self, name: str, limit: int = 200) -> str:
        value = self.values[name]
        if not isinstance(value, str) or not value.strip() or len(value) > limit:
            raise self.bad(name, f"a text of 1 to {limit} characters")
        if not value.replace("\n", "").isprintable():
            raise self.bad(name, "a text without control characters")
        return value.strip()

    def one_of(self, name: str, words: Collection[str]) -> str:
        value = self.text(name)
        if value not in words:
            raise self.bad(name, f"one of {', '.join(words)}")
        return value

    def some_of(self, name: str, words: Collection[str], at_least: int = 0) -> tuple[str, ...]:
        value = self.values[name]
        if not isinstance(value, list) or len(value) < at_least or any(word not in list(words) for word in value):
            raise self.bad(name, f"a list of {'some' if at_least else 'any'} of {', '.join(words)}")
        if len(set(value)) != len(value):
            raise self.bad(name, "a list that names each only once")
        return tuple(value)

    def count(self, name: str, lowest: int, highest: int) -> int:
        value = self.values[name]
        if not isinstance(value, int) or isinstance(value, bool) or not lowest <= value <= highest:
            raise self.bad(name, f"a whole number from {lowest} to {highest}")
        return value

    def quantity(self, name: str, parse: Callable[[object, str], _Number], example: str) -> _Number:
        value = self.values[name]
        if not isinstance(value, str) or len(value) > 30:
            raise self.bad(name, f'a number with its unit, in quotation marks: "{example}"')
        try:
            number = parse(value, f"{self.where}: {self.prefix}{name}")
        except UsageError as error:
            raise ProfileError(error.message) from error
        if number <= 0:
            raise self.bad(name, "more than nothing")
        return number
