"""Formats that are named and not decoded."""

from __future__ import annotations

from typing import Final

from harness.formats.spec import Format, Gate

MXFP6: Final = Format(
    name="mxfp6",
    title="MXFP6",
    stored="U8, four 6-bit floats per three bytes; E8M0 exponent per 32 values",
    proof="recognised",
    gate=Gate(0.99, 0.90, 0.03, 0.02),
    noise=0.08,
    source="OCP MX v1.0 5.2 and 5.3.2",
    algorithms="MXFP6",
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
