"""Group tensors into Linears, and decide the format, the dialect and the scales of each Linear."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from harness.formats.config import Declaration
from harness.formats.decode import GGUF_PREFIX, MX_BLOCK, is_rotation, rotated_name
from harness.formats.header import TensorEntry
from harness.formats.other_weights import FACTORS
from harness.formats.recognised import undecoded_linears
from harness.formats.registry import known_formats, recognised
from harness.formats.scaled import zero_point_of
from harness.formats.spec import Format
from harness.records.inspection import StoredFormat

Dialect = Literal[
    "modelopt", "compressed-tensors", "comfy", "lightx2v", "bitsandbytes", "torchao", "quanto", "deepseek", "gguf",
    "modelslim", "nunchaku", "gptq", "awq", "fbgemm", "quark", "plain",
]  # fmt: skip
METHODS: dict[str, Dialect] = {
    "compressed-tensors": "compressed-tensors",
    "fbgemm_fp8": "fbgemm",
    "quark": "quark",
}
"""Declared ``quant_method`` to the dialect of a scale that carries ModelOpt's name."""
FLOAT_FORMATS: dict[str, StoredFormat] = {"BF16": "bf16", "F16": "fp16", "F32": "fp32", "F64": "fp32"}
WEIGHT_SUFFIXES = (".weight", ".weight_packed", ".qweight")
SCALE_SUFFIXES = (
    ".weight_scale", ".weight_scale_2", ".input_scale", ".weight_global_scale", ".input_global_scale",
    ".weight_scale_inv", ".pre_quant_scale", ".svdquant_lora_a", ".svdquant_lora_b", ".comfy_quant",
    ".weight_scale_inverse", ".weight_shape", ".scale_weight", ".scale_input", ".weight_zero_point", ".SCB",
    ".weight_format", ".input_absmax", ".alpha", ".qzeros", ".scales", ".g_idx", ".wscales", ".smooth_factor",
    ".weight_act_pre_scale", ".weight_act_scale", ".weight_act_zero_point", ".output_scale",
    ".proj_down", ".proj_up", ".wtscale", ".wcscales", ".smooth_factor_orig", ".wzeros", ".lora_down", ".lora_up",
    ".weight_offset", ".input_offset", ".quant_bias", ".deq_scale", ".weight_g_idx", ".weight_zeros",
    ".weight_proj_down", ".weight_proj_up", ".weight_smooth_factor", ".weight_s_rel", ".weight_s_channel",
    ".weight_correction", ".weight_codebook",
    ".weight_amax", ".input_amax", ".output_amax", ".weight_scalar", ".input_scale_ub",
)  # fmt: skip
SCALE_PARTS = re.compile(r"\.weight\.(absmax|quant_map|nested_absmax|nested_quant_map|quant_state\.bitsandbytes__\w+)$")
"""Names of tensors that bitsandbytes stores beside a weight."""
PACKED_QKV = re.compile(r"^(double_blocks\.\d+\.(img|txt)_attn\.qkv|single_blocks\.\d+\.linear1)\.")
_BLOCK = re.compile(r"(?:^|\.)blocks\.(\d+)\.")
FP8_DTYPES = {"F8_E4M3": "e4m3", "F8_E5M2": "e5m2", "F8_E4M3FNUZ": "e4m3", "F8_E5M2FNUZ": "e5m2"}
"""Code table by dtype; FNUZ codes differ by a factor of two, which the fitted gain shows."""
FP8_TILE = 128
NVFP4_WIDE_BLOCK = 32
"""Values per block scale of ModelOpt's W4A8_NVFP4_FP8."""
WHOLE_ROWS = ("scalar", "one", "channel", "channel_column")
"""Kinds of scales that cover whole rows of a weight."""
FLOATS = ("F32", "BF16", "F16", "F64")


@dataclass(frozen=True, slots=True)
class Hints:
    """Information of a file set about its Linears, beside their tensors."""

    declared: Declaration | None = None
    markers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Module to the JSON of its ``comfy_quant`` tensor."""
    types: Mapping[str, str] = field(default_factory=dict)
    """Module to torchao's class of its weight."""
    states: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Module to bitsandbytes' ``quant_state``."""
    library: str = ""
    """The library whose tensor names were translated."""


