"""Read the sampled rows of a tensor and compare them with the base. The caller runs one task per tensor."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from harness.formats.codecs import (
    F32,
    FLOAT_DTYPES,
    FP8_TABLES,
    U8,
    block_max,
    decode_e4m3,
    decode_floats,
    encode_e2m1,
    encode_e4m3,
    unpack_nibbles,
)
from harness.formats.decode import ROTATIONS, rotated_name, shifted_name, undo_rotation
from harness.formats.errors import DegenerateScaleError
from harness.formats.evidence import Exact, Fit, Sums, fit
from harness.formats.header import TensorEntry
from harness.formats.hypotheses import Blind, decode_fp8_readings, decode_readings, look_blind
from harness.formats.modules import Module
from harness.inspector.decoding import decode_module
from harness.inspector.sampling import Budget, packed_rows, row_range, scale_columns, scale_of, strip_range
from harness.inspector.sources import SharedReads, Source

# Quantize the base again and compare codes: the only way to see a base that changed by a fraction of a percent.


Flags = NDArray[np.bool_]
# some three units in the last place of float32, for a divisor that another program rounded otherwise
TIE = 4e-7
E2M1_MAX = 6.0
MIN_BLOCK_SCALE = 2.0**-9


def as_exported(base: F32) -> tuple[F32, ...]:
    """Return the base as stored and, if it is stored wider (Wan2.2's is float32), rounded to BF16 as exporters load it.

    Args:
        base: [R, K] values as stored.
    """
    rounded = base.astype(ml_dtypes.bfloat16).astype(np.float32)
    return (base,) if np.array_equal(base, rounded, equal_nan=True) else (base, rounded)


def closest(candidates: Iterable[Exact]) -> Exact:
    """Return the recomputation that agrees best with the stored codes and scales."""
    return max(candidates, key=lambda exact: (min(exact.codes, exact.scales), exact.unrounded))


def exact_nvfp4(base: F32, codes: U8, scales: U8, global_scale: float, block: int = 16) -> Exact:
    """Compare stored NVFP4 codes with a fresh max calibration of ``base``.

    The recipe is ModelOpt's (``NVFP4QTensor.get_weights_scaling_factor``): block scale = E4M3(clamp(amax / (6 ws2),
    2**-9, 448)), 1 for an all-zero block; code = E2M1(w / (block scale * ws2)).

    Args:
        base: [R, K] values that were quantized.
        codes: [R, K] stored codes in natural order.
        scales: [R, K / block] stored E4M3 bytes in linear order.
        global_scale: the stored factor (not its reciprocal).
    """
    blocks = base.reshape(len(base), -1, block)
    amax = block_max(np.abs(blocks))
    block_codes = codes.reshape(blocks.shape)
    alive = amax > 0
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        target = (amax / np.float32(E2M1_MAX * global_scale)).astype(np.float32)
        lost = (decode_e4m3(scales) == 0) & (target >= MIN_BLOCK_SCALE)
        target[target == 0] = 1.0
        target = np.clip(np.nan_to_num(target, nan=0.0), MIN_BLOCK_SCALE, 448.0)
        fresh = encode_e4m3(target)
        stored = decode_e4m3(scales) * np.float32(global_scale)
        same_scales = _tolerant(fresh == scales, lambda factor: encode_e4m3(target * factor) == scales)
        scaled = blocks / stored[..., None]
        same_codes = _tolerant(
            _same(encode_e2m1(scaled), block_codes), lambda factor: _same(encode_e2m1(scaled * factor), block_codes)
        )
        with_unrounded = encode_e2m1(blocks / (target * np.float32(global_scale))[..., None])
    return Exact(
        codes=_share(same_codes[alive]),
        scales=_share(same_scales[alive]),
        near=_share((np.abs(fresh.astype(np.int16) - scales.astype(np.int16)) <= 1)[alive]),
        unrounded=_share(_same(with_unrounded, block_codes)[alive]),
        full_blocks=_share(block_max(block_codes & 7)[alive] == 7),
        blocks=int(alive.sum()),
        lost=int(lost.sum()),
    )


def exact_fp8(base: F32, stored: U8, scale: F32, *, search: bool = True) -> Exact:
    """Compare stored E4M3 bytes with ``base / scale``, divided in float32 and in bfloat16 (exporters use both).

    Args:
        base: [R, K]; stored: [R, K] bytes; scale: broadcastable to [R, 1].
        search: whether to look for the scale before it was rounded to BF16; not for one that is stored in 16 bits.
    """
    # exporters divide in float32 or in BF16, or multiply; any of them proves the base, so the best one counts
    in_f32 = encode_e4m3(base / scale)
    half = ml_dtypes.bfloat16
    narrow = base.astype(half)
    in_bf16 = encode_e4m3((narrow / scale.astype(half)).astype(np.float32))
    # comfy-kitchen multiplies by the reciprocal, rounded to the weight's dtype
    by_reciprocal = encode_e4m3((narrow * (np.float32(1) / scale).astype(half)).astype(np.float32))
    agree = max(_share(_equal_fp8(codes, stored)) for codes in (in_f32, in_bf16, by_reciprocal))
    unrounded = agree
    # a search costs 258 encodings, so it runs only if the scale can have been rounded and the codes say that it was
    if search and agree < UNEXPLAINED and np.array_equal(scale.astype(half).astype(np.float32), scale):
        unrounded = max(agree, _before_rounding(base, stored, scale))
    alive = base.size > 0
    near = 1.0 if agree >= UNEXPLAINED else _bracketing(base / scale, stored)
    return Exact(agree, 1.0, near, unrounded, 1.0, int(stored.size if alive else 0))


UNEXPLAINED = 0.999
"""Share of agreeing codes below which their rounding is looked into."""
SEARCHED_ROWS = 16


def _bracketing(values: F32, stored: U8) -> float:
    """Return the share of E4M3 codes that are one of the two neighbours of their value, or one step further at most.

    Args:
        values: [R, K] base over scale; stored: [R, K] bytes. Any way of rounding gives a neighbour; the further step is
            room for arithmetic in BF16, and is granted on the side of the value only.
    """
    fresh = encode_e4m3(values)
    table = FP8_TABLES["e4m3"]
    steps = _ordered(stored) - _ordered(fresh)
    side = np.sign(np.clip(values, -448.0, 448.0) - table[fresh])
    return _share(
        (steps == 0) | (steps == side) | (np.abs(steps) == 1) & (np.abs(values - table[fresh]) < SLACK * np.abs(values))
    )


SLACK = 2.0**-7
"""Relative room for division and scale in BF16."""


def _ordered(codes: U8) -> NDArray[np.int64]:
    """Return E4M3 bytes as integers that rise with their value: 0 and -0 are 0."""
    magnitude = (codes & 0x7F).astype(np.int64)
    return np.where(codes & 0x80, -magnitude, magnitude)


def _before_rounding(base: F32, stored: U8, scale: F32) -> float:
    """Return the largest share of codes that one scale within BF16's rounding (2**-8) of the stored one explains.

    Args:
        base: [R, K]; stored: [R, K] bytes; scale: [R, 1] or [1, 1], in steps of BF16. Rows with a scale each are
            searched one by one.
    """
    base, stored = base[:SEARCHED_ROWS], stored[:SEARCHED_ROWS]
    scale = scale[:SEARCHED_ROWS] if len(scale) > 1 else scale
    best, share = np.ones_like(scale), np.zeros(scale.shape)
    # coarse, then fine around the best: 64 steps of 2**-14 span BF16's rounding of 2**-8
    for step in (2.0**-14, 2.0**-18):
        centre = best
        for shift in np.arange(-64, 65) * step:
            factor = np.asarray(centre + shift, dtype=np.float32)
            equal = _equal_fp8(encode_e4m3(base / (scale * factor)), stored)
            agree = equal.mean(axis=1, keepdims=True) if len(scale) > 1 else equal.mean().reshape(1, 1)
            best, share = np.where(agree > share, factor, best), np.maximum(share, agree)
    return float(share.mean())


def _tolerant(same: Flags, retry: Callable[[np.float32], Flags]) -> Flags:
    """Also accept codes that a last-bit difference of the divisor gives.

    Exact ties are common in BF16 weights, and dialects that store a reciprocal, or multiply instead of dividing, round
    them the other way.
    """
    if same.all():
        return same
    return np.asarray(same | retry(np.float32(1 - TIE)) | retry(np.float32(1 + TIE)))


def _equal_fp8(left: U8, right: U8) -> Flags:
    table = FP8_TABLES["e4m3"]
    return np.asarray(table[left] == table[right])


def _same(left: U8, right: U8) -> Flags:
    """Compare E2M1 codes as values: 0 and -0 are the same number."""
    zero = ((left & 7) == 0) & ((right & 7) == 0)
    return np.asarray((left == right) | zero)


def _share(flags: Flags) -> float:
    return float(flags.mean()) if flags.size else 1.0


@dataclass(frozen=True, slots=True)
class Anchor:
    """The same tensor in the BF16 base."""

    source: Source
    entry: TensorEntry
    reads: SharedReads


@dataclass(frozen=True)
class Measured:
    """Measurements on the sampled rows of one quantized Linear."""

    expert: str
    module: Module
    rows: NDArray[np.int64]
    global_scale: float | None
    """As stored."""
    fit: Fit | None = None
    blind: Blind | None = None
    columns_fit: Fit | None = None
    """FP8 only: fit to the transposed base, if the weight is square and was read whole."""
    nan_values: int = 0
    """FP8 codes among the sampled rows that stand for NaN."""
    channel_scale: F32 | None = None
    largest: float = 0.0
    """Largest magnitude among the sampled 8-bit float codes, before any scale."""
    note: str = ""
    """Why decoding failed; empty if it succeeded or was not tried."""
    all_zero: bool = False
    """Every sampled code stands for zero."""
    bad_scale: str = ""
    """Why the Linear's scales cannot be scales, if decoding showed it."""
    holds: str = ""
    """Name of another Linear of the base whose rows the sampled rows are; empty if none was found."""


