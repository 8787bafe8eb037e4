"""Bundles: damaged bytes, and headers that are whole, match their digest, and lie."""

from __future__ import annotations

import copy
import json
import struct
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

from edge_runtime.bundle import MAGIC, load_bundle
from edge_runtime.bundle_header import FIXED
from edge_runtime.digest import sha256
from edge_runtime.planner import plan
from edge_runtime.profile import DeviceProfile
from edge_runtime.task import find_task
from tests.conftest import small_device
from tests.hostile.damage import NUMBERS, spoil

# What a field may hold instead of what belongs there.
VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        "",
        "x",
        "../../x",
        "/etc/passwd",
        "a" * 5000,
        "\0",
        "\ud800",
        "\u202e",
        [],
        {},
        [[]],
        [None],
        {"a": 1},
    ),
    *(*NUMBERS, 1.5, 1e308, -0.0, 10**400, ["a"] * 3000),
)


def rehashed(content: bytes, header: Any, version: int | None = None) -> bytes:
    """The bundle with another header, whose digest matches."""
    _, old_version, length, _ = FIXED.unpack_from(content)
    text = header if isinstance(header, bytes) else json.dumps(header, sort_keys=True).encode("utf-8", "surrogatepass")
    fixed = FIXED.pack(MAGIC, old_version if version is None else version, len(text), sha256(text).digest())
    start = FIXED.size + length
    files = content[start + -start % 64 :]
    made = fixed + text
    return made + bytes(-len(made) % 64) + files


def header_of(content: bytes) -> dict[str, Any]:
    length = FIXED.unpack_from(content)[2]
    plain: dict[str, Any] = json.loads(content[FIXED.size : FIXED.size + length])
    return plain


def places(plain: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The way to every value."""
    yield path
    inner = plain.items() if isinstance(plain, dict) else enumerate(plain) if isinstance(plain, list) else ()
    for key, value in inner:
        yield from places(value, (*path, key))


def lie(random: Random, plain: dict[str, Any]) -> tuple[str, Any]:
    """One value replaced, left out, doubled, or given under another name."""
    made = copy.deepcopy(plain)
    path = random.choice([one for one in places(made) if one])
    parent = made
    for key in path[:-1]:
        parent = parent[key]
    how = random.choice(("value", "value", "value", "gone", "renamed"))
    if how == "gone":
        del parent[path[-1]]
    elif how == "renamed" and isinstance(parent, dict):
        parent[random.choice(("x", "", path[-1] + "s"))] = parent.pop(path[-1])
    else:
        parent[path[-1]] = random.choice(VALUES)
    return f"{how} {'.'.join(map(str, path))}", made


def bundles(good: bytes, seeds: range) -> Iterator[tuple[str, bytes]]:
    """`seeds` cases of bytes, as many of lies, and the ones thought out."""
    plain = header_of(good)
    for seed in seeds:
        random = Random(f"bundle {seed}")
        name, content = spoil(random, good)
        yield f"{seed} {name}", content
        name, lied = lie(random, plain)
        yield f"{seed} {name}", rehashed(good, lied)
    yield from _thought_out(good, plain)


def _thought_out(good: bytes, plain: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
    yield "empty", b""
    yield "magic alone", MAGIC
    for version in (0, 3, 2**32 - 1):
        yield f"version {version}", rehashed(good, plain, version)
    yield "version 2 without coded files", rehashed(good, plain, 2)
    for length in (0, 1, 2**20 + 1, 2**32 - 1):
        yield f"header of {length}", good[:12] + struct.pack("<I", length) + good[16:]
    texts = {
        "deep": b"[" * 100_000 + b"]" * 100_000,
        "deep object": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
        "key twice": b'{"name": "a", "name": "b"}',
        "NaN": b'{"name": NaN}',
        "huge number": b'{"name": 1' + b"0" * 10_000 + b"}",
        "not UTF-8": b'{"name": "\xff"}',
        "UTF-16": json.dumps(plain).encode("utf-16"),
        "a list": b"[]",
        "a string": b'"x"',
        "nothing": b"{}",
        "byte order mark": b"\xef\xbb\xbf{}",
        "zeros": bytes(64),
    }
    yield from ((name, rehashed(good, text)) for name, text in texts.items())
    for name in ("../x", "/tmp/x", "a/b", "..", ".hidden", "x" * 65, "CON", "a\0b", "a..b", "A"):
        yield f"file called {name!r}", rehashed(good, {**plain, "files": [{**plain["files"][0], "name": name}]})
    for size in NUMBERS:
        files = [{**plain["files"][0], "size": size}, *plain["files"][1:]]
        yield f"file of {size}", rehashed(good, {**plain, "files": files})
    yield "many files", rehashed(good, {**plain, "files": plain["files"] * 20_00})
    yield "the same file twice", rehashed(good, {**plain, "files": plain["files"] * 2})
    yield "many variants", rehashed(good, {**plain, "variants": plain["variants"] * 500})
    for text in ("1.0\ud800", "9\x1b]0;x\x07\x1b[2J", "1\n2", "\x9b2J", "1\u202e"):
        yield f"version {text!a}", rehashed(good, {**plain, "version": text})
        yield f"label {text!a}", rehashed(good, {**plain, "labels": [text, *plain["labels"][1:]]})
    deep: Any = []
    for _ in range(900):
        deep = [deep]
    yield "deep metrics", rehashed(good, {**plain, "variants": [{**plain["variants"][0], "metrics": {"a": deep}}]})
    for kind in ("image ", "os", "..", "__init__", "slides"):
        yield f"task {kind}", rehashed(good, {**plain, "task": {"kind": kind}})


@cache
def _device() -> DeviceProfile:
    return small_device()


def read_whole(content: bytes, path: Path) -> None:
    """All that is done with a bundle before its model is loaded, and its files read."""
    path.write_bytes(content)
    bundle = load_bundle(path)
    bundle.verify()
    for one in bundle.files:
        bundle.read(one)
    task = find_task(bundle)
    for variant in bundle.variants:
        task.check(variant.inputs, variant.outputs)
    json.dumps(bundle.to_json(), ensure_ascii=False).encode()  # as it is printed
    plan(bundle, _device()).to_json()
