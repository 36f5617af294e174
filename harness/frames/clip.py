"""A clip in memory and on disk.

On disk a clip is a safetensors file with metadata ``quantgate.clip`` = 1, ``codec``, ``shape`` and ``sha256``. The
frames are either one tensor ``frames`` (codec ``raw``, for speed) or one lossless WebP file per frame (codec ``webp``,
for goldens), each a tensor ``frame.NNNNNN`` of its own, so that a reader of one frame decodes one frame. ``python -m
benchmarks.storage`` prints the cost of each codec: WebP lossless at method 0 is smaller than fast PNG and faster to
write, and Pillow is installed already.

A bare ``{"frames": uint8 [T, H, W, 3]}`` without metadata, which a backend may write, is read as well; it has no digest
to verify. Nothing here imports torch, and no pickle is ever loaded.
"""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from harness.frames.errors import ClipError
from harness.reading import UnreadableError, check_safetensors, parse_json
from harness.records.frames import Shape
from harness.records.temporary import temporary_beside

Bytes = npt.NDArray[np.uint8]
Codec = Literal["raw", "webp"]
CODECS: tuple[Codec, ...] = ("raw", "webp")
WEBP_LARGEST_SIDE = 16383
"""Pixels; a limit of the file format."""


@dataclass(frozen=True, eq=False)
class Clip:
    """uint8 RGB frames [T, H, W, 3], C-contiguous and read-only, T, H and W at least 1.

    Raises:
        ClipError: another dtype or shape, or no pixels.
    """

    frames: Bytes

    def __post_init__(self) -> None:
        frames = self.frames
        if not isinstance(frames, np.ndarray) or frames.dtype != np.uint8:
            kind = getattr(frames, "dtype", type(frames).__name__)
            raise ClipError(f"a clip is a uint8 array, not {kind}: values of a float video are rounded first")
        if frames.ndim != 4 or frames.shape[3] != 3 or 0 in frames.shape:
            raise ClipError(f"a clip has shape [T, H, W, 3] with every side at least 1, not {list(frames.shape)}")
        # A view of the caller's array, where it is contiguous: a clip of 81 frames is 97 MB, too large to copy.
        view = np.ascontiguousarray(frames).view()
        view.flags.writeable = False
        object.__setattr__(self, "frames", view)

    @property
    def shape(self) -> Shape:
        """Frames, height, width, channels."""
        count, height, width, channels = self.frames.shape
        return count, height, width, channels

    @cached_property
    def digest(self) -> str:
        """sha256 (hex) over the shape as JSON and the frames' bytes: two clips with one digest have equal pixels."""
        sha256 = hashlib.sha256(json.dumps(list(self.shape)).encode())
        sha256.update(self.frames.data)
        return sha256.hexdigest()

    def __eq__(self, other: object) -> bool:
        """Compare shape and pixels."""
        return isinstance(other, Clip) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)


def write_clip(path: Path, clip: Clip, codec: Codec = "webp") -> Path:
    """Write ``clip`` to ``path`` without loss. Atomic: a temporary file in the same folder, then one rename.

    Returns:
        ``path``.

    Raises:
        ClipError: the codec is unknown or cannot hold the frames.
    """
    from safetensors.numpy import save_file

    path = Path(path)
    if codec not in CODECS:
        raise ClipError(f"{path}: unknown codec {codec!r}; use one of {', '.join(CODECS)}")
    try:
        tensors = pack(clip.frames, codec)
    except ValueError as error:
        raise ClipError(f"{path}: {error}") from error
    metadata = {"quantgate.clip": "1", "codec": codec, "shape": json.dumps(list(clip.shape)), "sha256": clip.digest}
    temporary = temporary_beside(path)
    try:
        save_file(tensors, temporary, metadata=metadata)
        temporary.chmod(0o644)  # temporary files are private; a clip is read by other users of a runner
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return path


def read_clip(path: Path) -> Clip:
    """Read a clip and verify shape and digest that its file states.

    Raises:
        ClipError: the file is missing, truncated or no clip, or its pixels are not those that were written.
    """
    shape, digest, frames = _read(Path(path))
    clip = Clip(frames)
    if shape is not None and clip.shape != shape:
        raise ClipError(
            f"{path}: its metadata states {list(shape)}, its frames are {list(clip.shape)}; fetch or generate it again"
        )
    if digest is not None and clip.digest != digest:
        raise ClipError(f"{path}: its pixels have sha256 {clip.digest}, it was written with {digest}; fetch it again")
    return clip


