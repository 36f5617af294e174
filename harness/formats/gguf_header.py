"""Read GGUF headers strictly, by ranged reads. ``harness.formats.decode`` decodes the data.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (versions 2 and 3, little-endian).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Callable
from typing import Any

from harness.formats.decode import GGUF_PREFIX, gguf_sizes
from harness.formats.errors import HeaderError
from harness.formats.header import MAX_HEADER_BYTES, MAX_RANK, MAX_TENSORS, Header, TensorEntry

MAGIC = b"GGUF"
FLOATS = {
    "F32": "F32",
    "F16": "F16",
    "BF16": "BF16",
    "F64": "F64",
    "I8": "I8",
    "I16": "I16",
    "I32": "I32",
    "I64": "I64",
}
"""ggml types that safetensors has too, and its names for them."""
_SCALARS = {0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d"}
_STRING, _ARRAY = 8, 9
ORIGINAL_SHAPE = "comfy.gguf.orig_shape."
"""Key of the shape that a tensor had before it was flattened for ggml, which has four axes at most."""


class _Cursor:
    """Read forward through a file in growing pieces."""

    def __init__(self, file: str, size: int, read: Callable[[int, int], bytes]) -> None:
        self.file, self.size, self._read = file, size, read
        self._data, self.position = b"", 0

    def take(self, count: int) -> bytes:
        """Return the next ``count`` bytes. Raises ``HeaderError``."""
        end = self.position + count
        if end > self.size:
            message = f"the header ends at byte {end} or later and the file has {self.size}"
            raise HeaderError(
                message, place=self.file, remedy="fetch the file again: it was cut short", code="header_truncated"
            )
        if end > MAX_HEADER_BYTES:
            raise HeaderError(
                f"the header is longer than {MAX_HEADER_BYTES} bytes", place=self.file, code="header_too_large"
            )
        if end > len(self._data):
            # each read doubles the buffer, so a long vocabulary over the network costs few requests
            more = min(max(end - len(self._data), len(self._data), 1 << 18), self.size - len(self._data))
            self._data += self._read(len(self._data), more)
        self.position = end
        return self._data[end - count : end]

    def number(self, code: str) -> Any:
        """Read one scalar of a ``struct`` code."""
        return struct.unpack(code, self.take(struct.calcsize(code)))[0]

    def text(self) -> str:
        """Read a string: u64 length and UTF-8."""
        return self.take(self.number("<Q")).decode("utf-8", errors="replace")

    def value(self, kind: int, depth: int = 0) -> Any:
        """Read a metadata value. Arrays of at most 64 numbers are kept; other arrays are skipped and return []."""
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY:
            inner, count = self.number("<I"), self.number("<Q")
            if depth > 2 or count > MAX_HEADER_BYTES:
                raise HeaderError("an array of metadata is nested or long beyond reason", place=self.file)
            if inner in _SCALARS:
                code = _SCALARS[inner]
                raw = self.take(struct.calcsize(code) * count)
                return [item for (item,) in struct.iter_unpack(code, raw)] if count <= 64 else []
            for _ in range(count):
                self.value(inner, depth + 1)
            return []
        if kind not in _SCALARS:
            raise HeaderError(f"metadata of unknown type {kind}", place=self.file)
        return self.number(_SCALARS[kind])


def read_gguf_header(file: str, file_size: int, read: Callable[[int, int], bytes]) -> Header:
    """Read and check the header of one GGUF file.

    Args:
        file: name for messages.
        file_size: bytes of the whole file.
        read: ``read(start, length)`` returns exactly those bytes.

    Returns:
        Tensors by stored name; shapes are row-major as in safetensors. The dtype of a quantized tensor is ``GGUF_``
        and ggml's name of its type.

    Raises:
        HeaderError: the header is cut short, contradicts itself or the file's size, or names an unknown type.
    """
    cursor = _Cursor(file, file_size, read)
    if cursor.take(4) != MAGIC:
        raise HeaderError("the file does not begin with GGUF", place=file, code="header_not_json")
    version = cursor.number("<I")
    if version not in (2, 3):
        raise HeaderError(f"GGUF version {version}; 2 and 3 are known here", place=file)
    count, keys = cursor.number("<Q"), cursor.number("<Q")
    if count > MAX_TENSORS or keys > MAX_TENSORS:
        raise HeaderError(f"{count} tensors and {keys} keys in one file", place=file, code="header_too_large")
    metadata = {}
    for _ in range(keys):
        name = cursor.text()
        metadata[name] = cursor.value(cursor.number("<I"))
    infos = [_info(cursor) for _ in range(count)]
    alignment = metadata.get("general.alignment", 32)
    if not isinstance(alignment, int) or alignment <= 0 or alignment % 8:
        raise HeaderError(f"an alignment of {alignment!r}", place=file)
    start = -(-cursor.position // alignment) * alignment
    tensors: dict[str, TensorEntry] = {}
    for name, shape, kind, offset in infos:
        if name in tensors:
            raise HeaderError(f"the tensor {name[:120]!r} stands twice", place=file, code="header_duplicate_key")
        tensors[name] = _entry(file, name, shape, kind, start + offset, metadata)
        if tensors[name].start + tensors[name].nbytes > file_size:
            end = tensors[name].start + tensors[name].nbytes
            message = f"tensor {name[:120]!r} ends at byte {end} and the file has {file_size}"
            raise HeaderError(
                message, place=file, remedy="fetch the file again: it was cut short", code="data_truncated"
            )
    _no_overlap(file, tensors)
    words = {key: str(value) for key, value in metadata.items() if isinstance(value, str | int | float)}
    return Header(file=file, size=start, tensors=tensors, metadata=words)


def _info(cursor: _Cursor) -> tuple[str, tuple[int, ...], str, int]:
    from gguf import GGMLQuantizationType

    name, rank = cursor.text(), cursor.number("<I")
    if rank > MAX_RANK:
        raise HeaderError(f"tensor {name[:120]!r} has {rank} axes", place=cursor.file)
    shape = tuple(reversed([int(cursor.number("<Q")) for _ in range(rank)]))
    code, offset = cursor.number("<I"), cursor.number("<Q")
    try:
        return name, shape, GGMLQuantizationType(code).name, offset
    except ValueError:
        raise HeaderError(f"tensor {name[:120]!r} has the unknown type {code}", place=cursor.file) from None


def _entry(
    file: str, name: str, shape: tuple[int, ...], kind: str, start: int, metadata: dict[str, Any]
) -> TensorEntry:
    block, size = gguf_sizes(kind)
    elements = math.prod(shape)
    if elements >= 2**63 or (shape and shape[-1] % block):
        raise HeaderError(f"tensor {name[:120]!r}: {kind} {list(shape)} is not whole blocks of {block}", place=file)
    original = metadata.get(f"{ORIGINAL_SHAPE}{name}")
    if isinstance(original, list) and original and math.prod(original) == elements:
        shape = tuple(int(item) for item in original)
    return TensorEntry(name, FLOATS.get(kind, f"{GGUF_PREFIX}{kind}"), shape, file, start, elements // block * size)


def _no_overlap(file: str, tensors: dict[str, TensorEntry]) -> None:
    end, before = 0, "the header"
    for entry in sorted(tensors.values(), key=lambda item: (item.start, item.nbytes)):
        if entry.start < end:
            raise HeaderError(f"tensors {before!r} and {entry.name!r} overlap", place=file, code="header_overlap")
        end, before = entry.start + entry.nbytes, entry.name
