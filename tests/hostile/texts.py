"""Device profiles, journals and coded weights: damaged, and made up to be wrong."""

from __future__ import annotations

import contextlib
import io
import json
import sqlite3
import tomllib
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from edge_runtime.coded import FIXED, SIZES, decode
from edge_runtime.errors import BudgetError
from edge_runtime.journal import Journal
from edge_runtime.journal_check import verify
from edge_runtime.profile import load_profile
from edge_runtime.results import Origin, Outcome, Prediction
from tests.hostile.bundles import places
from tests.hostile.damage import NUMBERS, spoil

# ---------------------------------------------------------------- profiles


def profiles(good: bytes, seeds: range) -> Iterator[tuple[str, bytes]]:
    lines = good.decode().splitlines()
    paths = [path for path in places(tomllib.loads(good.decode())) if path]
    for seed in seeds:
        random = Random(f"profile {seed}")
        name, content = spoil(random, good)
        yield f"{seed} {name}", content
        made = list(lines)
        at = random.choice([place for place, line in enumerate(lines) if " = " in line])
        key = made[at].partition(" = ")[0]
        made[at] = f"{key} = {random.choice(_TOML)}"
        yield f"{seed} {key}", "\n".join(made).encode()
        # a field that is known, where it does not belong
        yield (
            f"{seed} field",
            good + f"\n[{'.'.join(map(_key, random.choice(paths)))}]\nx = {random.choice(_TOML)}\n".encode(),
        )
    for name, text in _TEXTS.items():
        yield name, text
    yield "large", good + b"#" * (1 << 17)
    yield "twice", good * 2


def _key(part: object) -> str:
    return json.dumps(str(part))


_TOML = (
    *("1", "-1", "0", "1.5", "nan", "inf", "true", "[]", "{}", '""', '"\\u0000"', '"' + "a" * 3000 + '"', "1979-05-27"),
    *('"999999999999999999GiB"', '"-1B"', '"0B"', '"1e9B"', "[[]]", "[" * 200 + "]" * 200, "9" * 200, "0x" + "f" * 900),
    *("{ sure = 1 }", "'''x'''", "x", "[1, 2]", "{ a = { b = { c = 1 } } }", '"NaNMiB"'),
)
_TEXTS = {
    "empty": b"",
    "zeros": bytes(1000),
    "not UTF-8": b'name = "\xff"',
    "UTF-16": 'name = "x"'.encode("utf-16"),
    "deep": b"a = " + b"[" * 60_000,
    "dotted": b".".join([b"a"] * 2000) + b" = 1",
    "many dotted": b"\n".join(b".".join([b"a%d" % n] * 400) + b" = 1" for n in range(30)),
    "many tables": b"".join(b"[a%d]\n" % n for n in range(5000)),
    "endless string": b'a = """' + b"x" * 60_000,
    "digits": b"threads = " + b"9" * 4000,
    "octal": b"threads = 0o7777777777777777777777",
}


def read_profile(content: bytes, path: Path) -> None:
    path.write_bytes(content)
    load_profile(path)


# ---------------------------------------------------------------- journals


def good_journal(path: Path) -> bytes:
    origin = Origin("means 1.0", "0" * 64, "fp32", "null", "1", "test")
    with Journal(path) as journal:
        for number in range(40):
            error = BudgetError("memory: too much") if number % 5 == 0 else None
            answer = None if error else Prediction("image", "red", {"labels": [{"label": "red", "score": 0.5}]})
            when = f"2026-11-{number % 28 + 1:02d}T00:00:00+00:00"
            journal.add(Outcome(f"item {number}", f"{number:064x}", when, origin, answer, error, 1.0, 1), "mark")
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA journal_mode=delete")
    return path.read_bytes()


def journals(good: bytes, seeds: range, folder: Path) -> Iterator[tuple[str, bytes]]:
    for seed in seeds:
        name, content = spoil(Random(f"journal {seed}"), good)
        yield f"{seed} {name}", content
    for name, statements in _STATEMENTS.items():
        path = folder / "made.db"
        path.write_bytes(good)
        with contextlib.closing(sqlite3.connect(path)) as db:
            db.executescript(statements)
        yield name, path.read_bytes()
        path.unlink()
    yield "empty", b""
    yield "text", b"when,item,verdict\n" * 99


