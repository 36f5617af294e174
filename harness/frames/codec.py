"""How frames become bytes: ``raw`` for speed, ``webp`` (lossless) for goldens.

Measured by ``python -m benchmarks.storage``: WebP lossless at method 0 is smaller than fast PNG and faster to write,
and needs nothing that is not installed already; slower settings save a tenth and take five times as long. Every frame
is a tensor of its own in the safetensors container: a reader that wants one frame decodes one frame. No torch here.
"""

from __future__ import annotations

import io
from typing import Literal

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Codec = Literal["raw", "webp"]
CODECS: tuple[Codec, ...] = ("raw", "webp")
WEBP_LARGEST_SIDE = 16383


def encode_webp(frame: Bytes) -> Bytes:
    """One frame [H, W, 3] as the bytes of a lossless WebP file, uint8 [N].

    Raises:
        ValueError: a side is longer than the format's 16383 pixels.
    """
    from PIL import Image

    height, width = frame.shape[:2]
    if max(height, width) > WEBP_LARGEST_SIDE:
        raise ValueError(f"a {width}x{height} frame is larger than WebP can be; write it with codec='raw'")
    out = io.BytesIO()
    Image.fromarray(frame, "RGB").save(out, "WEBP", lossless=True, quality=0, method=0)
    return np.frombuffer(out.getvalue(), dtype=np.uint8)


def decode_webp(data: Bytes) -> Bytes:
    """The frame [H, W, 3] in the bytes of a WebP file.

    Raises:
        ValueError: the bytes are not a picture in RGB.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(data.tobytes()), formats=["WEBP"]) as picture:
            if picture.mode != "RGB":
                raise ValueError(f"its mode is {picture.mode}, not RGB")
            return np.asarray(picture)
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"its WebP data is damaged: {error}") from error


def frame_name(index: int) -> str:
    """Name of the tensor that holds frame ``index``."""
    return f"frame.{index:06d}"


def pack(frames: Bytes, codec: Codec) -> dict[str, Bytes]:
    """Tensors of the container: ``frames`` [T, H, W, 3] for raw, one ``frame.NNNNNN`` [N] a frame for WebP."""
    if codec == "raw":
        return {"frames": np.ascontiguousarray(frames)}
    return {frame_name(index): encode_webp(frame) for index, frame in enumerate(frames)}
