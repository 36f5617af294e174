# mypy: disable-error-code="no-untyped-call"
"""Runs one training step again and again within a time budget: CUDA graph if it can be had, eager otherwise."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from tiny.training.optimizer import Average, MuonAdamW

Step = Callable[[], Tensor]


def log(message: str) -> None:
    """One line on stderr, at once."""
    print(message, file=sys.stderr, flush=True)


def captured(step: Step, device: torch.device) -> Step:
    """`step` as a replayable CUDA graph; on the CPU, or if capture fails, `step` itself.

    The step must be free of host synchronisation. Random numbers come from the device's default generator,
    which graphs advance on every replay. Three warm-up steps run first (they train, like any other).
    """
    if device.type != "cuda":
        return step
    try:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                step()
        torch.cuda.current_stream().wait_stream(side)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            loss = step()
    except Exception as error:
        log(f"no CUDA graph, running eagerly: {type(error).__name__}: {str(error)[:300]}")
        torch.cuda.synchronize()
        return step

    def replay() -> Tensor:
        graph.replay()
        return loss

    return replay


@dataclass
class Schedule:
    """Where a run is between 0 and 1, by wall clock or by step count, and the rate that follows from it.

    `start` and `stop` place this phase on one shared cosine, so that a second phase continues the first one's decay.
    """

    peak: float
    seconds: float
    steps: int = 0
    start: float = 0.0
    stop: float = 1.0
    warmup: int = 100
    done: int = 0
    began: float = field(default_factory=time.monotonic)
    used_before: float = 0.0

    def used(self) -> float:
        """Seconds trained so far in this phase, earlier runs included."""
        return self.used_before + time.monotonic() - self.began

    def progress(self) -> float:
        """0 at the start of this phase, 1 when its budget of steps or seconds is spent."""
        by_time = self.used() / self.seconds if self.seconds else 0.0
        by_step = self.done / self.steps if self.steps else 0.0
        return min(1.0, max(by_time, by_step))

    def rate(self) -> float:
        """Cosine from `peak` to 0 over the shared schedule, with a linear warm-up at its very start."""
        place = self.start + (self.stop - self.start) * self.progress()
        warmup = min(self.warmup, self.steps // 4) if self.steps else self.warmup
        ramp = min(1.0, (self.done + 1) / warmup) if warmup else 1.0
        return self.peak * ramp * 0.5 * (1 + math.cos(math.pi * place))


def run(
    name: str,
    step: Step,
    optimizer: MuonAdamW,
    average: Average,
    schedule: Schedule,
    checkpoint: Callable[[], None],
    checkpoint_every: float = 60.0,
) -> list[float]:
    """Trains until the schedule is done; returns the logged losses (at least the first and the last)."""
    device = optimizer.lr.device
    losses: list[float] = []

    def tick() -> Tensor:
        loss = step()
        average.update()
        return loss

    def set_rates() -> None:
        optimizer.lr.fill_(schedule.rate())
        average.decay.fill_(min(0.999, (1 + schedule.done) / (10 + schedule.done)))

    set_rates()
    advance = captured(tick, device)
    log(f"{name}: ready after {schedule.used():.1f} s")
    window, window_start, saved = torch.zeros((), device=device), time.monotonic(), time.monotonic()
    window_steps = 0
    log_every = 500 if device.type == "cuda" else 20
    while schedule.progress() < 1.0:
        set_rates()
        window += advance().detach()
        schedule.done += 1
        window_steps += 1
        if device.type == "cuda" and schedule.done % 20 == 0:
            torch.cuda.synchronize()  # or the host runs ahead of the budget
        if schedule.done == 1 or schedule.done % log_every == 0 or schedule.progress() >= 1.0:
            losses.append(float(window) / window_steps)
            pace = window_steps / max(time.monotonic() - window_start, 1e-9)
            log(
                f"{name}: step {schedule.done} loss {losses[-1]:.5f} rate {schedule.rate():.2e} "
                f"{pace:.1f} steps/s {schedule.used():.0f} s"
            )
            if not math.isfinite(losses[-1]):
                raise FloatingPointError(f"{name}: the loss is {losses[-1]} at step {schedule.done}; lower the rate")
            window.zero_()
            window_steps, window_start = 0, time.monotonic()
        if time.monotonic() - saved > checkpoint_every:
            checkpoint()
            saved = time.monotonic()
    checkpoint()
    return losses
