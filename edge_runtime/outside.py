"""A model in a bundle is whole: one that names data outside of itself is refused before an engine sees it.

An ONNX tensor may say that its numbers lie in another file, at any path, and TFLite has groups of external buffers by
name. From a bundle, whose models are read from memory, such a path would be looked up from wherever the command was
started; onnxruntime before 2026 followed it out of every folder, and took a marker in its place for an address in
memory. So the file's own structure is walked here, with no library, and whatever this walk does not understand is
refused with it: a reader that is laxer than this one must not find what this one missed.

Nothing else in a model file acts: operators are the engine's own (no library of custom ones is ever registered, no
delegate loaded), and no form that runs code when it is opened, such as a pickle, is among the formats.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from edge_runtime.errors import BundleError

_MOST_FIELDS = 4_000_000  # a walk of some seconds; a network has thousands, however large its tensors
# Messages of onnx.proto, and in which of their numbered fields others lie that lead to tensors.
_MODEL, _GRAPH, _NODE, _ATTRIBUTE, _TENSOR, _SPARSE, _FUNCTION, _TRAINING = range(8)
_LEADS: dict[int, dict[int, int]] = {
    _MODEL: {7: _GRAPH, 20: _TRAINING, 25: _FUNCTION},
    _GRAPH: {1: _NODE, 5: _TENSOR, 15: _SPARSE},
    _NODE: {5: _ATTRIBUTE},
    _ATTRIBUTE: {5: _TENSOR, 6: _GRAPH, 10: _TENSOR, 11: _GRAPH, 22: _SPARSE, 23: _SPARSE},
    _SPARSE: {1: _TENSOR, 2: _TENSOR},
    _FUNCTION: {7: _NODE, 11: _ATTRIBUTE},
    _TRAINING: {1: _GRAPH, 2: _GRAPH},
    _TENSOR: {},
}
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14
_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5
# Protobuf keeps 32 bits of a tag and drops those above, so that an unknown field here would be a known one there.
_MOST_TAG, _MOST_LENGTH = 2**32 - 1, 2**31 - 1
# Of TFLite's Model: where its table says that external_buffer_groups and external_buffers are.
_EXTERNAL_SLOTS = (20, 22)


def refuse_outside(content: bytes, form: str, where: str) -> None:
    """`form` is onnx or tflite (another one has no such thing); `where` begins the message. Raises BundleError."""
    try:
        if form == "onnx" and content[4:8] != b"ORTM":  # onnxruntime's own form has no other files
            named = _outside_onnx(content)
        elif form == "tflite":
            named = _outside_tflite(content)
        else:
            return
    except (ValueError, IndexError) as error:
        raise BundleError(f"{where}: not the structure of an {form} file: {error or 'it ends too early'}") from error
    if named is not None:
        raise BundleError(
            f"{where}: found data outside of the model file ({named}), wanted all of it inside",
            hint="export it as one file, and pack it again",
        )


def _outside_onnx(content: bytes) -> str | None:
    """The place that a tensor names, None where none does. Raises ValueError, IndexError for what is no protobuf."""
    view = memoryview(content)
    todo = [(_MODEL, 0, len(content))]
    left = _MOST_FIELDS
    while todo:
        message, start, end = todo.pop()
        leads = _LEADS[message]
        for number, kind, at, value in _fields(view, start, end):
            left -= 1
            if left < 0:
                raise ValueError(f"more than {_MOST_FIELDS:,} fields")
            if kind == _BYTES and number in leads:
                todo.append((leads[number], at, value))
            elif message == _TENSOR and kind == _BYTES and number == _EXTERNAL_DATA:
                return _entry(view, at, value)
            elif message == _TENSOR and kind == _VARINT and number == _DATA_LOCATION and value:
                return "by its data_location"
    return None


def _entry(view: memoryview, start: int, end: int) -> str:
    """The value of a key-value pair, for the message."""
    for number, kind, at, value in _fields(view, start, end):
        if kind == _BYTES and number == 2:
            return repr(bytes(view[at : min(value, at + 80)]).decode("ascii", "replace"))
    return "without a place"


def _fields(view: memoryview, start: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """(number, wire type, where it is, its value, or for bytes where they end) of each field of a message."""
    at = start
    while at < end:
        key, at = _varint(view, at, end, _MOST_TAG)
        number, kind = key >> 3, key & 7
        if not number:
            raise ValueError("field number 0")
        value = 0
        if kind == _VARINT:
            value, at = _varint(view, at, end)
        elif kind == _BYTES:
            length, at = _varint(view, at, end, _MOST_LENGTH)
            value = at + length
            if value > end:
                raise ValueError(f"a field of {length} bytes where {end - at} are left")
            yield number, kind, at, value
            at = value
            continue
        elif kind in (_EIGHT, _FOUR):
            at += 8 if kind == _EIGHT else 4
            if at > end:
                raise ValueError("a number that is cut off")
        else:
            raise ValueError(f"wire type {kind}")
        yield number, kind, at, value


def _varint(view: memoryview, at: int, end: int, most: int | None = None) -> tuple[int, int]:
    """(value, where it ends). `most`: of a tag or a length, which must be written as short as it can be, too."""
    value = shift = 0
    while True:
        if at >= end or shift > 63:
            raise ValueError("a number that does not end")
        byte = view[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            if most is not None and (value > most or (shift and not byte)):
                raise ValueError("a tag or a length that readers take differently")
            return value, at
        shift += 7


def _outside_tflite(content: bytes) -> str | None:
    """Whether the root table has external buffers. What cannot be followed here, the engine's verifier refuses."""
    try:
        (root,) = struct.unpack_from("<I", content, 0)
        (back,) = struct.unpack_from("<i", content, root)
        table = root - back
        if table < 0:
            return None
        (size,) = struct.unpack_from("<H", content, table)
        for slot in _EXTERNAL_SLOTS:
            if slot + 2 > size:
                break
            (offset,) = struct.unpack_from("<H", content, table + slot)
            if offset:
                (vector,) = struct.unpack_from("<I", content, root + offset)
                if struct.unpack_from("<I", content, root + offset + vector)[0]:
                    return "by its external buffers"
    except struct.error:
        return None
    return None
