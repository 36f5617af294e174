"""How much two clips show the same video."""

from __future__ import annotations

from pathlib import Path

from harness.frames.clip import read_clip


def similarity(golden: Path, candidate: Path) -> float | None:
    """Mean SSIM over the frames of two clip files, in [-1, 1]; ``None`` if their shapes differ."""
    from harness.frames.compare import compare

    first, second = read_clip(golden), read_clip(candidate)
    if first.shape != second.shape:
        return None
    return compare(first, second, ["ssim"]).metrics[0].mean
