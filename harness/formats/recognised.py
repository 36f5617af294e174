"""Formats that are named and not decoded."""

from __future__ import annotations

from typing import Final

from harness.formats.spec import Format, Gate

INT4: Final = Format(
    name="int4",
    title="INT4",
    stored="I32, U8 or I8 packed groups (GPTQ, AWQ, torchao, compressed-tensors, SVDQuant, ConvRot W4A4)",
    proof="recognised",
    gate=Gate(0.98, 0.90, 0.03, 0.05),
    noise=0.12,
    source="-",
)
UNKNOWN: Final = Format(
    name="unknown",
    title="a format that this version does not know",
    stored="-",
    proof="recognised",
    gate=Gate(0.99, 0.90, 0.03, 0.02),
    noise=0.1,
    source="-",
)