NO_HINTS = Hints()


@dataclass(frozen=True, slots=True)
class Module:
    """One Linear: its weight and all tensors that scale it."""

    name: str
    format: StoredFormat
    dialect: Dialect
    weight: TensorEntry
    scale: TensorEntry | None = None
    global_scale: TensorEntry | None = None
    input_scale: TensorEntry | None = None
    pre_quant_scale: TensorEntry | None = None
    lora_a: TensorEntry | None = None
    lora_b: TensorEntry | None = None
    reciprocal: bool = False
    """The dialect stores 1 / global scale (compressed-tensors)."""
    marked: bool = False
    """Carries a ``comfy_quant`` marker."""
    kind: str = ""
    """How its scale lies over the weight: ``scalar``, ``one``, ``channel``, ``channel_column``, ``block``, ``group``,
    ``mx``, ``none`` (a cast), ``other``; empty if the format has only one way."""
    block: tuple[int, int] = (1, 1)
    """Rows and columns that share a scale, for ``block`` and ``group``."""
    code: str = ""
    """Code table of 8-bit floats, ggml's type of GGUF, ``nf4`` or ``fp4`` of bitsandbytes."""
    logical: tuple[int, int] | None = None
    """[N, K] if the stored shape does not show it."""
    parts: Mapping[str, TensorEntry] = field(default_factory=dict)
    """Every further tensor of the Linear by its suffix."""
    state: Mapping[str, Any] = field(default_factory=dict)
    """bitsandbytes' ``quant_state``; of packed integers ``bits`` and further facts of the declaration."""
    opaque: str = ""
    """Why this version does not decode it; empty if it does."""
    rotation: int = 0
    """Columns per group that a declared Hadamard rotation mixes; 0: none is declared."""
    packing: str = ""
    """Order of packed integers, a key of ``harness.formats.int4.PACKINGS``; empty: a code per byte."""
    stated: StoredFormat | None = None
    """Format that the Linear's own ``comfy_quant`` marker states; ``None``: it states none that is known here."""
    stated_code: str = ""
    """Code table of 8-bit floats that the marker states: ``e4m3``, ``e5m2``, or empty."""

    @property
    def zero_point(self) -> TensorEntry | None:
        """Return the tensor that is subtracted from the codes before they are scaled, if any."""
        return zero_point_of(self.parts)

    @property
    def quantized(self) -> bool:
        """Return whether the weight is stored in anything but plain floats."""
        return self.format not in ("bf16", "fp16", "fp32")

    @property
    def shape(self) -> tuple[int, int]:
        """Return [N, K] of the logical weight: formats of 4 bits store two codes per byte."""
        if self.logical is not None:
            return self.logical
        # tiles of a kernel have more axes: only the number of bytes is known then
        rows = self.weight.shape[0] if self.weight.shape else 1
        return rows, self.weight.elements // max(rows, 1) * self.spec.values_per_byte

    @property
    def spec(self) -> Format:
        """Return the format's object; that of ``unknown`` for plain floats."""
        return known_formats().get(self.format) or known_formats()["unknown"]

    @property
    def values_per_scale(self) -> int:
        """Return the values per block scale: the format's own number unless the Linear declares a wider one."""
        return self.block[1] if self.format == "nvfp4" and self.block[1] > 1 else self.spec.block

    @property
    def outer_scale(self) -> TensorEntry | None:
        """Return the scale that multiplies the whole weight: the second level if the format has two."""
        return self.global_scale if self.spec.two_level else self.scale

    @property
    def recipe(self) -> str:
        """Return ``svdquant`` or ``awq`` if extra tensors show it, else empty."""
        if self.lora_a is not None:
            return "svdquant"
        return "awq" if self.pre_quant_scale is not None else ""


def block_of(name: str) -> int | None:
    """Return N of ``blocks.N.``, or ``None``."""
    match = _BLOCK.search(name)
    return int(match[1]) if match else None


def is_scale(name: str) -> bool:
    """Return whether a tensor belongs to a quantized weight rather than to the model."""
    return name.endswith(SCALE_SUFFIXES) or SCALE_PARTS.search(name) is not None


