"""Forward hooks of the probes, for any runtime: the inputs of the experts, and sketches of values inside of them.

The code needs torch only, see ``harness.engine.observed``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from harness.engine.sketch import sketch

ATTENTION_OUT = (".to_out.0", ".to_out")
"""Ends of the names of a projection behind attention. Its input is the output of attention."""
ROPE = "rope"
"""Name of the module that returns the rotary tables, cosine and sine."""


@dataclass(frozen=True, eq=False)
class SeenInput:
    """Input of one conditional pass, on the CPU."""

    expert: str
    step: int
    timestep: torch.Tensor
    """[1], or [1, tokens] if each token has its own timestep."""
    latents: torch.Tensor
    """[1, C, T, H, W]."""
    text: torch.Tensor
    """[1, L, D], with the padding of the pipeline."""

    @property
    def value(self) -> float:
        """The timestep of the step: with one per token, those of a given frame are 0, so the largest."""
        return float(self.timestep.max())

    def trimmed(self) -> torch.Tensor:
        """Return the text without the trailing rows of zeros, with which the pipeline pads."""
        used = self.text[0].abs().amax(dim=1).nonzero()
        rows = int(used[-1]) + 1 if len(used) else 1
        return self.text[:, :rows].contiguous()

    def facts(self) -> dict[str, Any]:
        """Return the fields of ``harness.records.probe.ProbeInput``."""
        return {
            "expert": self.expert,
            "step": self.step,
            "timestep": self.value,
            "timestep_dtype": str(self.timestep.dtype).removeprefix("torch."),
            "tokens": self.text.shape[1],
        }


class InputWatch:
    """Keeps every input of the experts' conditional passes: a pipeline calls conditional first, then unconditional."""

    def __init__(self) -> None:
        self.seen: list[SeenInput] = []
        self._last: float | None = None

    @contextmanager
    def watching(self, experts: Mapping[str, Any]) -> Iterator[None]:
        """Hook the experts while the context lasts."""
        handles = [
            model.register_forward_pre_hook(self._hook(role), with_kwargs=True) for role, model in experts.items()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _hook(self, role: str) -> Any:
        def hook(_module: Any, _arguments: Any, options: dict[str, Any]) -> None:
            timestep, latents, text = (options[name] for name in ("timestep", "hidden_states", "encoder_hidden_states"))
            # the second call of a step is the unconditional pass
            if float(timestep.max()) == self._last:
                return
            self._last = float(timestep.max())
            text = text[0] if isinstance(text, list | tuple) else text
            # the first item of a batch only: a runtime may batch both guidance passes
            inputs = (timestep.detach().cpu(), latents[:1].detach().cpu().clone(), text[:1].detach().cpu().clone())
            self.seen.append(SeenInput(role, len(self.seen), *inputs))

        return hook

    def ends(self) -> list[SeenInput]:
        """Return the first and the last step of every expert, the ends of its noise range."""
        chosen: list[SeenInput] = []
        for role in dict.fromkeys(item.expert for item in self.seen):
            of_role = [item for item in self.seen if item.expert == role]
            chosen += of_role[:1] if len(of_role) == 1 else [of_role[0], of_role[-1]]
        return chosen


class SketchWatch:
    """Sketches of one forward pass, in order of execution."""

    def __init__(self) -> None:
        self.names: list[tuple[str, str]] = []
        """Name and kind of every point."""
        self.sketches: list[tuple[float, ...]] = []
        self.in_parts: set[str] = set()
        """Points that were called more than once per pass, and so were dropped."""
        self.busy = False
        """True while a hook of this watch computes, so that its operations are not counted as the model's."""
        self.amplitudes: dict[str, float] = {}
        """Root mean square of the input of every Linear."""

    def take(self, name: str, kind: str, value: Any) -> None:
        """Sketch a tensor: of a tuple the first item, and of a batch the first item, as a runtime may batch more.

        A module that is called twice per pass computes in parts (a feed-forward in two chunks). No part is comparable
        with the whole, so the point is dropped.
        """
        tensor = value[0] if isinstance(value, tuple) else value
        if not isinstance(tensor, torch.Tensor) or name in self.in_parts:
            return
        place = next((index for index, (other, _) in enumerate(self.names) if other == name), None)
        if place is not None:
            self.in_parts.add(name)
            del self.names[place], self.sketches[place]
            return
        self.names.append((name, kind))
        self.busy = True
        try:
            # the first item of a batch only: a runtime may batch both guidance passes
            self.sketches.append(sketch(tensor[:1]))
        finally:
            self.busy = False

    @contextmanager
    def hooked(self, points: Iterable[tuple[str, str, torch.nn.Module]]) -> Iterator[None]:
        """Hook modules, each with the name and kind of its point, while the context lasts.

        Their computations are not changed.
        """
        handles = []
        for name, kind, module in points:
            if kind == "linear":
                handles.append(module.register_forward_pre_hook(self._before(name)))
            handles.append(module.register_forward_hook(self._after(name, kind)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _before(self, name: str) -> Any:
        def hook(_module: Any, inputs: tuple[Any, ...]) -> None:
            if not inputs or not isinstance(inputs[0], torch.Tensor):
                return
            # this computation is the watch's, so it must not be counted as the model's
            self.busy = True
            self.amplitudes[name] = float(inputs[0].detach().to(torch.float32).square().mean().sqrt())
            self.busy = False
            end = next((end for end in ATTENTION_OUT if name.endswith(end)), None)
            if end is not None:
                # the output of attention before the projection
                self.take(name.removesuffix(end) + ".attention", "attention", inputs[0])

        return hook

    def _after(self, name: str, kind: str) -> Any:
        def hook(_module: Any, _inputs: Any, output: Any) -> None:
            if name.rpartition(".")[2] == ROPE and isinstance(output, tuple):
                self.busy = True
                output = torch.cat([table.detach().float() for table in output], dim=-1)  # cosine and sine
                self.busy = False
            self.take(name, kind, output)

        return hook