def measure(
    expert: str,
    source: Source,
    module: Module,
    budget: Budget,
    base: Anchor | None,
    other: Anchor | None,
    global_scale: float | None,
) -> Measured:
    """Measure the sampled rows of one quantized module.

    Args:
        base: the tensor it was quantized from; ``None``: only measurements that need no base.
        other: the same tensor of the OTHER expert's base, to find swapped files.
        global_scale: the stored scalar, which the caller reads together with all others.

    Raises:
        SourceError: bytes could not be fetched.
    """
    rows = budget.of(module.weight, module.shape[0])
    if module.format == "nvfp4":
        return _nvfp4(expert, source, module, rows, base, other, global_scale)
    if module.opaque:
        return Measured(expert, module, rows, global_scale)
    plain = module.kind in PLAIN_KINDS and module.zero_point is None and not module.rotation and not module.packing
    if module.format in ("fp8", "int8") and plain:
        return _fp8(expert, source, module, rows, base, other)
    if module.kind == "other" and not module.packing:
        return Measured(expert, module, rows, global_scale)  # the scale_shapes check names it
    return _decoded(expert, source, module, rows, base, other)


PLAIN_KINDS = ("scalar", "one", "channel", "channel_column", "none")
"""Scales of 8-bit weights that are one number per tensor or per row."""


