"""Measure one generation in the engine's process: seconds of steps, text encoder and VAE; memory per stage.

On CUDA a time stamp is an event on the stream. The events are read once at the end, so that measuring never waits for
the device. On other devices it is the host's clock, with a fixed computation beside each step
(`harness.engine.yardstick`). The pipeline's arithmetic is not changed.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch

from harness.engine.yardstick import Yardstick
from harness.records.perf import CpuSpeed, Stage, StageMemory, Usage

EXPERTS = ("transformer", "transformer_2")
Mark = Any
"""A CUDA event, or seconds of the host's clock."""


class Meter:
    """Measures one generation of a diffusers pipeline.

    Args:
        device: device of the experts.
        ordinal: number of this generation within the engine.
        attention: attention backend of the experts, for the record.
        emulated: whether products are emulated.
    """

    def __init__(self, device: torch.device, ordinal: int, attention: str = "", *, emulated: bool = False) -> None:
        self._cuda = device.type == "cuda"
        self._ordinal, self._attention, self._emulated = ordinal, attention, emulated
        self._spans: dict[str, list[tuple[Mark, Mark]]] = {"text_encoder": [], "vae": []}
        self._steps: list[tuple[Mark, Mark, str]] = []
        self._open: tuple[Mark, Mark, str] | None = None
        self._memory: list[StageMemory] = []
        self._stage: Stage = "encode"
        self._before = self._allocated()
        self._compiled = _compilations()
        # a GPU has a clock to read, and its steps do not depend on the speed of the host
        self._yardstick = None if self._cuda else Yardstick()
        self._speeds: dict[str, list[float]] = {"text_encoder": [], "step": [], "vae": []}
        self._began = time.perf_counter()
        self._total = 0.0

    @contextmanager
    def watching(self, pipe: Any) -> Iterator[None]:
        """Hook text encoder, experts, scheduler and VAE while the context lasts.

        Enter it after all other watchers. Its hooks are then nearest to the modules, and the work that other watchers
        do before and after a call is not counted.
        """
        if self._cuda:
            # work of an earlier generation must not count into this one's peaks
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        handles = []
        for role in EXPERTS:
            model = getattr(pipe, role, None)
            if isinstance(model, torch.nn.Module):
                handles.append(model.register_forward_pre_hook(self._expert_begins(role)))
                # prepended hooks run before those of other watchers, so that their work after a call is not timed
                handles.append(model.register_forward_hook(self._expert_ends, prepend=True))
        handles += self._spanned(getattr(pipe, "text_encoder", None), "text_encoder")
        vae = getattr(pipe, "vae", None)
        decoder = getattr(vae, "decoder", None)
        handles += self._spanned(decoder, "vae")
        if isinstance(decoder, torch.nn.Module):
            handles.append(decoder.register_forward_pre_hook(lambda *_: self._enter("decode")))
        step = pipe.scheduler.step
        hidden = "step" in vars(pipe.scheduler)

        def stepping(*arguments: Any, **options: Any) -> Any:
            # the step ends with its last expert pass, before the scheduler's own work
            if self._open is not None:
                self._steps.append(self._open)
                self._open = None
            return step(*arguments, **options)

        pipe.scheduler.step = stepping
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            # another watcher had put its own `step` there: it must find it again
            if hidden:
                pipe.scheduler.step = step
            else:
                del pipe.scheduler.step
            if self._cuda:
                # the last events must have happened before their times are read
                torch.cuda.synchronize()
            self._close_stage()
            self._total = time.perf_counter() - self._began - (self._yardstick.spent if self._yardstick else 0.0)

    def usage(self) -> Usage:
        """Return the measurements. Call this after the results of the generation were freed, as far as possible."""
        encoder, vae = (self._sum(self._spans[name]) for name in ("text_encoder", "vae"))
        compiled = _compilations()
        return Usage(
            clock="device" if self._cuda else "host",
            steps=tuple(self._between(begin, end) for begin, end, _ in self._steps),
            experts=tuple(role for _, _, role in self._steps),
            text_encoder=encoder,
            vae=vae,
            total=self._total,
            memory=tuple(self._memory),
            allocated_before=self._before,
            allocated_after=self._allocated(),
            ordinal=self._ordinal,
            compilations=None if compiled is None else compiled - (self._compiled or 0),
            attention=self._attention,
            emulated=self._emulated,
            cpu=self._cpu(),
        )

    @property
    def peak(self) -> int | None:
        """Largest number of bytes allocated on the GPU during the generation; ``None`` on a CPU."""
        return max((peak.allocated for peak in self._memory), default=None)

    def _expert_begins(self, role: str) -> Any:
        def hook(*_: Any) -> None:
            if self._stage == "encode":
                self._enter("denoise")
            if self._open is None:
                self._take_speed("step")
                self._open = (self._now(), None, role)

        return hook

    def _expert_ends(self, *_: Any) -> None:
        if self._open is not None:  # guidance runs an expert twice per step, so the last pass ends the step
            self._open = (self._open[0], self._now(), self._open[2])

    def _spanned(self, module: object, name: str) -> list[Any]:
        if not isinstance(module, torch.nn.Module):
            return []
        began: list[Mark] = []

        def begin(*_: Any) -> None:
            self._take_speed(name)
            began.append(self._now())

        def end(*_: Any) -> None:
            if began:
                self._spans[name].append((began.pop(), self._now()))
                self._take_speed(name)

        return [module.register_forward_pre_hook(begin), module.register_forward_hook(end, prepend=True)]

    def _take_speed(self, name: str) -> None:
        if self._yardstick is not None:
            self._speeds[name].append(self._yardstick.seconds())

    def _cpu(self) -> CpuSpeed | None:
        if self._yardstick is None:
            return None
        encoder, vae = (statistics.fmean(self._speeds[name] or [0.0]) or None for name in ("text_encoder", "vae"))
        return CpuSpeed(text_encoder=encoder, steps=tuple(self._speeds["step"]), vae=vae)

    def _enter(self, stage: Stage) -> None:
        """Begin a stage, and take the memory peaks of the previous stage."""
        if stage != self._stage:
            self._close_stage()
            self._stage = stage

    def _close_stage(self) -> None:
        if self._cuda:
            allocated, reserved = torch.cuda.max_memory_allocated(), torch.cuda.max_memory_reserved()
            self._memory.append(StageMemory(stage=self._stage, allocated=allocated, reserved=reserved))
            torch.cuda.reset_peak_memory_stats()

    def _now(self) -> Mark:
        if not self._cuda:
            return time.perf_counter()
        event = cast("Any", torch.cuda.Event)(enable_timing=True)
        event.record()
        return event

    def _between(self, begin: Mark, end: Mark) -> float:
        return float(begin.elapsed_time(end)) / 1000 if self._cuda else float(end - begin)

    def _sum(self, spans: list[tuple[Mark, Mark]]) -> float | None:
        return sum(self._between(*span) for span in spans) if spans else None

    def _allocated(self) -> int | None:
        return int(torch.cuda.memory_allocated()) if self._cuda else None


def _compilations() -> int | None:
    """Return how many graphs torch compiled in this process; ``None`` if its compiler was never imported."""
    dynamo = sys.modules.get("torch._dynamo.utils")
    if dynamo is None:
        return None
    return int(dynamo.counters["stats"]["unique_graphs"])
