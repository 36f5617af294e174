"""What a comparison costs: the whole gating set against other libraries' single metrics, on one pair of clips.

``python -m benchmarks.metrics`` runs everything on the CPU with one thread; ``--device cuda`` puts the frames on the
GPU first, times the passes there, and holds them against the goals for an H200. Every line is a ratio to the time that
scikit-image's SSIM takes for the same frames. Slow libraries are timed on a few frames and scaled up, which is said;
ours always runs on all of them.

Exit code 1: numba, torch or, on a GPU, Triton differ from scikit-image by more than 1e-4 in any frame, or the memory
goal is missed.
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
from harness.frames.statistics import Implementation, default_implementation, pair_statistics

AGREE = 1e-4
MEMORY_GOAL = 1 << 30
"""Bytes beyond the inputs that a 720p pair of 189 frames may take."""


def make_pair(count: int, height: int, width: int, seed: int = 0) -> tuple[Clip, Clip]:
    """A textured pattern that moves, and the same with other grain; made frame by frame to save memory."""
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
    """Process seconds of the first comparison in this process: the kernel is compiled, or read from its cache."""
    began = time.process_time()
    pair_statistics(Clip(golden.frames[:1]), Clip(candidate.frames[:1]), "numba")
    return time.process_time() - began


def other_libraries(golden: Clip, candidate: Clip, frames: int, device: str) -> dict[str, Timing]:
    """scikit-image, torchmetrics, pytorch-msssim and SGLang's recipe, those that are installed."""
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    count = golden.shape[0]
    found: dict[str, Timing] = {}

    def reference(number: int) -> None:
        for one, two in zip(golden.frames[:number], candidate.frames[:number], strict=True):
            structural_similarity(one, two, channel_axis=-1)  # type: ignore[no-untyped-call]

    def recipe(number: int) -> None:
        for one, two in zip(golden.frames[:number], candidate.frames[:number], strict=True):
            structural_similarity(one, two, channel_axis=-1)  # type: ignore[no-untyped-call]
            peak_signal_noise_ratio(one, two, data_range=255)  # type: ignore[no-untyped-call]
            np.abs(one.astype(np.float32) - two.astype(np.float32)).mean()

    found["scikit-image SSIM, uniform 7x7"] = scaled(reference, frames, count, "cpu")
    found["SGLang's recipe (SSIM, PSNR, MAD), every frame"] = scaled(recipe, frames, count, "cpu")
    with torch.inference_mode():
        sides = [torch.tensor(clip.frames).to(device).permute(0, 3, 1, 2) for clip in (golden, candidate)]
        try:
            from torchmetrics.functional.image import structural_similarity_index_measure as torchmetrics_ssim

            def metrics_ssim(number: int) -> None:
                for t in range(number):
                    torchmetrics_ssim(sides[0][t : t + 1].float(), sides[1][t : t + 1].float(), data_range=255.0)

            found["torchmetrics SSIM, gaussian"] = scaled(metrics_ssim, frames, count, device)
        except ImportError:
            print("torchmetrics is not installed: left out")
        try:
            from pytorch_msssim import ssim as msssim_ssim

            def fast_ssim(number: int) -> None:
                for t in range(number):
                    msssim_ssim(sides[0][t : t + 1].float(), sides[1][t : t + 1].float(), data_range=255)

            found["pytorch-msssim SSIM, gaussian"] = scaled(fast_ssim, frames, count, device)
        except ImportError:
            print("pytorch-msssim is not installed: left out")
    return found