def _decoded(
    expert: str, source: Source, module: Module, rows: NDArray[np.int64], base: Anchor | None, other: Anchor | None
) -> Measured:
    """Measure a format that has one decoding rule, or one per scale layout and nibble order."""
    try:
        decoded = decode_module(source, module, rows)
    except DegenerateScaleError as error:
        return Measured(expert, module, rows, None, bad_scale=str(error))
    except (NotImplementedError, KeyError, ValueError, IndexError) as error:
        return Measured(expert, module, rows, None, note=f"{type(error).__name__}: {error}")
    nans = int(sum(np.isnan(values).sum() for values in decoded.values()) // max(len(decoded), 1))
    zero = bool(decoded) and not any(values.any() for values in decoded.values())
    result = Measured(expert, module, rows, None, nan_values=nans, all_zero=zero)
    # without rows of the base no gain and no cosine exist; the count of NaN is still evidence
    anchor_rows = _wanted_rows(source, base, module, rows)
    if anchor_rows is None or not decoded:
        return result
    decoded |= _shifted(source, module, rows, decoded, anchor_rows)
    best_fit = fit(decoded, anchor_rows, 1.0)
    other_rows = _wanted_rows(source, other, module, rows)
    if other_rows is not None:
        best_fit = replace(best_fit, other=Sums.of(decoded[best_fit.best], other_rows).score().cosine)
    return replace(result, fit=best_fit)


SHIFTED_PACKINGS = ("gptq", "awq")
"""Packings that always have zero points."""
SHIFT_LEAD = 0.8
"""Share of the declared reading's relative error that shifted zero points must stay below."""


def _shifted(
    source: Source, module: Module, rows: NDArray[np.int64], decoded: Mapping[str, F32], base: F32
) -> dict[str, F32]:
    """Return the reading of asymmetric codes with other zero points, if they fit the base better than the stored ones.

    GPTQ's first version stores each zero point less 1, its second as it is. A zero point may also be signed where its
    codes are not, which is half of the codes' range.
    """
    if module.packing not in SHIFTED_PACKINGS and module.zero_point is None:
        return {}
    if set(decoded) != {module.code} or module.dialect == "quanto":
        return {}  # quanto's shift may be in units of the weight
    bits = 4 if module.format == "int4" else 8
    stored = Sums.of(decoded[module.code], base).score().relative_error
    errors: dict[int, tuple[float, F32]] = {}
    for shift in (-1, 1, -(1 << bits >> 1), 1 << bits >> 1):
        moved = replace(module, state={**module.state, "shift": shift})
        values = decode_module(source, moved, rows)[module.code]
        errors[shift] = (Sums.of(values, base).score().relative_error, values)
    best = min(errors, key=lambda shift: errors[shift][0])
    # `not <`: an error that is NaN proves no shift either
    if not errors[best][0] < SHIFT_LEAD * stored:
        return {}
    return {shifted_name(module.code, best): errors[best][1]}


def _unrotated(values: F32, base: F32) -> dict[str, F32]:
    """Return the readings of INT8 rows [R, K] with a rotation undone, if the rows do not fit the base as they are."""
    if Sums.of(values, base).score().cosine >= UNROTATED:
        return {}
    sizes = [size for size in ROTATIONS if values.shape[1] % size == 0]
    return {rotated_name(size): undo_rotation(values, size) for size in sizes}


UNROTATED = 0.9
"""Cosine from which INT8 rows are the base's own; rotated ones stay below .1."""


def _base_rows(anchor: Anchor | None, module: Module, rows: NDArray[np.int64]) -> F32 | None:
    if anchor is None or anchor.entry.shape != module.shape or anchor.entry.dtype not in FLOAT_DTYPES:
        return None
    start, length = row_range(anchor.entry, rows)
    data = anchor.reads.read(anchor.source, anchor.entry.file, start, length)
    return decode_floats(data, anchor.entry.dtype).reshape(len(rows), -1)


def _wanted_rows(source: Source, anchor: Anchor | None, module: Module, rows: NDArray[np.int64]) -> F32 | None:
    """Return the rows that were quantized: the base's, after the smoothing whose scale the Linear stores."""
    values = _base_rows(anchor, module, rows)
    return None if values is None else _undo_recipe(source, module, rows, values)


def _nvfp4(
    expert: str,
    source: Source,
    module: Module,
    rows: NDArray[np.int64],
    base: Anchor | None,
    other: Anchor | None,
    global_scale: float | None,
) -> Measured:
    scale = module.scale
    if scale is None or len(scale.shape) != 2 or scale.dtype not in ("F8_E4M3", "U8", "I8") or not scale.nbytes:
        return Measured(expert, module, rows, global_scale)
    strip, first = strip_range(scale, rows)
    weight_range = row_range(module.weight, rows)
    (weight,) = source.read_ranges(module.weight.file, [weight_range])
    (strip_bytes,) = source.read_ranges(scale.file, [strip])
    stored = packed_rows(module, rows, weight, strip_bytes, first)
    columns = scale_columns(module)
    block = -(-module.shape[1] // columns)
    if not stored.layouts or block != module.values_per_scale or module.shape[1] % block:  # scale_shapes names it
        return Measured(expert, module, rows, global_scale)
    zero = bool(stored.packed.size) and not (stored.packed & 0x77).any()
    result = Measured(expert, module, rows, global_scale, blind=look_blind(stored, block), all_zero=zero)
    anchor_rows = _base_rows(base, module, rows)
    if anchor_rows is None:
        return result
    decoded = decode_readings(stored, block)
    factor = (
        1.0 if global_scale is None else (1.0 / global_scale if module.reciprocal and global_scale else global_scale)
    )
    target = _undo_recipe(source, module, rows, anchor_rows)
    best_fit = fit(decoded, target, factor)
    # AWQ and SVDQuant change the matrix before they quantize it, so a fresh max calibration would differ rightly
    if module.recipe == "" and np.isfinite(factor) and factor > 0:
        order, layout = best_fit.best.split("/")
        codes = unpack_nibbles(stored.packed, "low_first" if order == "low_first" else "high_first")
        scales = stored.scales(layout)
        best_fit = replace(
            best_fit, exact=closest(exact_nvfp4(values, codes, scales, factor, block) for values in as_exported(target))
        )
    other_rows = _base_rows(other, module, rows)
    if other_rows is not None:
        against = Sums.of(decoded[best_fit.best], _undo_recipe(source, module, rows, other_rows)).score()
        best_fit = replace(best_fit, other=against.cosine)
    return replace(result, fit=best_fit)


def _undo_recipe(source: Source, module: Module, rows: NDArray[np.int64], base: F32) -> F32:
    """Return the matrix that was quantized: AWQ and SVDQuant quantize W / s - B A, with y = Q(x s) + (x s) A^T B^T.

    Factors whose shapes do not fit, or a smoothing scale with zeros, leave the base unchanged.
    """
    values = base
    if module.pre_quant_scale is not None:
        entry = module.pre_quant_scale
        smooth = decode_floats(source.read(entry.file, entry.start, entry.nbytes), entry.dtype).reshape(1, -1)
        if smooth.shape[1] != base.shape[1] or not np.all(smooth):
            return base
        values = values / smooth
    if module.lora_a is not None and module.lora_b is not None:
        a, b = module.lora_a, module.lora_b
        low = decode_floats(source.read(a.file, a.start, a.nbytes), a.dtype).reshape(a.shape)
        start, length = row_range(b, rows)
        high = decode_floats(source.read(b.file, start, length), b.dtype).reshape(len(rows), -1)
        if low.ndim == 2 and high.shape[1] == low.shape[0] and low.shape[1] == values.shape[1]:
            values = values - high @ low
    return values


def _fp8(
    expert: str, source: Source, module: Module, rows: NDArray[np.int64], base: Anchor | None, other: Anchor | None
) -> Measured:
    start, length = row_range(module.weight, rows)
    stored: U8 = np.frombuffer(source.read(module.weight.file, start, length), dtype=np.uint8).reshape(len(rows), -1)
    scales = scale_of(source, module)
    channel = scales[rows] if len(scales) == module.shape[0] else scales[:1]
    single = float(scales[0, 0]) if scales.size == 1 else None
    values = FP8_TABLES[module.code or "e4m3"][stored]
    finite_values = np.abs(values[np.isfinite(values)])
    nans = ~np.isfinite(values) if module.format == "fp8" else np.zeros(0, bool)
    result = Measured(
        expert,
        module,
        rows,
        single,
        channel_scale=scales,
        nan_values=int(nans.sum()),
        largest=float(finite_values.max()) if finite_values.size else 0.0,
        all_zero=bool(values.size) and not values.any(),
    )
    anchor_rows = _wanted_rows(source, base, module, rows)
    if anchor_rows is None:
        return result
    finite = np.where(np.isfinite(channel) & (channel != 0), channel, np.float32(1))
    # the rows are decoded with their share of the geometric mean, which is the one factor of the fit
    mean = float(np.exp(np.log(np.abs(finite)).mean()))
    decoded = decode_fp8_readings(stored, (finite / np.float32(mean)).astype(np.float32))
    if module.format == "int8":
        decoded |= _unrotated(decoded["int8"], anchor_rows)
    best_fit = fit(decoded, anchor_rows, mean if np.isfinite(channel).all() and (channel != 0).all() else float("nan"))
    if best_fit.best == "e4m3" and module.weight.dtype == "F8_E4M3" and module.scale is not None:
        wide = module.scale.dtype not in ("BF16", "F16")
        recomputed = (exact_fp8(values, stored, finite, search=wide) for values in as_exported(anchor_rows))
        best_fit = replace(best_fit, exact=closest(recomputed))
    other_rows = _wanted_rows(source, other, module, rows)
    if other_rows is not None:
        best_fit = replace(best_fit, other=Sums.of(decoded[best_fit.best], other_rows).score().cosine)
    turned = None
    # a transposed square weight has the right shape: only the values can show it, and only if all rows were read
    if module.shape[0] == module.shape[1] == len(rows):
        turned = fit({"transposed": decoded[module.code or "e4m3"]}, np.ascontiguousarray(anchor_rows.T), 1.0)
    return replace(result, fit=best_fit, columns_fit=turned)