def group(tensors: Mapping[str, TensorEntry], hints: Hints = NO_HINTS) -> dict[str, Module]:
    """Return all Linears by module name, in the order of their names.

    Args:
        tensors: by Diffusers' names.
        hints: information of the file set beside dtypes, names and shapes.
    """
    modules: dict[str, Module] = {}
    siblings: dict[str, dict[str, TensorEntry]] = {}
    for name, entry in tensors.items():
        if (match := SCALE_PARTS.search(name)) is not None:
            siblings.setdefault(name[: match.start()], {})[name[match.start() + 1 :]] = entry
        elif "." in name:
            stem, _, suffix = name.rpartition(".")
            siblings.setdefault(stem, {})[suffix] = entry
    # bytes without a scale are ambiguous; if other Linears here are NVFP4 for certain, a lost scale is likelier
    four = any(
        entry.dtype == "U8" and (scale := siblings.get(name[:-7], {}).get("weight_scale")) and scale.dtype == "F8_E4M3"
        for name, entry in tensors.items()
        if name.endswith(".weight")
    )
    for name in sorted(tensors):
        ending = next((item for item in WEIGHT_SUFFIXES if name.endswith(item)), None)
        if ending is None:
            continue
        stem = name[: -len(ending)]
        entry, parts = tensors[name], siblings.get(stem, {})
        if FACTORS.search(name):
            continue  # the factors of an adapter that was not merged are no Linears of the model
        packed = (stem in hints.types or stem in hints.markers) and entry.dtype not in FLOATS
        if len(entry.shape) == 2 or packed:
            modules[stem] = _module(stem, entry, parts, hints, packed=ending == ".weight_packed", four=four)
    for stem, (entry, why) in undecoded_linears(siblings, is_scale).items():
        modules.setdefault(stem, Module(stem, "unknown", "plain", entry, parts=siblings[stem], opaque=why))
    return dict(sorted(modules.items()))


def _module(
    stem: str, weight: TensorEntry, parts: Mapping[str, TensorEntry], hints: Hints, packed: bool, four: bool
) -> Module:
    def get(*suffixes: str) -> TensorEntry | None:
        return next((parts[item] for item in suffixes if item in parts), None)

    marker = hints.markers.get(stem)
    marked = get("comfy_quant") is not None
    inverse = get("weight_scale_inv")
    tiles = inverse is not None and len(inverse.shape) == 2
    scale = get("weight_scale", "scale_weight", "SCB") or (inverse if tiles else None)
    if scale is None and "scales" in parts:
        scale = parts["scales"]
    scale = without_single_axes(scale)
    compressed = packed or get("weight_global_scale") is not None
    dialect = _dialect(weight, parts, hints, stem, marked=marked, packed=packed, tiles=tiles)
    decided = decide(weight, scale, parts, hints, stem, four)
    rotation, decided = _rotated(decided, weight, marker or {})
    return Module(
        name=stem,
        format=decided.format,
        dialect=dialect,
        weight=weight,
        scale=scale if decided.format not in ("bf16", "fp16", "fp32") else None,
        global_scale=get("weight_global_scale") if compressed else get("weight_scale_2"),
        input_scale=get("input_global_scale", "input_scale") if compressed else get("input_scale", "scale_input"),
        pre_quant_scale=get("pre_quant_scale"),
        lora_a=get("svdquant_lora_a"),
        lora_b=get("svdquant_lora_b"),
        reciprocal=compressed,
        marked=marked,
        kind=decided.kind,
        block=decided.block,
        code=decided.code,
        logical=decided.logical,
        parts=parts,
        state=decided.state or hints.states.get(stem, {}),
        opaque=decided.opaque,
        rotation=rotation,
        packing=decided.packing,
        stated=marker_format(str(marker.get("format", ""))) if marker is not None else None,
        stated_code=marker_code(str((marker or {}).get("format", ""))),
    )


def without_single_axes(scale: TensorEntry | None) -> TensorEntry | None:
    """Return a scale of three or more axes without its axes of length 1; another scale as it is.

    Musubi Tuner stores groups as [N, G, 1], ModelOpt's FP8_PB_WO stores blocks as [N / 128, 1, K / 128, 1].
    """
    if scale is None or len(scale.shape) < 3:
        return scale
    shape = tuple(size for size in scale.shape if size != 1)
    # [N, 1, 1] is a scale per row
    return replace(scale, shape=shape if len(shape) != 1 else (*shape, 1))


