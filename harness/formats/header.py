"""Parse safetensors headers strictly: every byte of the file belongs to the header or a tensor, or the file is refused.

Format: https://huggingface.co/docs/safetensors/index#format - 8 bytes little-endian header length, JSON, data.
The rules are the reference reader's (bounded header, no holes, no overlaps); each violation has an error code.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from harness.formats.errors import HeaderError

MAX_HEADER_BYTES = 32 << 20
"""Longest header that is read, 32 MiB. The format allows 100 MB; 10,000 quantized Linears need 4 MB."""
MAX_TENSORS = 2_000_000
MAX_RANK = 8
DTYPE_BITS: dict[str, int] = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "U16": 16, "I16": 16, "F16": 16, "BF16": 16, "U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64, "F64": 64,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "C64": 64,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """Location of a tensor: ``start`` is the offset of its first byte in the FILE (header included)."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: str
    start: int
    nbytes: int

    @property
    def elements(self) -> int:
        """Return the number of stored elements."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class Header:
    """A parsed header."""

    file: str
    size: int
    """Bytes of header and length prefix: the offset at which data starts."""
    tensors: dict[str, TensorEntry]
    metadata: dict[str, str] = field(default_factory=dict)


def read_header(file: str, file_size: int, read: Callable[[int, int], bytes], guess: int = 256 * 1024) -> Header:
    """Read and check the header of one safetensors file.

    Args:
        file: name for messages.
        file_size: bytes of the whole file.
        read: ``read(start, length)`` returns exactly those bytes.
        guess: bytes of the first read; if the header is longer, a second read fetches the rest.

    Raises:
        HeaderError: with a ``code`` for the fault. Memory stays under a few times ``MAX_HEADER_BYTES``.
    """
    if file_size < 8:
        raise HeaderError(f"the file has {file_size} bytes, and a header needs 8", place=file, code="header_truncated")
    first = read(0, min(guess, file_size))
    length = int.from_bytes(first[:8], "little")
    # before the size of the file: a sparse file may be as long as any header claims
    if length > MAX_HEADER_BYTES:
        raise HeaderError(
            f"the header says it is {length} bytes long; at most {MAX_HEADER_BYTES} are read",
            place=file,
            code="header_too_large",
        )
    if 8 + length > file_size:
        raise HeaderError(
            f"the header says it is {length} bytes long and the file has {file_size}",
            place=file,
            remedy="fetch the file again: it was cut short",
            code="header_truncated",
        )
    # if the first read contains the whole header, one request per shard is enough
    raw = first[8 : 8 + length] if 8 + length <= len(first) else first[8:] + read(len(first), 8 + length - len(first))
    return parse_header(file, raw, file_size)


def parse_header(file: str, raw: bytes, file_size: int) -> Header:
    """Parse the JSON of a header; ``raw`` is without its 8-byte length. Raises ``HeaderError``."""
    body = _load_json(file, raw)
    data_start = 8 + len(raw)
    metadata = _metadata(file, body.pop("__metadata__", None))
    if len(body) > MAX_TENSORS:
        raise HeaderError(f"{len(body)} tensors in one file", place=file, code="header_too_large")
    tensors = {name: _entry(file, name, value, data_start) for name, value in body.items()}
    _check_layout(file, tensors, data_start, file_size)
    return Header(file=file, size=data_start, tensors=tensors, metadata=metadata)


def _load_json(file: str, raw: bytes) -> dict[str, Any]:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            names: set[str] = set()
            twice = next(name for name, _ in pairs if name in names or names.add(name))  # type: ignore[func-returns-value]
            raise HeaderError(
                f"the key {twice[:120]!r} stands twice in the header", place=file, code="header_duplicate_key"
            )
        return result

    if not raw.lstrip(b" ")[:1] == b"{":
        raise HeaderError("the header is not a JSON object", place=file, code="header_not_json")
    try:
        body = json.loads(raw.decode("utf-8"), object_pairs_hook=unique)  # noqa: TID251 - each rule has its own code
    except HeaderError:
        raise
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError, ValueError) as error:
        raise HeaderError(f"the header is not JSON ({error})", place=file, code="header_not_json") from None
    if not isinstance(body, dict):
        raise HeaderError("the header is not a JSON object", place=file, code="header_not_json")
    return body


def _metadata(file: str, value: Any) -> dict[str, str]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise HeaderError("__metadata__ is not a map of strings", place=file, code="header_bad_entry")
    return value


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _entry(file: str, name: str, value: Any, data_start: int) -> TensorEntry:
    def bad(why: str) -> HeaderError:
        return HeaderError(f"tensor {name[:120]!r}: {why}", place=file, code="header_bad_entry")

    if not isinstance(value, dict) or set(value) != {"dtype", "shape", "data_offsets"}:
        raise bad("an entry has exactly dtype, shape and data_offsets")
    dtype, shape, offsets = value["dtype"], value["shape"], value["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise bad(f"unknown dtype {str(dtype)[:40]!r}")
    if not isinstance(shape, list) or len(shape) > MAX_RANK or not all(_is_count(size) for size in shape):
        raise bad("the shape is not a short list of sizes")
    if not isinstance(offsets, list) or len(offsets) != 2 or not all(_is_count(offset) for offset in offsets):
        raise bad("data_offsets are not two offsets")
    start, end = offsets
    bits = math.prod(shape) * DTYPE_BITS[dtype]
    if bits % 8 or end - start != bits // 8:
        raise bad(f"{dtype} {shape} needs {bits / 8:g} bytes and data_offsets span {end - start}")
    return TensorEntry(name, dtype, tuple(shape), file, data_start + start, end - start)


def _check_layout(file: str, tensors: dict[str, TensorEntry], data_start: int, file_size: int) -> None:
    """Raise ``HeaderError`` for an overlap, a hole, a tensor beyond the end, or bytes behind the last tensor."""
    position, before = data_start, "the header"
    # by size too: an empty tensor lies at the start of the next one and must not count as an overlap
    for entry in sorted(tensors.values(), key=lambda item: (item.start, item.nbytes)):
        if entry.start < position:
            message, code = f"tensors {before!r} and {entry.name!r} overlap", "header_overlap"
            raise HeaderError(message, place=file, code=code)
        if entry.start > position:
            message = f"{entry.start - position} bytes between {before!r} and {entry.name!r} belong to no tensor"
            raise HeaderError(message, place=file, code="header_hole")
        position, before = entry.start + entry.nbytes, entry.name
    if position > file_size:
        message = f"tensor {before!r} ends at byte {position} and the file has {file_size}"
        raise HeaderError(message, place=file, remedy="fetch the file again: it was cut short", code="data_truncated")
    if position < file_size:
        message = f"{file_size - position} bytes follow the last tensor"
        raise HeaderError(message, place=file, code="data_trailing")
