"""A second, instrumented generation of a slow case: seconds per block, and how often the host waits for the device.

A backend offers it as the method ``perf_profile``. Its times are longer than those of a plain run, so they are compared
only with each other: blocks of one expert are built alike and take equally long, so a slow block is an outlier.
"""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from harness.definitions.case import Case
from harness.engine.probes.methods import Host
from harness.records.base import Json
from harness.records.perf import PROFILE_METHOD, BlockTime, Profile

_WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize")
_SCALAR = "aten::_local_scalar_dense"
"""Reads one value on the host, which waits for the device if the value is there."""
_TOP = 5
_PROFILED_STEPS = 2


def profile_methods(host: Host) -> Mapping[str, Any]:
    """Return the profiling method, for `Backend.methods`."""

    def call(params: dict[str, Json], _emit: Any) -> Json:
        return profile(host, Case.model_validate(params["case"])).model_dump(mode="json")

    return {PROFILE_METHOD: call}


def profile(host: Host, case: Case) -> Profile:
    """Generate twice: once with timed blocks, and once, for a few steps, with every kernel counted."""
    cuda = host.compute[0].type == "cuda"
    with timed_blocks(host.experts, cuda=cuda) as times:
        host.denoise(case)
    short = case.model_copy(
        update={
            "sampling": case.sampling.model_copy(
                update={"num_inference_steps": min(_PROFILED_STEPS, case.sampling.num_inference_steps)}
            )
        }
    )
    counted = _count(host, short, cuda=cuda)
    blocks = tuple(BlockTime(block=name, seconds=seconds) for name, seconds in times().items())
    return counted.model_copy(update={"blocks": blocks})


@contextmanager
def timed_blocks(experts: Mapping[str, torch.nn.Module], *, cuda: bool) -> Iterator[Any]:
    """Time every transformer block while the context lasts.

    Yields:
        A function that returns the median seconds by block; call it afterwards.
    """
    spans: dict[str, list[tuple[Any, Any]]] = {}
    handles = []

    def now() -> Any:
        if not cuda:
            return time.perf_counter()
        event: Any = torch.cuda.Event
        event = event(enable_timing=True)
        event.record()
        return event

    def watch(name: str, block: torch.nn.Module) -> None:
        began: list[Any] = []
        # first before the block and last after it: other hooks of the block are part of its time
        handles.append(block.register_forward_pre_hook(lambda *_: began.append(now()), prepend=True))
        handles.append(block.register_forward_hook(lambda *_: spans.setdefault(name, []).append((began.pop(), now()))))

    for role, model in experts.items():
        for place, block in enumerate(getattr(model, "blocks", ())):
            watch(f"{role}.blocks.{place}", block)

    def medians() -> dict[str, float]:
        if cuda:
            torch.cuda.synchronize()
        return {
            name: statistics.median(begin.elapsed_time(end) / 1000 if cuda else end - begin for begin, end in span)
            for name, span in spans.items()
        }

    try:
        yield medians
    finally:
        for handle in handles:
            handle.remove()


def _count(host: Host, case: Case, *, cuda: bool) -> Profile:
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if cuda else [])]
    try:
        with profiler(activities=activities) as seen:
            host.denoise(case)
            if cuda:
                torch.cuda.synchronize()
        rows = seen.key_averages()
    except RuntimeError:  # no permission to read the counters, or another profiler is attached
        return Profile()
    steps = case.sampling.num_inference_steps
    counts: Counter[str] = Counter()
    seconds: Counter[str] = Counter()
    on_device: Counter[str] = Counter()
    for row in rows:
        counts[row.key] += row.count
        device = cuda and "cuda" in str(row.device_type).lower()
        spent = row.self_device_time_total if device else row.self_cpu_time_total
        if device:
            on_device[row.key] += row.count
        if device or not cuda:
            seconds[row.key] += spent
    kernels = (
        sum(on_device.values()) if cuda else sum(count for name, count in counts.items() if name.startswith("aten::"))
    )
    waits = sum(counts[name] for name in (_WAITS if cuda else (_SCALAR,)))
    top = tuple(name[:120] for name, _ in seconds.most_common(_TOP))
    return Profile(kernels=kernels // steps, synchronizations=waits // steps, top=top)