MARKED: dict[str, StoredFormat] = {
    "float8_e4m3fn": "fp8",
    "float8_e5m2": "fp8",
    "nvfp4": "nvfp4",
    "mxfp8": "mxfp8",
    "mxfp4": "mxfp4",
    "int8_tensorwise": "int8",
    "int8_rowwise": "int8",
    "int8_blockwise": "int8",
}
"""Formats of ``comfy_quant`` markers and of ``_quantization_metadata`` (ComfyUI's quant_ops.py), without suffixes."""
PACKED_BY_KERNEL = ("w4a4", "w4a8", "w4a16", "int4", "svdquant", "awq", "gptq")
"""Parts of a marker's format whose codes are packed for one kernel, two per byte."""


def marker_format(name: str) -> StoredFormat | None:
    """Return the format that a marker names: its scaling is a suffix (``float8_e4m3fn_rowwise``)."""
    if any(part in name for part in PACKED_BY_KERNEL):
        return "int4"
    return next((form for start, form in MARKED.items() if name == start or name.startswith(f"{start}_")), None)


def marker_code(name: str) -> str:
    """Return the code table that a marker's format names: ``float8_e5m2`` gives ``e5m2``; empty for any other."""
    return next((code for code in ("e4m3", "e5m2") if name.startswith(f"float8_{code}")), "")


def _rotated(decided: Decided, weight: TensorEntry, marker: Mapping[str, Any]) -> tuple[int, Decided]:
    """Return the declared rotation of a Linear, and its format: not decoded if the rotation cannot be undone."""
    if not marker.get("convrot") or decided.opaque or decided.packing or decided.format in FLOAT_FORMATS.values():
        return 0, decided
    size = marker.get("convrot_groupsize", 256)
    if decided.format != "int8":
        return 0, replace(decided, opaque="its rows are rotated (convrot), which is known for INT8 only")
    if not isinstance(size, int) or isinstance(size, bool) or not is_rotation(size) or weight.shape[1] % size:
        return 0, replace(decided, opaque=f"its marker declares a rotation of {size} columns, which fits no such row")
    return size, replace(decided, code=rotated_name(size))


def _dialect(
    weight: TensorEntry,
    parts: Mapping[str, TensorEntry],
    hints: Hints,
    stem: str,
    marked: bool,
    packed: bool,
    tiles: bool,
) -> Dialect:
    """Return the dialect of tensors with these names and shapes. The most specific marks are checked first."""
    scale = parts.get("weight_scale")
    # bitsandbytes may store its bytes as a float tensor (``bnb_4bit_quant_storage``)
    if "weight.absmax" in parts or "SCB" in parts:
        return "bitsandbytes"
    if weight.dtype in FLOAT_FORMATS:
        return "plain"
    if weight.dtype.startswith(GGUF_PREFIX):
        return "gguf"
    if "qzeros" in parts:
        return "gptq" if _gptq_like(weight, parts) else "awq"
    if {"wscales", "wtscale", "proj_down"} & set(parts):
        return "nunchaku"
    if {"weight_offset", "deq_scale", "input_offset"} & set(parts) or hints.library == "modelslim":
        return "modelslim"
    if stem in hints.types or hints.library == "torchao":
        return "torchao"
    if hints.library == "quanto":
        return "quanto"
    # scale_weight is the name in ComfyUI's files without markers
    if marked or "scale_weight" in parts:
        return "comfy"
    if packed:
        return "compressed-tensors"
    # compressed-tensors calls the weight beside a global scale weight_packed
    if "weight_global_scale" in parts:
        return "lightx2v"
    if tiles:
        return "deepseek"
    method = hints.declared.method if hints.declared is not None else ""
    if scale is not None and method in METHODS:
        return METHODS[method]
    if weight.dtype == "I8" and scale is not None:
        return "lightx2v" if len(scale.shape) == 2 else "plain"
    # the plainest names last: whatever another program marks is gone by here
    return "modelopt" if scale is not None else "plain"


@dataclass(frozen=True, slots=True)
class Decided:
    """The format of one Linear."""

    format: StoredFormat
    kind: str = ""
    block: tuple[int, int] = (1, 1)
    code: str = ""
    logical: tuple[int, int] | None = None
    opaque: str = ""
    packing: str = ""
    state: Mapping[str, Any] = field(default_factory=dict)


