"""Read rows of one Linear and decode them under every reading of its format, scales included."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from harness.formats.codecs import F32
from harness.formats.header import TensorEntry
from harness.formats.modules import Module
from harness.formats.spec import StoredLinear
from harness.inspector.sources import Source


def stored_rows(source: Source, module: Module, rows: NDArray[np.int64]) -> StoredLinear:
    """Return consecutive rows of one Linear as its format takes them. No byte is read yet."""

    def read(entry: TensorEntry, start: int, length: int) -> bytes:
        return source.read(entry.file, entry.start + start, length)

    def ranges(entry: TensorEntry, spans: Sequence[tuple[int, int]]) -> list[bytes]:
        return source.read_ranges(entry.file, [(entry.start + start, length) for start, length in spans])

    return StoredLinear(
        weight=module.weight,
        parts=module.parts,
        shape=module.shape,
        rows=rows,
        read=read,
        scale=module.scale,
        kind=module.kind,
        block=module.block,
        code=module.code,
        dialect=module.dialect,
        state=module.state,
        rotation=module.rotation,
        packing=module.packing,
        ranges=ranges,
    )


def decode_module(source: Source, module: Module, rows: NDArray[np.int64]) -> dict[str, F32]:
    """Decode rows of one Linear. Return reading to rows [R, K].

    Args:
        source: of the checkpoint.
        module: a quantized Linear whose format is decoded.
        rows: consecutive row numbers.

    Raises:
        ValueError, KeyError, IndexError: tensors do not fit together.
        NotImplementedError: the format or this code of it is not decoded.
        SourceError: bytes could not be fetched.
    """
    return module.spec.values(stored_rows(source, module, rows))


def declared_rule(module: Module) -> str:
    """Return the reading that the dialect defines, such as ``low_first/any``; ``any``: it leaves that part open."""
    rule = module.spec.declared_reading
    return module.code if rule is None else rule(module.dialect, module.code)
