"""Float videos in numpy: rounded as diffusers rounds, and looked at before. No torch."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from harness.frames.clip import Clip
from harness.records.generation import FloatStats


def round_video(video: npt.NDArray[np.float32]) -> Clip:
    """Round [T, H, W, 3], clipped to [0, 1], to uint8 as diffusers' ``numpy_to_pil`` does: times 255, half to even.

    NaN becomes 0: that it was there is in the float statistics, and the clip stays a clip that can be looked at.
    """
    frames = np.empty(video.shape, dtype=np.uint8)
    for index, frame in enumerate(video):
        healthy = np.nan_to_num(frame, nan=0.0, posinf=1.0, neginf=0.0).clip(0.0, 1.0)
        frames[index] = np.rint(healthy * 255).astype(np.uint8)
    return Clip(frames)


def stats_of(video: npt.NDArray[np.floating[Any]]) -> FloatStats:
    """The same statistics of a float video [T, H, W, 3] in [0, 1] that another program made."""
    finite = np.isfinite(video)
    bad = np.flatnonzero(~finite.reshape(video.shape[0], -1).all(axis=1))
    healthy = video[finite]
    return FloatStats(
        nan=int(np.isnan(video).sum()),
        inf=int(np.isinf(video).sum()),
        minimum=float(healthy.min()) if healthy.size else 0.0,
        maximum=float(healthy.max()) if healthy.size else 0.0,
        first_bad_frame=int(bad[0]) if bad.size else None,
    )