def decide(
    weight: TensorEntry,
    scale: TensorEntry | None,
    parts: Mapping[str, TensorEntry],
    hints: Hints,
    stem: str,
    four: bool,
) -> Decided:
    """Decide a Linear's format from dtype, scale names, scale dtype and shape, and the hints of the file set.

    Args:
        weight: the stored weight.
        scale: its weight scale, if any.
        parts: every further tensor of the Linear by suffix.
        hints: declarations, markers, and library metadata.
        stem: the module's name.
        four: whether other Linears of the file set are NVFP4 beyond doubt.
    """
    kind = weight.dtype
    if "weight.absmax" in parts and stem in hints.states:
        return _bitsandbytes(hints.states[stem])
    if kind in FLOAT_FORMATS:
        return Decided(FLOAT_FORMATS[kind])
    declared = hints.declared.raw if hints.declared is not None else {}
    # registered formats come before the built-in rules, which would claim every U8 and I8 weight
    registered = recognised(weight, parts, declared)
    if registered is not None:
        form, shape = registered
        undecoded = "" if form.proof == "base" else "its format is only recognised"
        return Decided(form.name, code=form.name, logical=shape, opaque=undecoded)
    if kind.startswith(GGUF_PREFIX):
        return Decided("gguf", code=kind.removeprefix(GGUF_PREFIX))
    marker = hints.markers.get(stem) or {}
    stated = str(marker.get("format", ""))
    # before the rules by dtype, which read the shape as [rows, columns]
    if len(weight.shape) != 2:
        return Decided("int4" if marker_format(stated) == "int4" else _of_tiles(hints.types.get(stem, "")),
                       opaque=f"its bytes are in tiles of {len(weight.shape)} axes for one kernel")  # fmt: skip
    if marker_format(stated) == "int4" and kind in ("I8", "U8"):
        return _marked_four(weight, scale, parts, marker, stated)
    slim = hints.declared is not None and hints.declared.method == "modelslim"
    if slim and hints.declared is not None and hints.declared.algo_of(stem).upper().startswith("W4A"):
        return Decided("int4", opaque=f"msModelSlim packs {hints.declared.algo_of(stem)} for its own kernels")
    if {"wscales", "wtscale", "proj_down"} & set(parts):
        return Decided("int4", opaque="nunchaku packs it for its own kernels (SVDQuant)")
    type_ = hints.types.get(stem, "")
    if "IntxUnpacked" in type_ and kind == "I8" and scale is not None:
        spread, block = scale_kind(weight, scale, NO_HINTS)
        shape = (weight.shape[0], weight.shape[1])
        return Decided("int4", spread, block, "int4", shape, packing="whole_bytes")
    if "Int4" in type_ or "UIntx" in type_ or "IntxOpaque" in type_:
        return Decided("int4", opaque="torchao packs it for its own kernels")
    if hints.library == "modelopt" and kind == "U8" and scale is not None and scale.dtype in FLOATS:
        why = "ModelOpt compressed it in memory, and its blocks are stored flat"
        logical = (weight.shape[0], weight.shape[1] * 2) if len(weight.shape) == 2 else None
        return Decided("int4", logical=logical, opaque=why)
    if kind == "U8" and stated.startswith("float8_") and (code := FP8_DTYPES.get(MARKED_CODES.get(stated[:10], ""))):
        return _eight(weight, scale, hints, code)
    if kind in FP8_DTYPES:
        return _eight(weight, scale, hints)
    if kind == "I8":
        return _integers(weight, scale, hints)
    if kind == "U8":
        return _bytes(weight, scale, parts, hints, stem, four)
    if kind in ("I32", "U32"):
        return _words(weight, scale, parts, hints)
    return Decided("unknown", opaque=f"weights of dtype {kind} are of no format that is known here")


def _of_tiles(type_: str) -> StoredFormat:
    """Return the format of torchao's class of a weight with another number of axes than two."""
    return "int4" if "Int4" in type_ or "Intx" in type_ else "unknown"