_FREE = "DROP TRIGGER entries_stay; DROP TRIGGER entries_last;"
_DROP = f"{_FREE} DROP TABLE entries"
_COLUMNS = "'outcome' AS kind, '2' AS recorded, '' AS hash"
_STATEMENTS = {
    "no table": _DROP,
    "no items": "DROP TABLE items",
    "version 0": "PRAGMA user_version=0",
    "version 1": "PRAGMA user_version=1",
    "version 99": "PRAGMA user_version=99",
    "version below 0": "PRAGMA user_version=-5",
    "other table": f"{_DROP}; CREATE TABLE entries (number INTEGER PRIMARY KEY, content TEXT, recorded TEXT)",
    "a view": f"{_DROP}; CREATE VIEW entries AS SELECT 1 AS number, '{{}}' AS content, {_COLUMNS}",
    "endless view": f"{_DROP}; CREATE VIEW entries AS WITH RECURSIVE r(number) AS (SELECT 1 UNION ALL SELECT number+1 "
    f"FROM r LIMIT 3000) SELECT number, 'x' AS content, {_COLUMNS} FROM r",
    "numbers from the end": f"{_FREE} UPDATE entries SET number=9223372036854775807 WHERE number=20",
    "items that point nowhere": "UPDATE items SET entry=entry+1000",
    "names that are bytes": "UPDATE items SET item=x'ff' WHERE entry=3",
    "a hash of bytes": f"{_FREE} UPDATE entries SET hash=x'ff00' WHERE number=40",
    **{
        f"outcome {name}": f"{_FREE} UPDATE entries SET content={value} WHERE number=3"
        for name, value in {
            "not JSON": "'{'",
            "a number": "7",
            "a list": "'[]'",
            "empty": "'{}'",
            "bytes": "x'ff00'",
            "not UTF-8": "CAST(x'7bff7d' AS TEXT)",
            "deep": f"'{'[' * 20_000}'",
            "a name": "'\"x\"'",
        }.items()
    },
}


def read_journal(content: bytes, path: Path) -> None:
    """Read it as `journal` does, then write to it as `loop` does."""
    for suffix in ("", "-wal", "-shm", "-journal"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
    path.write_bytes(content)
    origin = Origin("means 1.0", "0" * 64, "fp32", "null", "1", "test")
    with Journal(path, create=False) as journal:
        for one in journal.outcomes():
            assert one["item"] is not None and one["when"] is not None, "what is given has its fields"
        verify(journal)
    with Journal(path) as journal:
        len(journal)
        journal.knows("item 1", fingerprint="mark")
        journal.add(Outcome("new", "f" * 64, "2026-11-30T00:00:00+00:00", origin, None, BudgetError("x"), None, None))
        journal.touch("new", "f" * 64, "other")


# ---------------------------------------------------------------- coded weights


def coded_files(good: bytes, size: int, seeds: range) -> Iterator[tuple[str, tuple[bytes, int]]]:
    """Each with the size that the bundle says it decodes to."""
    for seed in seeds:
        name, content = spoil(Random(f"coded {seed}"), good)
        yield f"{seed} {name}", (content, size)
    for place in range(16):
        for number in (0, 1, 2**31, 2**32 - 1):
            made = bytearray(good)
            made[FIXED.size + 4 * place : FIXED.size + 4 * place + 4] = number.to_bytes(4, "little")
            yield f"section {place} of {number}", (bytes(made), size)
    for number in NUMBERS:
        fixed = FIXED.unpack_from(good)
        for lanes in (fixed[2], number % 2**16):
            lied = FIXED.pack(*fixed[:2], lanes, number % 2**64, fixed[4])
            yield f"{number} bytes, {lanes} lanes", (lied + good[FIXED.size :], number % 2**32)
    yield "header alone", (good[: FIXED.size + SIZES.size], size)


def good_coded() -> tuple[bytes, int]:
    """A small model, coded, and its size."""
    from edge_runtime.compress.code import encode
    from tests.unit.tflite_samples import Net

    net: Any = Net(1, 3, 8, 8)
    net.conv(16, 3, 3)
    for _ in range(2):
        levels = np.round(net.rng.standard_normal((16, 16, 3, 3)) * 6).astype(np.float32) / 8
        net.add("Conv", net.last, net.const(levels), pads=[1, 1, 1, 1])
    import onnx_ir as ir

    model = ir.to_proto(net.model()).SerializeToString()
    return encode(model, "onnx").content, len(model)


def read_coded(content: bytes, size: int) -> None:
    decode(io.BytesIO(content), 0, len(content), size)
