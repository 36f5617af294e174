"""Limits of the reference-free checks, and where each comes from.

They are wide on purpose: a sanity check that fails means "no video", not "a worse video". ``python -m
benchmarks.sensitivity`` prints the measured values on both sides of every limit.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class SanityLimits:
    """Limits of `harness.frames.sanity.check_clip`; a case may state its own."""

    flat: float = 2.0
    """Smallest standard deviation within a frame, levels of 255. A small shape on a flat wall has over 20, one colour
    has 0, and one colour through a decoder's ripple under 2."""
    noise: float = 0.30
    """Smallest correlation of neighbouring 8-px blocks. Photographs and generated videos have .7 or more, the tiny
    model's videos .57 (.46 in NVFP4), brick .38; its videos with swapped nibbles -.06 to .13, and drawn static under
    .28 up to a grain of 8 px. Close-ups of grass or gravel (.2 to .3) look like static to this check and need a limit
    of their own."""
    speckle: float = 5.0
    """Largest variance of the Laplacian over the variance of the picture. Photographs and shapes stay under 1.3, grass
    at 3.6; uncorrelated noise has 20, and static with per-pixel noise on any coarser grain over 6."""
    frozen: int = 2
    """Longest run of frames equal bit by bit. A decoder does not repeat itself; one repeat is left to chance. A clip
    of 2 frames may not be frozen at all."""
    clipped: float = 0.8
    """Largest share of values at 0 or 255. White shapes on black come near .6 once a decoder's undershoot is cut."""
    flicker: float = 6.0
    """Largest second difference in time of mean luma, levels of 255. Pans over photographs stay under .8, the tiny
    model's videos under 1.3, its videos with swapped nibbles jump by 4 to 10. Cuts and strobes need a limit of their
    own."""