MARKED_CODES: dict[str, str] = {"float8_e4m": "F8_E4M3", "float8_e5m": "F8_E5M2"}
"""Start of a marker's format to the dtype of its codes: a file may store them as bytes (ComfyUI's QUANTIZATION.md)."""


def _marked_four(
    weight: TensorEntry,
    scale: TensorEntry | None,
    parts: Mapping[str, TensorEntry],
    marker: Mapping[str, Any],
    stated: str,
) -> Decided:
    """Return the format of a Linear whose marker names one of comfy-kitchen's layouts of 4 bits, [N, K / 2]."""
    shape = (weight.shape[0], weight.shape[1] * 2)
    if scale is not None and "convrot" in stated:
        size = marker.get("convrot_groupsize", 256)
        if isinstance(size, int) and not isinstance(size, bool) and is_rotation(size) and shape[1] % size == 0:
            return Decided("int4", code="int4", logical=shape, packing="comfy_rotated", state={"group": size})
        why = f"its marker declares a rotation of {size} columns, which fits no such row"
        return Decided("int4", logical=shape, opaque=why)
    if scale is not None and "awq" in stated and "weight_zeros" in parts:
        return Decided("int4", code="int4", logical=shape, packing="comfy_awq")
    factors = {"weight_proj_down", "weight_proj_up", "weight_smooth_factor"}
    if scale is not None and "svdquant" in stated and factors <= set(parts):
        return Decided("int4", code="int4", logical=shape, packing="comfy_svdquant")
    return Decided("int4", logical=shape, opaque=f"its marker says {stated}, which is packed for one kernel")


def _gptq_like(weight: TensorEntry, parts: Mapping[str, TensorEntry]) -> bool:
    """Return whether ``qweight`` packs columns (GPTQ: [K / 8, N]) and not rows (AWQ: [K, N / 8])."""
    scales = parts.get("scales")
    return "g_idx" in parts or (scales is not None and len(scales.shape) == 2 and scales.shape[1] == weight.shape[1])


