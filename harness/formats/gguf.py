"""GGUF: blocks of ggml, decoded by the ``gguf`` library."""

from __future__ import annotations

from typing import Final

from harness.formats.codecs import F32
from harness.formats.decode import decode_gguf
from harness.formats.spec import Format, Gate, StoredLinear


def readings(stored: StoredLinear) -> dict[str, F32]:
    """Return the values [rows, K] under the stored type. Raises ``NotImplementedError`` if the library lacks it."""
    return {stored.code: decode_gguf(stored.row_bytes(), stored.code, stored.shape[1])}


GGUF: Final = Format(
    name="gguf",
    title="GGUF",
    stored="ggml blocks of 32 or 256 values: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K to Q6_K, IQ4",
    proof="base",
    gate=Gate(0.97, 0.90, 0.03, 0.05),
    noise=0.15,
    source="gguf.quants.dequantize",
    readings=readings,
)
