"""NF4 and FP4 of bitsandbytes: two codes of a table per byte over the flat tensor, an absolute maximum per block."""

from __future__ import annotations

from typing import Final

import numpy as np

from harness.formats.codecs import F32
from harness.formats.decode import NF4_CODES, decode_nf4
from harness.formats.errors import DegenerateScaleError
from harness.formats.spec import Format, Gate, StoredLinear

FP4_CODES: Final = (
    0.0, 0.005208333333333333, 0.6666666666666666, 1.0, 0.3333333333333333, 0.5, 0.16666666666666666, 0.25,
    -0.0, -0.005208333333333333, -0.6666666666666666, -1.0, -0.3333333333333333, -0.5, -0.16666666666666666, -0.25,
)  # fmt: skip
"""The 16 values of bitsandbytes' FP4 (``functional.get_4bit_type``)."""


def readings(stored: StoredLinear) -> dict[str, F32]:
    """Return the values [rows, K] under the declared table.

    Raises:
        ValueError: the rows do not begin with a block.
        DegenerateScaleError: a scale is negative.
    """
    size, columns = int(stored.state["blocksize"]), stored.shape[1]
    if stored.parts["weight.absmax"].elements != -(-stored.shape[0] * columns // size):
        raise ValueError("absmax has another number of values than the block size of its quant_state gives")
    # blocks run over the flat tensor, across row ends: rows can be cut out only if they begin with a block and a byte
    first, count = int(stored.rows[0]) * columns, len(stored.rows) * columns
    if first % size or first % 2 or stored.weight.nbytes * 2 < first + count:
        raise ValueError("the rows that were chosen do not begin with a block")
    packed = np.frombuffer(stored.read(stored.weight, first // 2, -(-count // 2)), np.uint8)
    blocks = slice(first // size, -(-(first + count) // size))
    table = NF4_CODES if stored.code == "nf4" else FP4_CODES
    scales = _absmax(stored)
    if (negative := int((scales < 0).sum())) > 0:
        raise DegenerateScaleError(
            f"{negative} of {scales.size} scales (absmax) are negative, and each is the largest magnitude of its block"
            + (": the offset of the second quantization (nested_offset) is lost" if "nested_blocksize" in stored.state
               else "")
        )  # fmt: skip
    return {stored.code: decode_nf4(packed, scales[blocks], table, size, columns)}


def _absmax(stored: StoredLinear) -> F32:
    """Return scales per block. With double quantization they are stored as 8-bit codes of a table, in own blocks."""
    entry = stored.parts["weight.absmax"]
    if entry.dtype != "U8":
        return stored.floats(entry)
    inner = stored.floats(stored.parts["weight.nested_absmax"])
    table = stored.floats(stored.parts["weight.nested_quant_map"])
    size, offset = int(stored.state["nested_blocksize"]), np.float32(stored.state.get("nested_offset", 0.0))
    codes = table[np.frombuffer(stored.whole(entry), np.uint8)]
    return np.asarray(codes * np.repeat(inner, size)[: codes.size] + offset, dtype=np.float32)


NF4: Final = Format(
    name="nf4",
    title="NF4 (bitsandbytes)",
    stored="U8, two codes of a table per byte, flat; absmax per 64 values, itself quantized or not",
    proof="base",
    gate=Gate(0.985, 0.90, 0.03, 0.05),
    noise=0.11,
    source="bitsandbytes functional.dequantize_4bit",
    readings=readings,
    algorithms=r"^BNB_(NF4|FP4)$",
)
