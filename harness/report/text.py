"""Numbers and foreign text as a person reads them."""

from __future__ import annotations

import json
import re

from harness.records.base import Json

_ANSI = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
_CONTROL = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u0600-\u0605\u061c\u06dd\u070f\u0890\u0891\u08e2\u180e\u200b-\u200f"
    r"\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ufffe\uffff\ud800-\udfff\U000110bd\U000110cd"
    r"\U00013430-\U0001343f\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0001\U000e0020-\U000e007f]"
)


def clean(text: str) -> str:
    """``text`` without terminal colours, control characters and signs that turn the reading direction.

    What is left is legal in XML 1.0, and reads in the order in which it is stored.
    """
    return _CONTROL.sub("", _ANSI.sub("", text).replace("\r\n", "\n"))


def one_line(text: str, limit: int = 400) -> str:
    """``text`` cleaned, on one line, cut after ``limit`` characters."""
    line = " ".join(clean(text).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def number(value: float | None) -> str:
    """Four significant digits; a dash where there is no value."""
    return "–" if value is None else f"{value:.4g}"


def percent(value: float | None) -> str:
    """A share as a whole percentage; a dash where there is no value."""
    if value is None:
        return "–"
    return "> 999 %" if value > 9.99 else f"{value * 100:.0f} %"


def seconds(value: float | None) -> str:
    """A duration: ``0.42 s``, ``12.3 s``, ``4 min 05 s``."""
    if value is None:
        return "–"
    if value < 60:
        return f"{value:.2f} s" if value < 10 else f"{value:.1f} s"
    return f"{int(value // 60)} min {int(value % 60):02d} s"


def size(value: int | None) -> str:
    """Bytes in binary units."""
    if value is None:
        return "–"
    amount = float(value)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024 or unit == "GiB":
            break
        amount /= 1024
    return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"


def plain(value: Json) -> str:
    """A JSON value on one line: strings bare, ``None`` as a dash, anything else as JSON."""
    if value is None:
        return "–"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def short_digest(value: str | None) -> str:
    """The first 12 characters of a digest."""
    return value[:12] if value else "–"
