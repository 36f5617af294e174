"""What a lossless clip costs to keep: size, time to encode and to decode, exactness, codec by codec.

``python -m benchmarks.storage`` measures what Pillow and the standard library offer on two clips, clean and with grain.
Sizes are shares of the raw frames, times are ratios to writing and reading the raw container. Goldens are kept as
``webp`` (method 0): smaller than fast PNG and faster to write; slower settings save a tenth more and take five times as
long. Candidates may be ``raw``. Exit code 1: a codec was not exact, or WebP is no longer smaller than fast PNG.
"""

from __future__ import annotations

import argparse
import io
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image

from benchmarks.faults.benign import grain_2
from benchmarks.faults.output import apply
from benchmarks.faults.scenes import scenes
from harness.frames.clip import Clip, Codec, read_clip, write_clip

Frame = npt.NDArray[np.uint8]
Encode = Callable[[Frame], bytes]
Decode = Callable[[bytes], Frame]


def with_pillow(kind: str, **options: int | bool) -> tuple[Encode, Decode]:
    """A Pillow format, frame by frame."""

    def encode(frame: Frame) -> bytes:
        out = io.BytesIO()
        Image.fromarray(frame, "RGB").save(out, kind, **options)
        return out.getvalue()

    def decode(data: bytes) -> Frame:
        with Image.open(io.BytesIO(data)) as picture:
            return np.asarray(picture.convert("RGB"))

    return encode, decode


def deflated(level: int) -> tuple[Encode, Decode]:
    """Differences to the left neighbour through zlib, with the shape in front."""

    def encode(frame: Frame) -> bytes:
        left = np.zeros_like(frame)
        left[:, 1:] = frame[:, :-1]
        return np.array(frame.shape, np.int64).tobytes() + zlib.compress((frame - left).tobytes(), level)

    def decode(data: bytes) -> Frame:
        shape = tuple(np.frombuffer(data[:24], np.int64))
        steps = np.frombuffer(zlib.decompress(data[24:]), np.uint8).reshape(shape)
        return np.cumsum(steps, axis=1, dtype=np.uint8)

    return encode, decode


def codecs() -> dict[str, tuple[Encode, Decode]]:
    """What is available here."""
    return {
        "zlib 1 of differences": deflated(1),
        "PNG, level 1": with_pillow("PNG", compress_level=1),
        "PNG, level 6": with_pillow("PNG", compress_level=6),
        "WebP lossless, method 0": with_pillow("WEBP", lossless=True, quality=0, method=0),
        "WebP lossless, method 2": with_pillow("WEBP", lossless=True, quality=25, method=2),
    }


def seconds(function: Callable[[], object]) -> float:
    """Process seconds, least of two runs."""
    least = float("inf")
    for _ in range(2):
        began = time.process_time()
        function()
        least = min(least, time.process_time() - began)
    return least


def container(clip: Clip, codec: Codec, folder: Path) -> tuple[int, float, float, bool]:
    """Size, encode and decode seconds, and exactness of this package's own file, digests included."""
    path = folder / f"{codec}.safetensors"
    encode = seconds(lambda: write_clip(path, Clip(clip.frames), codec))
    decode = seconds(lambda: read_clip(path))
    return path.stat().st_size, encode, decode, read_clip(path) == clip


def table(name: str, clip: Clip) -> bool:
    """Print one clip's table; whether all is exact and the choice still holds."""
    raw = clip.frames.nbytes
    print(f"\n{name}, {'x'.join(map(str, clip.shape))}, {raw:,} bytes raw")
    print(f"{'codec':28} {'size':>8} {'encode':>8} {'decode':>8} exact")
    with tempfile.TemporaryDirectory() as folder:
        base = container(clip, "raw", Path(folder))
        rows = {"raw container (chosen)": base, "webp container (chosen)": container(clip, "webp", Path(folder))}
    for label, (encode, decode) in codecs().items():
        data = [encode(frame) for frame in clip.frames]
        exact = all(np.array_equal(decode(part), frame) for part, frame in zip(data, clip.frames, strict=True))
        rows[label] = (
            sum(map(len, data)),
            seconds(lambda encode=encode: [encode(frame) for frame in clip.frames]),  # type: ignore[misc]
            seconds(lambda decode=decode, data=data: [decode(part) for part in data]),  # type: ignore[misc]
            exact,
        )
    for label, (size, encoding, decoding, exact) in rows.items():
        print(f"{label:28} {size / raw:8.1%} {encoding / base[1]:8.1f} {decoding / base[2]:8.1f} {exact!s}")
    smaller = rows["webp container (chosen)"][0] < rows["PNG, level 1"][0]
    return smaller and all(row[3] for row in rows.values())


def main(arguments: list[str] | None = None) -> int:
    """Print the tables; 1 where something is not exact or the choice no longer holds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scenes", nargs="*", help="names of scenes; all by default")
    options = parser.parse_args(arguments)
    good = True
    for name, clip in scenes().items():
        if not options.scenes or name in options.scenes:
            good &= table(name, clip)
            good &= table(f"{name} with grain", apply(grain_2, clip))
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())
