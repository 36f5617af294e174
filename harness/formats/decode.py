"""Decode rows of the formats with a single decoding rule: microscaling, blocks of FP8, INT8, NF4 and GGUF. numpy only.

NVFP4, and FP8 per tensor or channel, have several candidate readings; see ``harness.formats.hypotheses``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from harness.formats.codecs import E2M1_VALUES, F32, FP8_TABLES, U8, NibbleOrder, unpack_nibbles

MX_BLOCK = 32
E8M0_BIAS = 127
E8M0_NAN = 255
NF4_CODES: tuple[float, ...] = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
"""The 16 values of NF4 (Dettmers et al. 2023, appendix E); a file carries them as ``quant_map``."""


def decode_e8m0(data: U8) -> F32:
    """Return the powers of two of E8M0 bytes (OCP MX v1.0, 5.4.1: bias 127, 255 is NaN), any shape."""
    powers = np.ldexp(1.0, np.arange(256) - E8M0_BIAS)
    powers[E8M0_NAN] = np.nan
    return np.asarray(powers[data], dtype=np.float32)


def expand(scales: F32, columns: int, block: int) -> F32:
    """Repeat scales [R, C] over their ``block`` values and cut the result to [R, columns]."""
    return np.repeat(scales, block, axis=1)[:, :columns]


def decode_mx8(codes: U8, exponents: U8, table: str) -> F32:
    """Decode MXFP8 rows: codes [R, K] of ``e4m3`` or ``e5m2``, exponents [R, K / 32] -> float32 [R, K]."""
    return np.asarray(FP8_TABLES[table][codes] * expand(decode_e8m0(exponents), codes.shape[1], MX_BLOCK))


def decode_mx4(packed: U8, exponents: U8, order: NibbleOrder) -> F32:
    """Decode MXFP4 rows: packed [R, K / 2], exponents [R, K / 32] -> float32 [R, K]."""
    codes = unpack_nibbles(packed, order)
    return np.asarray(E2M1_VALUES[codes] * expand(decode_e8m0(exponents), codes.shape[1], MX_BLOCK))


def decode_blocks(codes: U8, table: str, scales: F32, rows: NDArray[np.int64], block: tuple[int, int]) -> F32:
    """Decode 8-bit rows whose scale tensor has one value per block of rows x columns.

    Args:
        codes: [R, K] bytes of the rows ``rows``.
        table: key of ``FP8_TABLES``.
        scales: the whole scale tensor [ceil(N / block rows), ceil(K / block columns)].
        rows: row numbers [R] in the weight.
        block: rows and columns that share a scale.

    Returns:
        float32 [R, K].
    """
    row_scales = scales[np.minimum(rows // block[0], len(scales) - 1)]
    return np.asarray(FP8_TABLES[table][codes] * expand(row_scales, codes.shape[1], block[1]))


def decode_nf4(packed: U8, absmax: F32, table: Sequence[float], blocksize: int, columns: int) -> F32:
    """Decode rows of a flat 4-bit tensor of bitsandbytes: the first code of a byte is in its HIGH nibble.

    Args:
        packed: flat bytes of whole rows, starting at a block's first byte.
        absmax: one value per ``blocksize`` codes.
        table: the 16 values of the codes.
        blocksize: codes that share a value of ``absmax``.
        columns: K.

    Returns:
        float32 [R, K].
    """
    codes = np.asarray(table, np.float32)[unpack_nibbles(packed.reshape(1, -1), "high_first")].reshape(-1)
    scale = np.repeat(absmax, blocksize)[: codes.size]
    return np.asarray((codes * scale).reshape(-1, columns), dtype=np.float32)


ROTATIONS = (256, 64, 16)
"""Columns per group of the rotations that are tried where no marker declares one; 256 is ComfyUI's own."""


def hadamard(size: int) -> F32:
    """Return the regular Hadamard matrix [size, size] of ConvRot, scaled to be orthogonal: its own inverse.

    A Kronecker power of one 4 x 4 matrix whose rows have three equal signs (comfy-kitchen ``int8_utils``).

    Raises:
        ValueError: ``size`` is no power of 4.
    """
    if not is_rotation(size):
        raise ValueError(f"a rotation of {size} columns: the size must be a power of 4")
    seed = np.array([[1, 1, 1, -1], [1, 1, -1, 1], [1, -1, 1, 1], [-1, 1, 1, 1]], dtype=np.float32)
    matrix = seed
    while len(matrix) < size:
        matrix = np.kron(matrix, seed)
    return np.asarray(matrix / np.float32(np.sqrt(size)), dtype=np.float32)


def is_rotation(size: int) -> bool:
    """Return whether a regular Hadamard matrix of this size exists: a power of 4, from 4 to 65536."""
    return 4 <= size <= 1 << 16 and size & (size - 1) == 0 and size.bit_length() % 2 == 1


def undo_rotation(values: F32, size: int) -> F32:
    """Return rows [R, K] without the rotation that mixes every ``size`` columns. ``size`` divides K."""
    groups = values.reshape(len(values), -1, size)
    return np.asarray((groups @ hadamard(size)).reshape(values.shape), dtype=np.float32)


_ROTATED = "int8_rotated_"


def rotated_name(size: int) -> str:
    """Return the name of the reading with a rotation of ``size`` columns: ``int8_rotated_256``."""
    return f"{_ROTATED}{size}"


def rotation_of(reading: str) -> int:
    """Return the columns per group of a reading's rotation, the inverse of `rotated_name`; 0 if it is not rotated."""
    return int(reading.removeprefix(_ROTATED)) if reading.startswith(_ROTATED) else 0


_SHIFT = "_zero_"


def shifted_name(code: str, shift: int) -> str:
    """Return the name of the reading whose zero points are moved by ``shift`` codes: ``int4_zero_+1``."""
    return f"{code}{_SHIFT}{shift:+d}"


def shift_of(reading: str) -> int:
    """Return the codes by which a reading moves the zero points, the inverse of `shifted_name`; 0 if by none."""
    _, mark, shift = reading.partition(_SHIFT)
    return int(shift) if mark else 0


GGUF_PREFIX = "GGUF_"


def decode_gguf(data: bytes, kind: str, columns: int) -> F32:
    """Decode rows of a GGUF tensor with ``gguf.quants``.

    Args:
        data: bytes of whole rows.
        kind: ggml's name of the type, ``Q4_K``.
        columns: K.

    Raises:
        NotImplementedError: the library does not decode this type.
    """
    from gguf import GGMLQuantizationType
    from gguf.quants import dequantize

    raw = np.frombuffer(data, dtype=np.uint8)
    block, size = gguf_sizes(kind)
    return np.asarray(dequantize(raw.reshape(-1, columns // block * size), GGMLQuantizationType[kind]), np.float32)


def gguf_sizes(kind: str) -> tuple[int, int]:
    """Return values and bytes per block of a ggml type. Raises ``KeyError`` for a type that the library lacks.

    For example, ``Q4_0`` gives ``(32, 18)``.
    """
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    block, size = GGML_QUANT_SIZES[GGMLQuantizationType[kind]]
    return int(block), int(size)
