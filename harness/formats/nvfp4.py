"""NVFP4: two E2M1 codes per byte, an E4M3 scale per 16 values, a float32 scale per tensor.

``W = e2m1 * weight_scale * weight_scale_2``. The bytes do not show which nibble comes first and how the block scales
are laid out, so the inspector compares every reading with the base (``harness.inspector.measure``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from harness.formats.codecs import (
    E2M1_VALUES,
    F32,
    U8,
    NibbleOrder,
    decode_e4m3,
    dequantize_nvfp4,
    encode_e2m1,
    encode_e4m3,
    pack_nibbles,
    swizzle,
    unpack_nibbles,
    unswizzle,
)
from harness.formats.damage import gain, nibble_swap, scale_roll
from harness.formats.spec import Format, Gate, Scale, StoredLinear

BLOCK: Final = 16
E2M1_MAX: Final = 6.0
E4M3_MAX: Final = 448.0
E4M3_TINY: Final = 2.0**-9
"""Smallest positive E4M3 number: the lower bound of a block scale, so that none is rounded to zero."""


def quantize(values: F32, outer: float) -> tuple[U8, U8]:
    """Return E2M1 codes [R, K] and E4M3 block scales [R, K / 16] by ModelOpt's rule (``NVFP4QTensor``).

    Block scale: ``amax / (6 * outer)``, within 2**-9 and 448; 1 for a block of zeros.

    Args:
        values: [R, K], K a multiple of 16.
        outer: scale of the tensor, positive.
    """
    factor = np.float32(outer)
    blocks = values.reshape(len(values), -1, BLOCK)
    amax = np.abs(blocks).max(axis=-1)
    raw = np.clip(amax / (np.float32(E2M1_MAX) * factor), E4M3_TINY, E4M3_MAX).astype(np.float32)
    scales = encode_e4m3(np.where(amax == 0, np.float32(1.0), raw).astype(np.float32))
    steps = decode_e4m3(scales) * factor
    return encode_e2m1((blocks / steps[..., None]).astype(np.float32)).reshape(values.shape), scales


def encode(values: F32) -> dict[str, NDArray[Any]]:
    """Return the tensors of a Linear [N, K] as ModelOpt writes them: low nibble first, linear block scales."""
    outer = np.float32(np.abs(values).max() / (E2M1_MAX * E4M3_MAX) or 1.0)
    codes, scales = quantize(values, float(outer))
    return {
        "weight": pack_nibbles(codes),
        "weight_scale": scales.view(ml_dtypes.float8_e4m3fn),
        "weight_scale_2": np.array(outer, np.float32),
    }


def round_activations(signal: F32, scale: float | None) -> F32:
    """Return activations [M, K] rounded to NVFP4 with the stored input scale.

    They are returned unchanged if there is no positive scale or K is no multiple of 16.
    """
    if scale is None or not scale > 0 or signal.shape[1] % BLOCK:
        return signal
    codes, scales = quantize(signal, scale)
    steps = decode_e4m3(scales) * np.float32(scale)
    values = E2M1_VALUES[codes].reshape(len(signal), -1, BLOCK) * steps[..., None]
    return np.asarray(values.reshape(signal.shape), np.float32)


def misreadings(stored: StoredLinear, options: Mapping[str, str]) -> Iterator[tuple[str, F32]]:
    """Yield the declared values, then those under exchanged nibbles and under each wrong layout of block scales.

    Nothing is yielded if a scale is missing.
    """
    if stored.scale is None or "weight_scale_2" not in stored.parts:
        return
    packed = stored.codes()
    scales = np.frombuffer(stored.whole(stored.scale), np.uint8).reshape(stored.scale.shape)
    rows, blocks = packed.shape[0], packed.shape[1] * 2 // BLOCK
    straight = unswizzle(scales, rows, blocks) if options.get("scale_layout") == "swizzled" else scales
    straight = straight[:rows, :blocks]
    proven_order: NibbleOrder = "high_first" if options.get("nibble_order") == "high_first" else "low_first"
    wrong: NibbleOrder = "low_first" if proven_order == "high_first" else "high_first"
    codes, swapped = unpack_nibbles(packed, proven_order), unpack_nibbles(packed, wrong)
    # each layout below is a loader fault of its own: swizzled twice, not unswizzled, rows or columns shifted by one
    layouts: dict[str, U8] = {"": straight}
    tiled = swizzle(straight)
    layouts["scale_swizzled"] = tiled.reshape(-1)[: rows * blocks].reshape(rows, blocks)
    if tiled.shape == straight.shape:
        layouts["scale_unswizzled"] = unswizzle(straight, rows, blocks)
    for axis, word in ((0, "rows"), (1, "columns")):
        for by in (1, -1):
            layouts[f"scale_rolled_{word}_{by:+d}"] = np.roll(straight, by, axis=axis)
    outer = float(stored.floats(stored.parts["weight_scale_2"])[0])
    for name, layout in layouts.items():
        decoded = decode_e4m3(layout)
        yield name or "declared", dequantize_nvfp4(codes, decoded, outer)
        if name in ("", "scale_swizzled"):
            yield f"nibble_swapped{'+' + name if name else ''}", dequantize_nvfp4(swapped, decoded, outer)
    yield "scale_missing", dequantize_nvfp4(codes, np.ones_like(decode_e4m3(straight)), outer)
    yield "scale_inverted", dequantize_nvfp4(codes, decode_e4m3(straight), 1.0 / outer if outer else 0.0)


NVFP4: Final = Format(
    name="nvfp4",
    title="NVFP4",
    stored="U8, two E2M1 codes per byte; E4M3 scale per 16 values; F32 second level",
    proof="base",
    gate=Gate(0.990, 0.90, 0.03, 0.02),
    noise=0.095,
    source="nvidia-modelopt 0.47 NVFP4QTensor; OCP MX v1.0 5.3.3 (E2M1)",
    # plain FP4 is ModelOpt's; that of bitsandbytes is called bnb_fp4
    algorithms=r"^(?!.*MXFP).*NVFP4|^FP4$",
    group_bits=4,
    values_per_byte=2,
    two_level=True,
    block=BLOCK,
    scale_dtypes=("F8_E4M3",),
    modelopt=True,
    weight_dtypes=("U8",),
    scales=(
        Scale("weight_scale", absent="scale_missing"),
        Scale("weight_scale_2", absent="global_scale_missing"),
        Scale("input_scale", absent="input_scale_missing", required=False),
    ),
    loader_options=frozenset({"nibble_order", "scale_layout"}),
    encode=encode,
    activations=round_activations,
    misreadings=misreadings,
    faults={"nibble_swap": nibble_swap, "scale_roll": scale_roll, "gain": gain},
    linear="harness.engine.quantized.nvfp4:Nvfp4Linear",
)
