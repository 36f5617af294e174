"""Causes on finished frames: changes of the embedded goldens' clips, and how often the first cause is right.

    python -m benchmarks.clip_causes

Every change is applied to three goldens with half a level of noise, as runs of a GPU differ. Pairs of different goldens
and of repeated runs are healthy: they must get no cause. With ``QUANTGATE_REAL_FRAMES`` set, the same changes are
scored on
real frames, apart. The changes overlap with what the hypotheses were written for; ``benchmarks.unseen`` is written
apart.
"""

from __future__ import annotations

import io
import itertools
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from scipy.ndimage import gaussian_filter, shift, zoom

from harness.frames.clip import Clip, read_clip
from harness.frames.compare import compare
from harness.frames.hypotheses import explain

Frames = npt.NDArray[np.float64]
ROOT = Path(__file__).parents[1]
GOLDENS = ("bf16", "fp8", "nvfp4")
LUMA = np.array([0.299, 0.587, 0.114])


def _set(
    place: Any, value: Callable[[Frames, np.random.Generator], Any]
) -> Callable[[Frames, np.random.Generator], Frames]:
    def change(frames: Frames, rng: np.random.Generator) -> Frames:
        out = frames.copy()
        out[place] = value(out[place], rng)
        return out

    return change


def _each(change: Callable[[Image.Image], Image.Image]) -> Callable[[Frames, np.random.Generator], Frames]:
    def every(frames: Frames, rng: np.random.Generator) -> Frames:
        levels = np.rint(frames * 255).astype(np.uint8)
        return np.stack([np.asarray(change(Image.fromarray(frame))) for frame in levels]) / 255.0

    return every


def _jpeg(quality: int) -> Callable[[Image.Image], Image.Image]:
    def coded(image: Image.Image) -> Image.Image:
        place = io.BytesIO()
        image.save(place, "JPEG", quality=quality)
        return Image.open(place).convert("RGB")

    return coded


def _mesh(frames: Frames, rng: np.random.Generator) -> Frames:
    y, x = np.mgrid[: frames.shape[1], : frames.shape[2]]
    return frames + 0.06 * np.where(((x + y) % 4 == 0) | ((x - y) % 4 == 0), 1, -1)[None, :, :, None]


def _saturated(frames: Frames, rng: np.random.Generator) -> Frames:
    grey = (frames @ LUMA)[..., None]
    return np.asarray(grey + 0.6 * (frames - grey))


def _noise(frames: Frames, rng: np.random.Generator) -> Frames:
    return 0.5 + 0.2 * rng.standard_normal(frames.shape)


def _blinking(frames: Frames, rng: np.random.Generator) -> Frames:
    return frames + 0.04 * np.array([1, -1, 1, -1])[:, None, None, None]


REGION = (slice(None), slice(20, 40), slice(30, 60))
CHANGES: Mapping[str, tuple[tuple[str, ...], Callable[[Frames, np.random.Generator], Frames]]] = {
    "frames reversed": (("frames_reversed",), lambda f, rng: f[::-1]),
    "frames permuted": (("frames_permuted",), lambda f, rng: f[rng.permutation(len(f))]),
    "off by one": (("frames_shifted",), lambda f, rng: f[np.clip(np.arange(len(f)) + 1, 0, len(f) - 1)]),
    "one frame repeated": (("frames_repeated",), lambda f, rng: np.concatenate([f[:8], f[7:8], f[9:]])),
    "one frame dropped": (("frames_dropped",), lambda f, rng: np.concatenate([f[:7], f[8:], f[-1:]])),
    "frozen from the middle": (("frames_frozen",), lambda f, rng: f[np.minimum(np.arange(len(f)), 6)]),
    "BGR": (("channels_exchanged",), lambda f, rng: f[..., ::-1]),
    "limited range": (("limited_range", "value_range"), lambda f, rng: f * 219 / 255 + 16 / 255),
    "gamma": (("gamma",), lambda f, rng: f**1.2),
    "gain": (("gain",), lambda f, rng: f * 0.9),
    "offset": (("offset",), lambda f, rng: f + 0.03),
    "contrast": (("contrast",), lambda f, rng: 0.5 + 0.8 * (f - 0.5)),
    "tint": (("tint",), lambda f, rng: f + np.array([0.03, 0.0, -0.02])),
    "saturation": (("saturation",), _saturated),
    "inverted": (("inverted",), lambda f, rng: 1 - f),
    "shifted": (("shifted",), lambda f, rng: np.roll(f, (2, 3), (1, 2))),
    "a third of a pixel": (("shifted",), lambda f, rng: shift(f, (0, 0.3, 0.3, 0), order=1, mode="nearest")),
    "mirrored": (("flipped",), lambda f, rng: f[:, :, ::-1]),
    "upside down": (("flipped",), lambda f, rng: f[:, ::-1]),
    "blurred": (("blur",), lambda f, rng: gaussian_filter(f, (0, 1.2, 1.2, 0))),
    "half resolution": (("resized",), lambda f, rng: zoom(f[:, ::2, ::2], (1, 2, 2, 1), order=0)),
    "JPEG 30": (("codec",), _each(_jpeg(30))),
    "16 levels": (("quantized_levels",), lambda f, rng: np.floor(f * 16) / 16),
    "mesh": (("mesh",), _mesh),
    "only the first frame": (("frames_overwritten",), _set(slice(1, None), _noise)),
    "one frame of noise": (("frames_overwritten",), _set(5, lambda f, rng: rng.random(f.shape))),
    "one black frame": (("frames_overwritten",), _set(5, lambda f, rng: 0 * f)),
    "all white": (("frames_overwritten",), lambda f, rng: 0 * f + 1),
    "flash": (("flash",), _set(8, lambda f, rng: f + 0.08)),
    "first frame tinted": (("tint", "channel_affine"), _set(0, lambda f, rng: f + np.array([0.06, 0, -0.06]))),
    "last frames blink": (("flicker",), _set(slice(-4, None), _blinking)),
    "a region of noise": (("region_overwritten",), _set(REGION, _noise)),
    "a black region": (("region_overwritten",), _set(REGION, lambda f, rng: 0 * f)),
    "grain": (("noise_added",), lambda f, rng: f + rng.normal(0, 0.05, f.shape)),
}  # fmt: skip