def _read(path: Path) -> tuple[Shape | None, str | None, Bytes]:
    """Return stated shape, stated digest and decoded frames. Shape and digest are None in a bare file."""
    from safetensors import SafetensorError, safe_open

    try:
        check_safetensors(path)
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            shape = _stated_shape(path, metadata)
            names = set(file.keys())
            if "frames" in names:
                return shape, metadata.get("sha256"), file.get_tensor("frames")
            if metadata.get("codec") != "webp" or shape is None:
                raise ClipError(f"{path}: not a clip: it holds neither `frames` nor WebP frames with a shape")
            # the stated number is untrusted: names of its frames are made only if there are as many tensors
            if len(names) != shape[0] or names != {frame_name(index) for index in range(shape[0])}:
                raise ClipError(
                    f"{path}: its metadata states {shape[0]} frames, it holds {len(names)}, or frames of other names; "
                    "fetch it again"
                )
            frames = np.empty((0, 0, 0, 3), dtype=np.uint8)
            for index in range(shape[0]):
                frame = decode_webp(file.get_tensor(frame_name(index)))
                if frame.shape != shape[1:]:
                    raise ClipError(
                        f"{path}: frame {index} is {list(frame.shape)}, not {list(shape[1:])}; fetch it again"
                    )
                if index == 0:  # only now: the stated shape is untrusted, and may ask for more memory than there is
                    frames = np.empty(shape, dtype=np.uint8)
                frames[index] = frame
            return shape, metadata.get("sha256"), frames
    except UnreadableError as error:
        raise ClipError(f"{path}: cannot be read as a clip: {error.message}; fetch or generate it again") from error
    except ValueError as error:
        raise ClipError(f"{path}: {error}") from error
    except (SafetensorError, OSError) as error:
        raise ClipError(f"{path}: cannot be read as a clip: {error}; fetch or generate it again") from error


def _stated_shape(path: Path, metadata: dict[str, str]) -> Shape | None:
    """Return the shape in the metadata, None if it states none."""
    if "shape" not in metadata:
        return None
    sides = parse_json(metadata["shape"], f"{path}: shape")
    if not isinstance(sides, list) or len(sides) != 4 or not all(type(side) is int and side > 0 for side in sides):
        raise ClipError(f"{path}: its metadata gives the shape {metadata['shape']}, not four positive numbers")
    return sides[0], sides[1], sides[2], sides[3]


def encode_webp(frame: Bytes) -> Bytes:
    """Encode one frame [H, W, 3] as a lossless WebP file and return its bytes, uint8 [N].

    Raises:
        ValueError: a side is longer than the format's 16383 pixels.
    """
    from PIL import Image

    height, width = frame.shape[:2]
    if max(height, width) > WEBP_LARGEST_SIDE:
        raise ValueError(f"a {width}x{height} frame is larger than WebP can be; write it with codec='raw'")
    file = io.BytesIO()
    # Slower methods save a tenth of the size and take five times as long (python -m benchmarks.storage).
    Image.fromarray(frame, "RGB").save(file, "WEBP", lossless=True, quality=0, method=0)
    return np.frombuffer(file.getvalue(), dtype=np.uint8)


def decode_webp(data: Bytes) -> Bytes:
    """Decode the bytes of a WebP file into a frame [H, W, 3].

    Raises:
        ValueError: the bytes are not an RGB picture.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        # Only WebP: Pillow would otherwise offer the bytes to every decoder that it has.
        with Image.open(io.BytesIO(data.tobytes()), formats=["WEBP"]) as picture:
            if picture.mode != "RGB":
                raise ValueError(f"its mode is {picture.mode}, not RGB")
            return np.asarray(picture)
    except (UnidentifiedImageError, OSError) as error:
        raise ValueError(f"its WebP data is damaged: {error}") from error


def frame_name(index: int) -> str:
    """Return the name of the tensor that holds frame ``index``, for example ``frame.000007``."""
    return f"frame.{index:06d}"


def pack(frames: Bytes, codec: Codec) -> dict[str, Bytes]:
    """Return the tensors of a clip file: ``frames`` [T, H, W, 3] for raw, a ``frame.NNNNNN`` [N] per frame for WebP."""
    if codec == "raw":
        return {"frames": np.ascontiguousarray(frames)}
    return {frame_name(index): encode_webp(frame) for index, frame in enumerate(frames)}
