"""The number formats of quantized Linears: names, proof limits, and what this version can prove of each.

A format says how the stored bytes of one Linear become numbers. Who wrote the file and under which tensor names is its
dialect (see ``harness.formats.names``). Limits are calibrated by ``python -m benchmarks.fault_corpus``: the smallest
cosine of a right export lies above ``cosine``, that of other weights below ``unrelated``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Proof = Literal["base", "recognised"]
"""``base``: rows are decoded and compared with the base. ``recognised``: the format is named and nothing is decoded."""


@dataclass(frozen=True, slots=True)
class Gate:
    """Limits of one stored format."""

    cosine: float
    """At least this: these are codes of this base."""
    unrelated: float
    """Below this under every reading: these are not codes of this base."""
    gap: float
    """Cosine by which the best reading must lead."""
    gain: float
    """Largest distance of the fitted gain from 1."""


@dataclass(frozen=True, slots=True)
class Format:
    """One number format."""

    name: str
    """As in records: ``nvfp4``, ``mxfp8`` ..."""
    title: str
    """As people call it."""
    stored: str
    """What lies on disk, for docs/formats.md."""
    proof: Proof
    gate: Gate
    noise: float
    """Relative rounding error of one value: the standard error of a fitted gain follows from it."""
    source: str
    """Where the rule was read."""


FORMATS: dict[str, Format] = {
    item.name: item
    for item in (
        Format(
            "nvfp4",
            "NVFP4",
            "U8, two E2M1 codes per byte; E4M3 scale per 16 values; F32 second level",
            "base",
            Gate(0.990, 0.90, 0.03, 0.02),
            0.095,
            "nvidia-modelopt 0.47 NVFP4QTensor; OCP MX v1.0 5.3.3 (E2M1)",
        ),
        Format(
            "fp8",
            "FP8",
            "F8_E4M3 or F8_E5M2; scale per tensor, per channel, per block, or none (a cast)",
            "base",
            Gate(0.999, 0.95, 0.03, 0.01),
            0.027,
            "OCP OFP8 v1.0; ml_dtypes",
        ),
        Format(
            "mxfp8",
            "MXFP8",
            "F8_E4M3 or F8_E5M2; E8M0 exponent per 32 values",
            "base",
            Gate(0.998, 0.95, 0.03, 0.02),
            0.04,
            "OCP MX v1.0 5.2 and 5.4",
        ),
        Format(
            "mxfp4",
            "MXFP4",
            "U8, two E2M1 codes per byte; E8M0 exponent per 32 values",
            "base",
            Gate(0.975, 0.90, 0.03, 0.05),
            0.16,
            "OCP MX v1.0 5.2 and 5.3.3",
        ),
        Format(
            "int8",
            "INT8",
            "I8; scale per tensor, per channel or per group",
            "base",
            Gate(0.999, 0.95, 0.03, 0.01),
            0.02,
            "weight = code * scale",
        ),
        Format(
            "nf4",
            "NF4 (bitsandbytes)",
            "U8, two codes of a table per byte, flat; absmax per 64 values, itself quantized or not",
            "base",
            Gate(0.985, 0.90, 0.03, 0.05),
            0.11,
            "bitsandbytes functional.dequantize_4bit",
        ),
        Format(
            "gguf",
            "GGUF",
            "ggml blocks of 32 or 256 values: Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K to Q6_K, IQ4",
            "base",
            Gate(0.97, 0.90, 0.03, 0.05),
            0.15,
            "gguf.quants.dequantize",
        ),
        Format(
            "int4",
            "INT4",
            "I32 or U8 packed groups (GPTQ, AWQ, torchao, compressed-tensors, SVDQuant)",
            "recognised",
            Gate(0.98, 0.90, 0.03, 0.05),
            0.12,
            "-",
        ),
        Format(
            "unknown",
            "a format that this version does not know",
            "-",
            "recognised",
            Gate(0.99, 0.90, 0.03, 0.02),
            0.1,
            "-",
        ),
    )
}


def title_of(name: str) -> str:
    """The format's name for people; a plain float format's is its dtype in capitals."""
    return FORMATS[name].title if name in FORMATS else name.upper()