def levels(frames: Frames, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Frames in [0, 1] as 8-bit values, half a level of noise added."""
    return np.rint(np.clip(frames + rng.normal(0, 0.002, frames.shape), 0, 1) * 255).astype(np.uint8)


def clips() -> Iterator[tuple[str, npt.NDArray[np.uint8]]]:
    """The committed goldens' clips."""
    for name in GOLDENS:
        yield name, read_clip(next((ROOT / "goldens" / "cpu" / name).glob("*/clip.safetensors"))).frames


def real_clips() -> Iterator[tuple[str, npt.NDArray[np.uint8]]]:
    """Three real frames a clip, repeated to nine so that changes in time have something to change; none if absent."""
    folder = os.environ.get("QUANTGATE_REAL_FRAMES")
    for first in sorted(Path(folder).glob("*_frame_0.png")) if folder else []:
        names = [first.with_name(first.name.replace("_frame_0", f"_frame_{part}")) for part in ("0", "mid", "last")]
        frames = np.stack([np.asarray(Image.open(name).convert("RGB")) for name in names])
        yield first.name.replace("_frame_0.png", ""), np.ascontiguousarray(frames[:, : 64 * 4 : 1, : 96 * 4 : 1])


def score(sources: Mapping[str, npt.NDArray[np.uint8]], skip: frozenset[str]) -> tuple[int, int, int, list[float]]:
    """Print each miss. Returns changes, first cause right, first or second right, and the time of each
    search over that of the comparison with all metrics."""
    asked = first = second = 0
    ratios: list[float] = []
    for name, golden in sources.items():
        for change, (codes, make) in CHANGES.items():
            if change in skip:
                continue
            rng = np.random.default_rng(asked)
            candidate = levels(np.ascontiguousarray(make(golden / 255.0, rng)), rng)
            began = time.perf_counter()
            compare(Clip(golden), Clip(candidate))
            compared = time.perf_counter()
            causes = [row.code for row in explain(golden, candidate)]
            ratios.append((time.perf_counter() - compared) / (compared - began))
            asked += 1
            first += causes[:1] != [] and causes[0] in codes
            second += any(code in codes for code in causes[:2])
            if not causes or causes[0] not in codes:
                print(f"  {name}, {change}: {', '.join(causes) or 'no cause'}; right: {' or '.join(codes)}")
    return asked, first, second, ratios


def main() -> int:
    """Print the tables. Exit code 1 if a healthy pair gets a cause."""
    sources = dict(clips())
    print("embedded goldens:")
    asked, first, second, ratios = score(sources, frozenset())
    print(f"first cause right {first} of {asked}, first or second {second}")
    print(
        f"a search over a comparison with all metrics: median {statistics.median(ratios):.0f}, worst {max(ratios):.0f}"
    )
    healthy = [(f"{a} against {b}", sources[a], sources[b]) for a, b in itertools.permutations(sources, 2)]
    rng = np.random.default_rng(1)
    healthy += [(f"{name}, repeated", clip, levels(clip / 255.0, rng)) for name, clip in sources.items()]
    alarmed = [(name, [row.code for row in explain(a, b)]) for name, a, b in healthy]
    wrong = [(name, codes) for name, codes in alarmed if codes]
    print(f"healthy pairs given a cause: {len(wrong)} of {len(healthy)}" + "".join(f"\n  {n}: {c}" for n, c in wrong))
    real = dict(real_clips())
    if real:
        in_time = frozenset(
            name
            for name, (codes, _) in CHANGES.items()
            if codes[0].startswith("frames_") or codes[0] in ("flash", "flicker")
        )
        print("real frames (changes in time left out: three frames a clip):")
        asked, first, second, _ = score(real, in_time | {"only the first frame"})
        print(f"first cause right {first} of {asked}, first or second {second}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
