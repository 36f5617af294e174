"""The part of ``python -m benchmarks.metrics`` that runs on a GPU, with the frames there already."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from benchmarks.metrics_timing import Timing, best_of, gating_set
from harness.frames.clip import Clip
from harness.frames.kernels import triton_path
from harness.frames.kernels.tensors import CHUNK_VALUES, Kernel, tensor_statistics

GOAL_MILLISECONDS = 30.0
GOAL_RATIO = 10.0
"""How many times faster than torchmetrics' SSIM alone the whole gating set is to be."""
VARIANTS: dict[str, tuple[tuple[int, int], ...]] = {
    "ssim": ((128, 4), (256, 4), (256, 8), (512, 4)),
    "point": ((256, 4), (512, 4), (512, 8)),
    "block": ((64, 2), (128, 4)),
}
"""Lanes and warps to try for each kernel."""


def kernels_for(device: str) -> tuple[Kernel, ...]:
    """The implementations that run on a device, the default first; says why one does not."""
    reason = triton_path.why_not(device)
    if reason:
        print(f"triton is left out: {reason}")
    return ("torch",) if reason else ("triton", "torch")


def time_on_device(golden: Clip, candidate: Clip, device: str) -> dict[str, Timing]:
    """The whole gating set, each metric over one fresh pass, by implementation; prints where the time goes."""
    one, two = (torch.tensor(clip.frames, device=device) for clip in (golden, candidate))
    found = {}
    for kernel in kernels_for(device):

        def run(kernel: Kernel = kernel) -> None:
            gating_set(golden, candidate, lambda: tensor_statistics(one, two, kernel=kernel))

        run()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        whole = best_of(run, 10, device)
        peak = torch.cuda.max_memory_allocated() - held
        stats = tensor_statistics(one, two, kernel=kernel)
        through = best_of(lambda kernel=kernel: tensor_statistics(one, two, kernel=kernel), 10, device)  # type: ignore[misc]
        order = best_of(stats.over_time, 10, device)
        rest = best_of(lambda stats=stats: gating_set(golden, candidate, lambda: stats), 10, device)  # type: ignore[misc]
        print(
            f"{kernel} on {torch.cuda.get_device_name(device)}: {1000 * whole:.2f} ms a comparison, of which pass "
            f"{1000 * through:.2f}, order and motion {1000 * order:.2f}, formulas on the CPU {1000 * rest:.2f}; "
            f"{peak:,} bytes beside the frames"
        )
        found[f"quantgate, whole gating set, {kernel}, frames on {device}"] = Timing(whole, golden.shape[0])
    return found


def print_goals(table: dict[str, Timing]) -> None:
    """The default implementation against what it is to reach."""
    ours = next(
        timing.seconds for name, timing in table.items() if name.startswith("quantgate") and "frames on" in name
    )
    peer = table.get("torchmetrics SSIM, gaussian")
    ratio = f"{peer.seconds / ours:.1f} times faster than torchmetrics' SSIM alone" if peer else "torchmetrics missing"
    print(f"goals: {1000 * ours:.2f} ms (under {GOAL_MILLISECONDS:g}); {ratio} (at least {GOAL_RATIO:g})")


def print_variants(golden: Clip, candidate: Clip, device: str) -> None:
    """One pass by lanes and warps of each Triton kernel, the others as chosen; by values in flight for torch."""
    one, two = (torch.tensor(clip.frames, device=device) for clip in (golden, candidate))
    if not triton_path.why_not(device):
        print(f"{'kernel':8} {'lanes':>6} {'warps':>6} {'ms a pass':>10}")
        for kernel, lanes, warps, chosen in _variants():
            milliseconds = 1000 * _pass(lambda: tensor_statistics(one, two, kernel="triton"), device)
            print(f"{kernel:8} {lanes:6} {warps:6} {milliseconds:10.3f}{'  (chosen)' if chosen else ''}")
    usual = CHUNK_VALUES["torch"]
    print(f"{'torch, values in flight':>23} {'ms a pass':>10}")
    for power in (21, 23, 25, 27):
        CHUNK_VALUES["torch"] = 1 << power
        milliseconds = 1000 * _pass(lambda: tensor_statistics(one, two, kernel="torch"), device)
        print(f"{1 << power:23,} {milliseconds:10.2f}{'  (chosen)' if 1 << power == usual else ''}")
    CHUNK_VALUES["torch"] = usual


def _variants() -> Iterator[tuple[str, int, int, bool]]:
    """Set each variant in turn, and what is usual again after it."""
    for kernel, settings in VARIANTS.items():
        usual = triton_path.LANES[kernel], triton_path.WARPS[kernel]
        try:
            for lanes, warps in settings:
                triton_path.LANES[kernel], triton_path.WARPS[kernel] = lanes, warps
                yield kernel, lanes, warps, (lanes, warps) == usual
        finally:
            triton_path.LANES[kernel], triton_path.WARPS[kernel] = usual


def _pass(function: Callable[[], object], device: str) -> float:
    function()
    return best_of(function, 10, device)
