"""A clip in memory and on disk.

On disk a clip is a safetensors container: metadata ``quantgate.clip`` = 1, ``codec``, ``shape`` and ``sha256``, and
the frames either as one tensor ``frames`` (raw) or as one lossless WebP a frame (see `harness.frames.codec`).
A bare ``{"frames": uint8 [T, H, W, 3]}`` without metadata, which a backend may write, is read as well; it has no
digest to be held against. Nothing here imports torch, and nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from harness.frames.codec import CODECS, Bytes, Codec, decode_webp, frame_name, pack
from harness.frames.errors import ClipError
from harness.records.frames import Shape
from harness.records.temporary import temporary_beside


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
            raise ClipError(f"a clip is a uint8 array, not {kind}; round float video with Clip.from_float first")
        if frames.ndim != 4 or frames.shape[3] != 3 or 0 in frames.shape:
            raise ClipError(f"a clip has shape [T, H, W, 3] with every side at least 1, not {list(frames.shape)}")
        view = np.ascontiguousarray(frames).view()
        view.flags.writeable = False
        object.__setattr__(self, "frames", view)

    @classmethod
    def from_float(cls, video: npt.NDArray[np.floating[Any]]) -> Clip:
        """Round video [T, H, W, 3] in [0, 1] to 8 bits, half to even, values outside clipped.

        Raises:
            ClipError: NaN or infinity: as uint8 they would look like a plausible 0.
        """
        out = np.empty(video.shape, dtype=np.uint8)
        for index, frame in enumerate(video):
            if not np.isfinite(frame).all():
                raise ClipError(
                    f"frame {index} holds NaN or infinity; look at it with harness.frames.sanity.float_stats"
                )
            out[index] = np.rint(np.clip(frame.astype(np.float32), 0.0, 1.0) * np.float32(255.0)).astype(np.uint8)
        return cls(out)

    @property
    def shape(self) -> Shape:
        """Frames, height, width, channels."""
        count, height, width, channels = self.frames.shape
        return count, height, width, channels

    @cached_property
    def digest(self) -> str:
        """sha256 (hex) over the shape, as JSON, and the frames' bytes."""
        whole = hashlib.sha256(json.dumps(list(self.shape)).encode())
        whole.update(self.frames.data)
        return whole.hexdigest()

    def __eq__(self, other: object) -> bool:
        """Same shape, same bytes."""
        return isinstance(other, Clip) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)


def write_clip(path: Path, clip: Clip, codec: Codec = "webp") -> Path:
    """Write ``clip`` to ``path`` without loss, atomically: temporary file in the same folder, then one rename.

    Raises:
        ClipError: an unknown codec, or frames the codec cannot hold.
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
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return path


def read_clip(path: Path) -> Clip:
    """Read a clip and hold it against the digest in its file.

    Raises:
        ClipError: missing, truncated, not a clip, or its pixels are not those that were written.
    """
    shape, digest, frames = _read(Path(path))
    clip = Clip(frames)
    if shape is not None and clip.shape != shape:
        raise ClipError(f"{path}: says {list(shape)} and holds {list(clip.shape)}; fetch or generate it again")
    if digest is not None and clip.digest != digest:
        raise ClipError(f"{path}: its pixels have sha256 {clip.digest}, it was written with {digest}; fetch it again")
    return clip


def _read(path: Path) -> tuple[Shape | None, str | None, Bytes]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            shape = _shape(path, metadata)
            names = set(file.keys())
            if "frames" in names:
                return shape, metadata.get("sha256"), file.get_tensor("frames")
            if metadata.get("codec") != "webp" or shape is None:
                raise ClipError(f"{path}: no clip: it holds neither `frames` nor WebP frames with a shape")
            wanted = {frame_name(index) for index in range(shape[0])}
            if names != wanted:
                odd = sorted(names ^ wanted)[0]
                raise ClipError(f"{path}: says {shape[0]} frames and holds {len(names)} ({odd} is odd); fetch it again")
            out = np.empty(shape, dtype=np.uint8)
            for index in range(shape[0]):
                frame = decode_webp(file.get_tensor(frame_name(index)))
                if frame.shape != shape[1:]:
                    raise ClipError(
                        f"{path}: frame {index} is {list(frame.shape)}, not {list(shape[1:])}; fetch it again"
                    )
                out[index] = frame
            return shape, metadata.get("sha256"), out
    except ValueError as error:
        raise ClipError(f"{path}: {error}") from error
    except (SafetensorError, OSError) as error:
        raise ClipError(f"{path}: cannot be read as a clip: {error}; fetch or generate it again") from error


def _shape(path: Path, metadata: dict[str, str]) -> Shape | None:
    if "shape" not in metadata:
        return None
    found = json.loads(metadata["shape"])
    if not isinstance(found, list) or len(found) != 4 or not all(type(side) is int and side > 0 for side in found):
        raise ClipError(f"{path}: its metadata gives the shape {metadata['shape']}, not four positive numbers")
    return found[0], found[1], found[2], found[3]
