"""List the number formats of quantized Linears: names, proof limits, and the proofs possible for each.

A format defines how the stored bytes of one Linear become numbers. The program that wrote the file, and its tensor
names, are the dialect (see ``harness.formats.names``). Limits are calibrated by ``python -m benchmarks.fault_corpus``:
the smallest cosine of a right export lies above ``cosine``, that of other weights below ``unrelated``.

Another distribution adds a format with one `Format` value in the entry point group ``quantgate.formats``. Its
``recognise`` and ``decode`` do what `harness.formats.modules` and `harness.formats.decode` do for the formats below.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from harness.errors import InvalidCaseError
from harness.formats.header import TensorEntry

GROUP: Final = "quantgate.formats"
"""Entry point group: ``name = "package.module:VALUE"``, a `Format` of that name."""
FLOATS: Final = ("bf16", "fp16", "fp32")
"""Names of plain weights. No format may take one."""
Recognise = Callable[[TensorEntry, Mapping[str, TensorEntry], Mapping[str, Any]], tuple[int, int] | None]
"""Takes a Linear's weight, its further tensors by suffix (``weight_scale``) and the checkpoint's quantization
declaration. Returns the shape [N, K] of the logical weight; ``None`` if the Linear has another format."""
Decode = Callable[[bytes, Mapping[str, bytes], tuple[int, int], NDArray[np.int64]], NDArray[np.float32]]
"""Takes the stored bytes of some rows, all bytes of the further tensors by suffix, the shape [N, K] and the row
numbers. Returns the values [rows, K]."""

Proof = Literal["base", "recognised"]
"""``base``: rows are decoded and compared with the base. ``recognised``: the format is named and nothing is decoded."""


@dataclass(frozen=True, slots=True)
class Gate:
    """Limits of one stored format."""

    cosine: float
    """At or above this cosine, the codes were made from this base."""
    unrelated: float
    """Below this cosine under every reading, the codes were not made from this base."""
    gap: float
    """Cosine by which the best reading must lead."""
    gain: float
    """Largest distance of the fitted gain from 1."""


@dataclass(frozen=True, slots=True)
class Format:
    """One number format."""

    name: str
    """Name in records: ``nvfp4``, ``mxfp8`` ..."""
    title: str
    """Name in texts for people."""
    stored: str
    """Layout on disk, for docs/formats.md."""
    proof: Proof
    gate: Gate
    noise: float
    """Relative rounding error of one value: the standard error of a fitted gain follows from it."""
    source: str
    """Publication or library from which the rule was read."""
    recognise: Recognise | None = None
    """Set for a registered format. It is called before the rules of the built-in formats."""
    decode: Decode | None = None
    """Set for a registered format whose ``proof`` is ``base``."""


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
            "I8; scale per tensor, per channel or per group; zero point; rotated in groups of columns (ConvRot)",
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
            "I32, U8 or I8 packed groups (GPTQ, AWQ, torchao, compressed-tensors, SVDQuant, ConvRot W4A4)",
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


@cache
def registered_formats() -> tuple[Format, ...]:
    """Return the formats of installed distributions, by name.

    Raises:
        InvalidCaseError: an entry point cannot be loaded, is no `Format`, lacks a function, or its name is taken.
    """
    formats: list[Format] = []
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        package = point.dist.name if point.dist else "an unknown package"
        label = f"format {point.name} of {package} ({point.value})"
        remedy = f"repair the entry point of {package} and install it again, or uninstall it"
        try:
            value = point.load()
        except Exception as error:  # any fault of a plugin's module, named with its package
            raise InvalidCaseError(f"{label} cannot be loaded: {error!r}", remedy=remedy) from error
        taken = {*FORMATS, *FLOATS, "mixed", *(item.name for item in formats)}
        if not isinstance(value, Format) or value.name != point.name or value.name in taken:
            raise InvalidCaseError(f"{label} is no Format of that name, or the name is taken", remedy=remedy)
        if value.recognise is None or (value.proof == "base" and value.decode is None):
            raise InvalidCaseError(f"{label} lacks recognise or decode; see harness.formats.spec.Format", remedy=remedy)
        formats.append(value)
    return tuple(formats)


def known_formats() -> dict[str, Format]:
    """Return the built-in and the registered formats, by name."""
    return FORMATS | {item.name: item for item in registered_formats()}


def title_of(name: str) -> str:
    """Return the format's name for people; a plain float format's is its dtype in capitals."""
    known = known_formats()
    return known[name].title if name in known else name.upper()
