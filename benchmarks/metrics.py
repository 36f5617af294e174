"""Cost of a comparison: the whole gating set beside other libraries' single metrics, on one pair of clips.

``python -m benchmarks.metrics`` runs everything on the CPU with one thread. Every line is a ratio to the time that
scikit-image's SSIM takes for the same frames. Slow libraries are timed on a few frames and scaled up, which the table
states; quantgate always runs on all of them.

Exit code 1: SSIM, the worst tile or PSNR differ from scikit-image by more than 1e-4 in any frame, or the memory goal is
missed.
"""

from __future__ import annotations

import argparse
import resource
import sys
import time

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.metrics_timing import Timing, best_of, gating_set, scaled
from harness.frames.clip import Clip
from harness.frames.compare import compare
from harness.frames.statistics import pair_statistics

AGREE = 1e-4
MEMORY_GOAL = 1 << 30
"""Bytes beyond the inputs that a 720p pair of 189 frames may take."""


def make_pair(count: int, height: int, width: int, seed: int = 0) -> tuple[Clip, Clip]:
    """Draw a textured pattern that moves, and the same with other grain; frame by frame to save memory."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    clips = [np.empty((count, height, width, 3), np.uint8) for _ in range(2)]
    for t in range(count):
        wave = np.sin((x + 3 * t) / 30) * np.cos((y - t) / 20)
        base = 127 + 90 * wave[..., None] * np.array([1.0, 0.6, -0.7], np.float32)
        for clip, grain in zip(clips, (4, 6), strict=True):
            clip[t] = np.clip(base + grain * rng.standard_normal(base.shape, np.float32), 0, 255)
    return Clip(clips[0]), Clip(clips[1])


def first_call(golden: Clip, candidate: Clip) -> float:
    """Return process seconds of the first comparison in this process: it compiles the kernel, or reads its cache."""
    began = time.process_time()
    pair_statistics(Clip(golden.frames[:1]), Clip(candidate.frames[:1]))
    return time.process_time() - began


def other_libraries(golden: Clip, candidate: Clip, frames: int) -> dict[str, Timing]:
    """Time scikit-image, SGLang's recipe, torchmetrics and pytorch-msssim; the last two only if installed."""
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    count = golden.shape[0]
    timings: dict[str, Timing] = {}

    def reference(number: int) -> None:
        for first, second in zip(golden.frames[:number], candidate.frames[:number], strict=True):
            structural_similarity(first, second, channel_axis=-1)  # type: ignore[no-untyped-call]

    def recipe(number: int) -> None:
        for first, second in zip(golden.frames[:number], candidate.frames[:number], strict=True):
            structural_similarity(first, second, channel_axis=-1)  # type: ignore[no-untyped-call]
            peak_signal_noise_ratio(first, second, data_range=255)  # type: ignore[no-untyped-call]
            np.abs(first.astype(np.float32) - second.astype(np.float32)).mean()

    timings["scikit-image SSIM, uniform 7x7"] = scaled(reference, frames, count)
    timings["SGLang's recipe (SSIM, PSNR, MAD), every frame"] = scaled(recipe, frames, count)
    with torch.inference_mode():
        sides = [torch.tensor(clip.frames[:frames]).permute(0, 3, 1, 2) for clip in (golden, candidate)]
        try:
            from torchmetrics.functional.image import structural_similarity_index_measure as torchmetrics_ssim

            def metrics_ssim(number: int) -> None:
                for t in range(number):
                    torchmetrics_ssim(sides[0][t : t + 1].float(), sides[1][t : t + 1].float(), data_range=255.0)

            timings["torchmetrics SSIM, gaussian"] = scaled(metrics_ssim, frames, count)
        except ImportError:
            print("torchmetrics is not installed: left out")
        try:
            from pytorch_msssim import ssim as msssim_ssim

            def fast_ssim(number: int) -> None:
                for t in range(number):
                    msssim_ssim(sides[0][t : t + 1].float(), sides[1][t : t + 1].float(), data_range=255)

            timings["pytorch-msssim SSIM, gaussian"] = scaled(fast_ssim, frames, count)
        except ImportError:
            print("pytorch-msssim is not installed: left out")
    return timings