def bandwidth(device: str) -> float:
    """Bytes a second that one thread reads of a large array, or that the GPU reads of a large tensor."""
    size = 1 << 28
    if device == "cpu":
        data: npt.NDArray[np.int64] = np.ones(size // 8, np.int64)
        return size / best_of(data.sum, 3, device)
    tensor = torch.ones(size, dtype=torch.int64, device=device)
    return 8 * size / best_of(tensor.sum, 3, device)


def agreement(golden: Clip, candidate: Clip, device: str) -> float:
    """Largest difference to scikit-image of SSIM, of the worst tile, and of PSNR in dB, in any frame."""
    few = Clip(golden.frames[:3]), Clip(candidate.frames[:3])
    names = ["ssim", "psnr", "tile_ssim", "sharpness_ratio", "contrast_ratio", "motion_ratio"]
    implementations: dict[Implementation, str] = {
        "numba": "cpu",
        "torch": device,
        default_implementation(device): device,
    }
    wanted = compare(*few, names, implementation="scikit-image").metrics
    largest = 0.0
    for implementation, place in implementations.items():
        for ours, theirs in zip(
            compare(*few, names, place, implementation=implementation).metrics, wanted, strict=True
        ):
            if ours.worst is None or theirs.worst is None:
                raise SystemExit(f"{ours.name}: {ours.why or theirs.why}")
            values = zip(ours.per_frame or (ours.worst,), theirs.per_frame or (theirs.worst,), strict=True)
            largest = max([largest, *(abs(a - b) for a, b in values)])
    return largest


def memory(count: int = 189, height: int = 720, width: int = 1280) -> int:
    """Bytes by which the process grows at most, beyond the inputs, while comparing a 720p pair."""
    golden, candidate = make_pair(count, height, width)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    compare(golden, candidate)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024


def main(arguments: list[str] | None = None) -> int:
    """Print the table; 1 where we do not agree with scikit-image."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--shape", default="81x480x832", help="frames x height x width")
    parser.add_argument("--frames", type=int, default=4, help="frames that the slow libraries are timed on")
    parser.add_argument("--no-memory", action="store_true", help="leave the 720p memory run out")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    count, height, width = (int(side) for side in options.shape.split("x"))
    golden, candidate = make_pair(count, height, width)
    size = 2 * golden.frames.nbytes
    compiled = first_call(golden, candidate)
    table = other_libraries(golden, candidate, min(options.frames, count), options.device)
    ours: dict[str, Timing] = {}
    fast = best_of(
        lambda: gating_set(golden, candidate, lambda: pair_statistics(golden, candidate, "numba", "cpu", 1)), 3, "cpu"
    )
    ours["quantgate, whole gating set, numba on the CPU"] = Timing(fast, count)
    if options.device == "cpu":
        few = min(8, count)
        part = Clip(golden.frames[:few]), Clip(candidate.frames[:few])
        slow = best_of(lambda: gating_set(*part, lambda: pair_statistics(*part, "torch")), 1, "cpu") * count / few
        ours["quantgate, whole gating set, torch on the CPU"] = Timing(slow, few)
    else:
        from benchmarks.metrics_device import print_goals, print_variants, time_on_device

        ours |= time_on_device(golden, candidate, options.device)
        print_goals(table | ours)
        print_variants(golden, candidate, options.device)
    baseline = table["scikit-image SSIM, uniform 7x7"].seconds
    rate = bandwidth("cpu")
    print(f"pair of {count} frames {width}x{height}, {size:,} bytes; one thread; least of several runs")
    print(f"{'':52} {'seconds':>9} {'of frames':>9} {'scikit-image SSIM / this':>25} {'of reading speed':>17}")
    for name, timing in (table | ours).items():
        on_gpu = options.device != "cpu" and ("torchmetrics" in name or "msssim" in name or options.device in name)
        share = size / timing.seconds / (bandwidth(options.device) if on_gpu else rate)
        print(f"{name:52} {timing.seconds:9.4f} {timing.frames:9} {baseline / timing.seconds:25.1f} {share:17.1%}")
    print(f"first comparison of a process over a whole comparison, numba: {compiled / fast:.2f}")
    difference = agreement(golden, candidate, options.device)
    print(f"largest difference to scikit-image in any frame: {difference:.1e} (at most {AGREE:g})")
    failed = difference > AGREE
    if not options.no_memory:
        grown = memory()
        failed |= grown >= MEMORY_GOAL
        print(f"memory beyond the inputs, 189 frames 1280x720: {grown:,} bytes (under {MEMORY_GOAL:,})")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
