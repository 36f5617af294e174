"""Codes of the causes that frames can show. The loader of case files reads them, so nothing is imported here."""

from __future__ import annotations

from typing import Final

SANITY: Final = frozenset({"shape", "nan", "inf", "flat", "noise", "speckle", "frozen", "clipped", "flicker", "levels"})
"""Checks of the frames that need no golden (`harness.frames.sanity`). A clip that fails one is no video, so a waiver
never covers it."""

EXPLANATIONS: Final = frozenset({
    "flicker", "gain",
    "bars", "blocks", "blur", "brightness_drift", "channel_affine", "channels_exchanged", "chroma_subsampling", "codec",
    "colour_matrix", "contrast", "flash", "flipped", "frames_blended", "frames_dropped", "frames_frozen",
    "frames_overwritten", "frames_permuted", "frames_repeated", "frames_reversed", "frames_shifted", "gamma", "hue",
    "interlaced", "inverted", "limited_range", "mesh", "noise_added", "offset", "quantized_levels",
    "region_overwritten", "resized", "saturation", "sharpened", "shifted", "tile_seams", "tiles_exchanged", "tint",
    "transposed", "value_range", "wrapped", "zoomed",
})  # fmt: skip
"""Changes of finished frames that `harness.frames.hypotheses` can name; an explanation with another code is refused."""