def bandwidth() -> float:
    """Return the bytes per second that one thread reads of a large array."""
    size = 1 << 28
    data: npt.NDArray[np.int64] = np.ones(size // 8, np.int64)
    return size / best_of(data.sum, 3)


def agreement(golden: Clip, candidate: Clip) -> float:
    """Return the largest difference from scikit-image of SSIM, of the worst tile, and of PSNR in dB, in any frame."""
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    few = Clip(golden.frames[:3]), Clip(candidate.frames[:3])
    ssim, psnr, tile = compare(*few, ["ssim", "psnr", "tile_ssim"]).metrics
    if ssim.worst is None or psnr.worst is None or tile.worst is None or tile.worst_tile is None:
        raise SystemExit(ssim.why or psnr.why or tile.why)
    largest = 0.0
    for index, (first, second) in enumerate(zip(few[0].frames, few[1].frames, strict=True)):
        mean, ssim_map = structural_similarity(first, second, channel_axis=-1, full=True)  # type: ignore[no-untyped-call]
        decibel = peak_signal_noise_ratio(first, second, data_range=255)  # type: ignore[no-untyped-call]
        largest = max(largest, abs(ssim.per_frame[index] - mean), abs(psnr.per_frame[index] - decibel))
        if index == tile.worst_frame:
            box = tile.worst_tile
            inside = ssim_map[box.y : box.y + box.height, box.x : box.x + box.width]
            largest = max(largest, abs(tile.worst - float(inside.mean())))
    return largest


def memory(count: int = 189, height: int = 720, width: int = 1280) -> int:
    """Return the bytes by which the process grows at most, beyond the inputs, while it compares a 720p pair."""
    golden, candidate = make_pair(count, height, width)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    compare(golden, candidate)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024


def main(arguments: list[str] | None = None) -> int:
    """Print the table; 1 if a value differs from scikit-image or the memory goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", default="81x480x832", help="frames x height x width")
    parser.add_argument("--frames", type=int, default=4, help="frames that the slow libraries are timed on")
    parser.add_argument("--no-memory", action="store_true", help="leave the 720p memory run out")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    count, height, width = (int(side) for side in options.shape.split("x"))
    golden, candidate = make_pair(count, height, width)
    size = 2 * golden.frames.nbytes
    compiled = first_call(golden, candidate)
    table = other_libraries(golden, candidate, min(options.frames, count))
    whole = best_of(lambda: gating_set(golden, candidate), 3)
    table["quantgate, whole gating set"] = Timing(whole, count)
    baseline = table["scikit-image SSIM, uniform 7x7"].seconds
    rate = bandwidth()
    print(f"pair of {count} frames {width}x{height}, {size:,} bytes; one thread; least of several runs")
    print(f"{'':52} {'seconds':>9} {'of frames':>9} {'scikit-image SSIM / this':>25} {'of reading speed':>17}")
    for name, timing in table.items():
        share = size / timing.seconds / rate
        print(f"{name:52} {timing.seconds:9.4f} {timing.frames:9} {baseline / timing.seconds:25.1f} {share:17.1%}")
    print(f"first comparison of a process over a whole comparison: {compiled / whole:.2f}")
    difference = agreement(golden, candidate)
    print(f"largest difference from scikit-image in any frame: {difference:.1e} (at most {AGREE:g})")
    failed = difference > AGREE
    if not options.no_memory:
        grown = memory()
        failed |= grown >= MEMORY_GOAL
        print(f"memory beyond the inputs, 189 frames 1280x720: {grown:,} bytes (under {MEMORY_GOAL:,})")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
