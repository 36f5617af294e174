"""Measure whether two clips show the same video."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from pathlib import Path

from harness.errors import GoldenError
from harness.frames.clip import read_clip
from harness.goldens.folder import SHORT
from harness.goldens.refusing import FAR


def similarity(golden: Path, candidate: Path) -> float | None:
    """Return the mean SSIM over the frames of two clip files, in [-1, 1]; ``None`` if their shapes differ."""
    from harness.frames.compare import compare

    first, second = read_clip(golden), read_clip(candidate)
    if first.shape != second.shape:
        return None
    return compare(first, second, ["ssim"]).metrics[0].mean


def require_near(clips: Mapping[str, Path], source: str) -> None:
    """Refuse accepted goldens of one request that show different videos: limits around them would hide any fault.

    Args:
        clips: frames of each golden, by its digest.
        source: the case, for the error.

    Raises:
        GoldenError: the mean SSIM of two goldens is below ``FAR``.
    """
    for (first, clip), (second, other) in combinations(clips.items(), 2):
        ssim = similarity(clip, other)
        if ssim is not None and ssim < FAR:
            raise GoldenError(
                f"the accepted goldens {first[:SHORT]} and {second[:SHORT]} show different videos "
                f"(mean ssim {ssim:.2f}, below {FAR}), so that their limits see no fault",
                place=source,
                remedy="find out which one is right, run the case, and accept it with --over",
            )