def _words(weight: TensorEntry, scale: TensorEntry | None, parts: Mapping[str, TensorEntry], hints: Hints) -> Decided:
    """Return the format of integers that are packed into 32-bit words."""
    declared = hints.declared.raw if hints.declared is not None else {}
    zeros = parts.get("qzeros")
    if scale is not None and zeros is not None and len(zeros.shape) == len(scale.shape) == len(weight.shape) == 2:
        rows = scale.shape[1]
        if _gptq_like(weight, parts):
            bits = zeros.shape[1] * 32 // rows if rows else 0
            state = {"bits": bits, "zeros": "v2" if declared.get("checkpoint_format") == "gptq_v2" else "v1"}
            if bits in (4, 8) and scale.shape[0]:
                shape = (rows, weight.shape[0] * 32 // bits)
                return Decided(*_integer(bits), logical=shape, packing="gptq", state=state)
        elif zeros.shape[1] == weight.shape[1] and rows == 8 * weight.shape[1]:
            return Decided("int4", code="int4", logical=(rows, weight.shape[0]), packing="awq")
    if scale is not None and "weight_packed" in parts:
        bits = hints.declared.bits if hints.declared is not None and hints.declared.bits else 4
        if bits in (4, 8):
            shape = (weight.shape[0], weight.shape[1] * 32 // bits)
            return Decided(*_integer(bits), logical=shape, packing="compressed", state={"bits": bits})
    return Decided("int4", opaque="its codes are packed into 32-bit words in an order that is not known here")


def _integer(bits: int) -> tuple[StoredFormat, str, tuple[int, int], str]:
    """Return the first four members of `Decided` for packed integers: format, kind, block and code."""
    name = "int4" if bits == 4 else "int8"
    return name, "", (1, 1), name


def _eight(weight: TensorEntry, scale: TensorEntry | None, hints: Hints, code: str = "") -> Decided:
    code = code or FP8_DTYPES[weight.dtype]
    if scale is None:
        # a cast, or a lost scale: the check `casts` decides by the values
        return Decided("fp8", "none", code=code)
    rows, columns = weight.shape
    if scale.dtype in ("U8", "F8_E8M0"):
        fits = scale.elements >= rows * -(-columns // MX_BLOCK)
        # DeepSeek's blocks of 128 x 128 may have a power of two as their scale (``scale_fmt: ue8m0``)
        spread, block = scale_kind(weight, replace(scale, dtype="F32"), hints)
        stated = hints.declared.block_size if hints.declared is not None else None
        if not fits and spread == "block" and (scale.dtype == "F8_E8M0" or stated is not None):
            return Decided("fp8", spread, block, code)
        return Decided("mxfp8", "mx" if fits else "other", (1, MX_BLOCK), code)
    return Decided("fp8", *scale_kind(weight, scale, hints), code=code)


def _integers(weight: TensorEntry, scale: TensorEntry | None, hints: Hints) -> Decided:
    if scale is None:
        return Decided("int8", "none", code="int8")
    # compressed-tensors' int-quantized keeps codes of 4 bits in a byte each
    if hints.declared is not None and hints.declared.method == "compressed-tensors" and hints.declared.bits == 4:
        spread, block = scale_kind(weight, scale, NO_HINTS)
        return Decided("int4", spread, block, "int4", (weight.shape[0], weight.shape[1]), packing="whole_bytes")
    return Decided("int8", *scale_kind(weight, scale, NO_HINTS), code="int8")


def scale_kind(weight: TensorEntry, scale: TensorEntry, hints: Hints) -> tuple[str, tuple[int, int]]:
    """Return the kind of a float scale of an 8-bit weight [N, K], and the rows and columns that share a value.

    For example, a scale of shape [N] gives ``("channel", (1, K))``.
    """
    rows, columns = weight.shape
    shape = flat_blocks(scale.shape)
    if scale.dtype not in FLOATS:
        return "other", (1, 1)
    plain = {(): "scalar", (1,): "one", (rows,): "channel", (rows, 1): "channel_column"}
    if shape in plain:
        return plain[shape], (1, columns)
    if len(shape) != 2 or not shape[0] or not shape[1]:
        return "other", (1, 1)
    # a declared block size wins: the number of blocks is rounded up, so several block sizes give the same shape
    stated = hints.declared.block_size if hints.declared is not None else None
    if stated is not None and shape == (-(-rows // stated[0]), -(-columns // stated[1])):
        return "block", stated
    if shape == (-(-rows // FP8_TILE), -(-columns // FP8_TILE)):
        return "block", (FP8_TILE, FP8_TILE)
    if shape[0] == rows and shape[1] > 1 and columns % shape[1] == 0:
        return "group", (1, columns // shape[1])
    if rows % shape[0] == 0 and columns % shape[1] == 0 and shape[0] > 1:
        return "block", (rows // shape[0], columns // shape[1])
    return "other", (1, 1)


def flat_blocks(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return [A, B] for a scale [A, 1, B, 1], as ModelOpt writes the scales of blocks; any other shape unchanged."""
    return (shape[0], shape[2]) if len(shape) == 4 and shape[1] == shape[3] == 1 else tuple(shape)


def _bytes(
    weight: TensorEntry,
    scale: TensorEntry | None,
    parts: Mapping[str, TensorEntry],
    hints: Hints,
    stem: str,
    four: bool,
) -> Decided:
    if "weight.absmax" in parts:
        return _bitsandbytes(hints.states.get(stem, {}))
    rows, columns = weight.shape if len(weight.shape) == 2 else (0, 0)
    declared = hints.declared.format_of(stem) if hints.declared is not None else None
    if scale is None:
        if four or declared == "nvfp4" or "comfy_quant" in parts:
            return Decided("nvfp4")
        return Decided("unknown", opaque="bytes without a scale, and no metadata names their format")
    if scale.dtype == "F8_E4M3" or (scale.dtype == "I8" and {"weight_scale_2", "weight_global_scale"} & set(parts)):
        # W4A8_NVFP4_FP8 has a block scale per 32 values; undeclared scales of that shape are those of half the blocks
        algo = hints.declared.algo_of(stem).upper() if hints.declared is not None else ""
        wide = "W4A8_NVFP4" in algo and scale.shape == (rows, columns * 2 // NVFP4_WIDE_BLOCK)
        return Decided("nvfp4", block=(1, NVFP4_WIDE_BLOCK) if wide else (1, 1))
    if scale.dtype in ("U8", "F8_E8M0"):
        if _holds_exponents(scale, columns * 8 // 6) and not _holds_exponents(scale, columns * 2):
            why = "6-bit floats are not decoded in this version"
            return Decided("mxfp6", logical=(rows, columns * 8 // 6), opaque=why)
        if scale.dtype == "F8_E8M0" or scale.elements < rows * -(-columns * 2 // 16):
            return Decided("mxfp4", "mx", (1, MX_BLOCK))
        return Decided("nvfp4")
    if hints.library == "quanto":
        return _quanto(weight, scale, parts)
    # ModelOpt's INT4: two rows per byte, a scale per group of columns
    if len(scale.shape) == 2 and scale.shape[0] == 2 * rows and scale.shape[1] and columns % scale.shape[1] == 0:
        return Decided("int4", code="int4", logical=(2 * rows, columns), packing="row_pairs")
    if weight.shape and scale.dtype in FLOATS and scale_kind(weight, scale, NO_HINTS)[0] in WHOLE_ROWS:
        return _lost_dtype(weight, scale, hints, declared)
    return Decided("int4", opaque="4-bit integers with float scales, whose order of packing is the library's own")


def _holds_exponents(scale: TensorEntry, columns: int) -> bool:
    """Return whether a tensor has one exponent per 32 of ``columns``, or is padded to a multiple of 4 of them."""
    blocks = -(-columns // MX_BLOCK)
    return len(scale.shape) == 2 and scale.shape[1] in (blocks, -(-blocks // 4) * 4)


def _quanto(weight: TensorEntry, scale: TensorEntry, parts: Mapping[str, TensorEntry]) -> Decided:
    """Return the format of quanto's ``qint4`` and ``qint2``, whose files state no shape: the bias has the rows."""
    packed, bias = weight.shape[0] if len(weight.shape) == 2 else 0, parts.get("bias")
    per_byte = scale.elements // packed if packed else 0
    if per_byte != 2 or "weight_zero_point" not in parts:
        return Decided("int4", opaque="optimum-quanto's 2-bit integers are not decoded" if per_byte == 4 else
                       "4-bit integers with float scales, whose order of packing is the library's own")  # fmt: skip
    rows, values = bias.elements if bias is not None else 0, 2 * weight.elements
    if not rows or values % rows or (values // rows) % weight.shape[1]:
        return Decided("int4", opaque="its file states no shape: optimum-quanto writes none, and there is no bias")
    return Decided("int4", code="int4", logical=(rows, values // rows), packing="quanto")


def _lost_dtype(weight: TensorEntry, scale: TensorEntry, hints: Hints, declared: StoredFormat | None) -> Decided:
    """Return the format of bytes whose scale covers whole rows, as only 8-bit codes have: their dtype was lost.

    ``eight_bit_bytes`` reports those that are declared to be FP8; without a declaration they may be integers.
    """
    if declared == "fp8":
        return replace(_eight(replace(weight, dtype="F8_E4M3"), scale, hints), state={"dtype": weight.dtype})
    return Decided("unknown", opaque="8-bit codes stored as plain bytes: floats or integers, no metadata decides")


def _bitsandbytes(state: Mapping[str, Any]) -> Decided:
    shape, code = state.get("shape"), str(state.get("quant_type", ""))
    well_formed = (
        isinstance(shape, list) and len(shape) == 2 and all(isinstance(item, int) and item > 0 for item in shape)
    )
    usable = {"type": code in ("nf4", "fp4"), "shape": well_formed, "block size": type(state.get("blocksize")) is int}
    if absent := [name for name, stated in usable.items() if not stated]:
        return Decided("nf4", code=code, opaque=f"its quant_state states no usable {' and no usable '.join(absent)}")
    assert isinstance(shape, list)  # noqa: S101 - `well_formed` says so
    return Decided("nf4", code=code, logical=(shape[0], shape[1]))


def summary_format(modules: Mapping[str, Module]) -> StoredFormat:
    """Return the common format of all quantized Linears, or ``mixed``; without any, that of the plain weights."""
    formats = {module.format for module in modules.values() if module.quantized}
    if len(formats) == 1:
        return next(iter(formats))
    if formats:
        return "mixed"
    plain = {module.format for module in modules.values()}
    return next(iter(plain)) if len(plain) == 1 else ("bf16" if "bf16" in plain else "unknown")
