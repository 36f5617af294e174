"""Tensors that were not quantized must equal the base's: a few bytes of each, or all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.checkpoint.header import DTYPE_BITS, TensorEntry
from harness.checkpoint.sources import Range, Source
from harness.formats.codecs import F32, FLOAT_DTYPES, decode_floats


@dataclass(frozen=True, slots=True)
class Compared:
    """One excluded tensor held against the base."""

    tensor: str
    equal: bool
    halves_swapped: bool
    """The first and the second half of the first real axis stand exchanged."""
    elements: int
    """Elements compared."""
    whole: bool
    cosine: float
    relative_error: float
    other_equal: bool | None = None
    """Whether it equals the OTHER expert's base instead."""


@dataclass(frozen=True, slots=True)
class Sane:
    """Values of an unquantized tensor that has no base to be compared with."""

    not_finite: int
    all_zero: bool
    elements: int
    """Elements that were read."""


def look_alone(values: F32) -> Sane:
    """Count what no trained tensor has; ``values`` is flat."""
    return Sane(int((~np.isfinite(values)).sum()), bool(values.size and not values.any()), int(values.size))


def windows(entry: TensorEntry, limit: int) -> list[tuple[int, int]]:
    """Element windows ``(first, count)`` to compare: everything, or the beginning and what follows the half."""
    count = max(limit, 1)
    if entry.elements <= 2 * count:
        return [(0, entry.elements)]
    return [(0, count), (entry.elements // 2, count)]


def ranges(entry: TensorEntry, spans: Sequence[tuple[int, int]]) -> list[Range]:
    """File ranges of element windows."""
    width = DTYPE_BITS[entry.dtype] // 8
    return [(entry.start + first * width, count * width) for first, count in spans]


def halves_axis(shape: tuple[int, ...]) -> bool:
    """Whether the flat halves of a tensor are halves of its first real axis, so that a swap has a meaning."""
    leading = next((size for size in shape if size > 1), 1)
    return leading % 2 == 0


def compare(entry: TensorEntry, mine: F32, base: F32, whole: bool, other: F32 | None = None) -> Compared:
    """Compare values after rounding the base to the stored dtype (an export may narrow, it may not change)."""
    dtype = FLOAT_DTYPES[entry.dtype]
    rounded = base.astype(dtype).astype(np.float32)
    equal = bool(np.array_equal(mine, rounded, equal_nan=True))
    swapped = False
    if not equal and halves_axis(entry.shape) and mine.size % 2 == 0:
        half = mine.size // 2
        turned = np.concatenate([rounded[half:], rounded[:half]])
        swapped = bool(np.array_equal(mine, turned, equal_nan=True))
    cosine, error = (1.0, 0.0) if equal else closeness(mine, rounded)
    other_equal = None
    if other is not None:
        other_equal = bool(np.array_equal(mine, other.astype(dtype).astype(np.float32), equal_nan=True))
    return Compared(
        entry.name,
        equal,
        swapped,
        int(mine.size),
        whole,
        cosine,
        error,
        other_equal,
    )


def closeness(mine: F32, reference: F32) -> tuple[float, float]:
    """Cosine with ``reference``, and the relative error against it.

    Sums by ``einsum`` and not by BLAS, whose threads would fight those that read.
    """
    one, two = mine.astype(np.float64), reference.astype(np.float64)
    own, norm, gap = (float(np.sqrt(np.einsum("i,i->", vector, vector))) for vector in (one, two, one - two))
    dot = float(np.einsum("i,i->", one, two))
    cosine = dot / (norm * own) if norm and own else float(norm == own)
    return cosine, gap / norm if norm else (0.0 if gap == 0 else float("inf"))


def read_windows(source: Source, entries: Sequence[TensorEntry], limit: int) -> list[F32]:
    """The windows of several tensors, joined per tensor; near ones in one request."""
    by_file: dict[str, list[int]] = {}
    for index, entry in enumerate(entries):
        by_file.setdefault(entry.file, []).append(index)
    values: list[F32] = [np.zeros(0, np.float32)] * len(entries)
    for file, members in by_file.items():
        spans = [ranges(entries[index], windows(entries[index], limit)) for index in members]
        flat = [item for span in spans for item in span]
        data = iter(source.read_ranges(file, flat))
        for index, span in zip(members, spans, strict=True):
            values[index] = decode_floats(b"".join(next(data) for _ in span), entries[index].dtype)
    return values
