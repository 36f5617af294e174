"""Tensors grouped into Linears: which format each is stored in, in which dialect, and with which scales."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from harness.checkpoint.header import TensorEntry
from harness.records.inspection import StoredFormat

Dialect = Literal["modelopt", "compressed-tensors", "comfy", "plain"]
FLOAT_FORMATS: dict[str, StoredFormat] = {"BF16": "bf16", "F16": "fp16", "F32": "fp32", "F64": "fp32"}
WEIGHT_SUFFIXES = (".weight", ".weight_packed")
SCALE_SUFFIXES = (
    ".weight_scale", ".weight_scale_2", ".input_scale", ".weight_global_scale", ".input_global_scale",
    ".weight_scale_inv", ".pre_quant_scale", ".svdquant_lora_a", ".svdquant_lora_b", ".comfy_quant",
    ".weight_scale_inverse", ".weight_shape", ".scale_weight", ".scale_input",
)  # fmt: skip
PACKED_QKV = re.compile(r"^(double_blocks\.\d+\.(img|txt)_attn\.qkv|single_blocks\.\d+\.linear1)\.")
_BLOCK = re.compile(r"(?:^|\.)blocks\.(\d+)\.")


@dataclass(frozen=True, slots=True)
class Module:
    """One Linear: its weight and everything that scales it."""

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

    @property
    def quantized(self) -> bool:
        """Whether the weight is not stored as plain floats."""
        return self.format in ("nvfp4", "fp8", "int8", "unknown")

    @property
    def shape(self) -> tuple[int, int]:
        """[N, K] of the weight it stands for: two NVFP4 codes lie in a byte."""
        rows, columns = self.weight.shape
        return rows, columns * 2 if self.format == "nvfp4" else columns

    @property
    def recipe(self) -> str:
        """``svdquant`` or ``awq`` where extra tensors say so; empty otherwise."""
        if self.lora_a is not None:
            return "svdquant"
        return "awq" if self.pre_quant_scale is not None else ""


def block_of(name: str) -> int | None:
    """N of ``blocks.N.``, or ``None``."""
    match = _BLOCK.search(name)
    return int(match[1]) if match else None


def is_scale(name: str) -> bool:
    """Whether a tensor belongs to a quantized weight rather than to the model."""
    return name.endswith(SCALE_SUFFIXES)


def group(tensors: Mapping[str, TensorEntry]) -> dict[str, Module]:
    """All 2-D weights by module name, in the order of their names."""
    modules: dict[str, Module] = {}
    for name in sorted(tensors):
        suffix = next((item for item in WEIGHT_SUFFIXES if name.endswith(item)), None)
        if suffix is None or len(tensors[name].shape) != 2:
            continue
        stem = name[: -len(suffix)]
        modules[stem] = _module(stem, tensors[name], tensors, packed=suffix == ".weight_packed")
    return modules


def _module(stem: str, weight: TensorEntry, tensors: Mapping[str, TensorEntry], packed: bool) -> Module:
    def get(*suffixes: str) -> TensorEntry | None:
        return next((tensors[f"{stem}.{item}"] for item in suffixes if f"{stem}.{item}" in tensors), None)

    scale = get("weight_scale", "scale_weight")
    marked = get("comfy_quant") is not None
    comfy = marked or get("scale_weight") is not None
    compressed = packed or get("weight_global_scale") is not None
    return Module(
        name=stem,
        format=_format(weight, scale),
        dialect="compressed-tensors" if compressed else "comfy" if comfy else "modelopt" if scale else "plain",
        weight=weight,
        scale=scale,
        global_scale=get("weight_global_scale") if compressed else get("weight_scale_2"),
        input_scale=get("input_global_scale", "input_scale") if compressed else get("input_scale", "scale_input"),
        pre_quant_scale=get("pre_quant_scale"),
        lora_a=get("svdquant_lora_a"),
        lora_b=get("svdquant_lora_b"),
        reciprocal=compressed,
        marked=marked,
    )


def _format(weight: TensorEntry, scale: TensorEntry | None) -> StoredFormat:
    if weight.dtype in FLOAT_FORMATS:
        return FLOAT_FORMATS[weight.dtype]
    if weight.dtype == "U8" and (scale is None or scale.dtype in ("F8_E4M3", "U8")):
        return "nvfp4"
    if weight.dtype.startswith("F8_"):
        return "fp8"
    return "int8" if weight.dtype == "I8" else "unknown"


def summary_format(modules: Mapping[str, Module]) -> StoredFormat:
    """The one format of all quantized Linears, ``mixed`` where there are several, or that of the plain weights."""
    formats = {module.format for module in modules.values() if module.quantized}
    if len(formats) == 1:
        return next(iter(formats))
    if formats:
        return "mixed"
    plain = {module.format for module in modules.values()}
    return next(iter(plain)) if len(plain) == 1 else ("bf16" if "bf16" in plain else "unknown")
