"""Read the pictures that a request begins or ends with: untrusted bytes, decoded and resized by one stated rule.

The rule: the file is PNG, JPEG or WebP with one frame. Its EXIF orientation is applied, and it becomes 8-bit RGB. If
its size differs from the video's, it is resized with Pillow's Lanczos filter, never cropped. Its aspect ratio may
differ from the video's by 5 % at most (1280x720 for 832x480 is 2.6 % off), so that no picture is squeezed unseen.
Colour profiles are ignored.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS: Final = ("PNG", "JPEG", "WEBP")
MAX_BYTES: Final = 64 << 20
MAX_PIXELS: Final = 1 << 26
"""64 Mi pixels, an 8192x8192 picture: the largest video that a case may ask for."""
ASPECT: Final = 0.05
"""Largest relative difference of the two aspect ratios that is resized."""
_MODES: Final = frozenset({"RGB", "RGBA", "L", "LA", "P", "1"})
_OTHERS: Final = (
    (b"version https://git-lfs", "a Git LFS pointer and not the picture; fetch it with `git lfs pull`"),
    (b"GIF8", "a GIF"),
    (b"BM", "a BMP"),
    (b"II*\0", "a TIFF"),
    (b"MM\0*", "a TIFF"),
    (b"<", "markup (SVG or HTML)"),
    (b"\x80", "a pickle or another program's data"),
)


class PictureError(ValueError):
    """A picture cannot be used. The message gives the reason, without the name of the file."""


def read_picture(path: Path) -> bytes:
    """Read the bytes of a picture file.

    Raises:
        PictureError: it is absent, no regular file, empty or larger than 64 MiB.
    """
    try:
        # a pipe or a device would block or never end: the type of the open file is checked, since a name can change
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError as error:
        raise PictureError(f"cannot be read: {error.strerror}") from None
    state = os.fstat(descriptor)
    if not stat.S_ISREG(state.st_mode):
        os.close(descriptor)
        raise PictureError("is no regular file")
    with os.fdopen(descriptor, "rb") as file:
        if state.st_size > MAX_BYTES:
            raise PictureError(f"has {state.st_size} bytes; at most {MAX_BYTES} are read")
        data = file.read(MAX_BYTES + 1)
    if not data:
        raise PictureError("is empty")
    return data


def digest(data: bytes) -> str:
    """Return the sha256 (hex) of a picture's bytes."""
    return hashlib.sha256(data).hexdigest()


def decode(data: bytes, width: int, height: int) -> Image:
    """Decode a picture to 8-bit RGB of ``width`` x ``height`` pixels, by the rule of this module.

    Raises:
        PictureError: another format, several frames, transparency, too large, another aspect ratio, or damaged.
    """
    from PIL import Image as Pillow
    from PIL import ImageOps

    if not data.startswith((b"\x89PNG", b"\xff\xd8", b"RIFF")):
        kind = next((name for mark, name in _OTHERS if data.startswith(mark)), "no picture that is read here")
        raise PictureError(f"is {kind}; write it as PNG, JPEG or WebP")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # only the decoders of these formats run on untrusted bytes
            picture = Pillow.open(io.BytesIO(data), formats=FORMATS)
            _check_header(picture)
            picture.load()
            turned = ImageOps.exif_transpose(picture)
    except PictureError:
        raise
    except Exception as error:  # decoders of untrusted bytes raise exceptions of any class
        first = (str(error) or type(error).__name__).splitlines()[0]
        raise PictureError(f"is damaged or no picture: {first[:200]}") from None
    if turned.mode in ("RGBA", "LA") or "transparency" in turned.info:
        alpha = turned.convert("RGBA").getchannel("A")
        if alpha.getextrema() != (255, 255):
            raise PictureError("is transparent in places, and no background is given; flatten it")
    rgb = turned.convert("RGB")
    _check_aspect(rgb.size, width, height)
    if rgb.size != (width, height):
        rgb = rgb.resize((width, height), Pillow.Resampling.LANCZOS)
    return rgb


def _check_header(picture: Image) -> None:
    """Refuse a picture by its header, before a pixel is decoded: a small file can hold a huge picture."""
    wide, high = picture.size
    if wide * high > MAX_PIXELS:
        raise PictureError(f"has {wide}x{high} pixels; at most {MAX_PIXELS} are decoded")
    frames = getattr(picture, "n_frames", 1)
    if frames > 1:
        raise PictureError(f"is animated ({frames} frames); write the one frame that is meant")
    if picture.mode not in _MODES:
        raise PictureError(f"has colour mode {picture.mode}; write it as 8-bit RGB")


def _check_aspect(size: tuple[int, int], width: int, height: int) -> None:
    wide, high = size
    if abs(wide * height / (high * width) - 1.0) > ASPECT:
        raise PictureError(
            f"is {wide}x{high}, and the video {width}x{height}: the aspect ratios differ by more than {ASPECT:.0%}; "
            "crop it, or change width and height"
        )
