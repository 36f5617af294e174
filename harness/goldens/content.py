"""Are the frames of a golden what its manifest and its own header say? Answered by decoding every frame."""

from __future__ import annotations

from pathlib import Path

from harness.errors import GoldenError
from harness.frames.clip import read_clip
from harness.frames.errors import ClipError
from harness.records.frames import Shape


def check_frames(path: Path, shape: Shape | None, *, remedy: str = "") -> None:
    """Decode the clip at ``path``: every frame, its digest against the header, its shape against ``shape``.

    A part whose bytes have the right sha256 may still lie about its pixels, since its header was written with it.

    Args:
        path: the clip.
        shape: frames, height, width, channels that the manifest or the candidate states.
        remedy: what to do where it is wrong.

    Raises:
        GoldenError: it is no clip, its header has the digest of other pixels, or it has another shape.
    """
    try:
        clip = read_clip(path)
    except ClipError as error:
        raise frames_error(path, error, remedy) from error
    if clip.shape != shape:
        raise GoldenError(
            f"it holds frames of shape {list(clip.shape)}, and its manifest says {list(shape or ())}",
            where=str(path),
            remedy=remedy,
        )


def frames_error(path: Path, error: ClipError, remedy: str) -> GoldenError:
    """Say of a golden's clip at ``path`` what `harness.frames.clip.read_clip` says of the file."""
    return GoldenError(f"its frames cannot be used: {error.what}", where=str(path), remedy=remedy)
