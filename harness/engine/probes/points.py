"""Sketch values inside an expert while it runs: rotary tables, every Linear, every norm, attention, every block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch

from harness.engine.quantized.linear import QuantizedLinear
from harness.engine.sketch import sketch
from harness.records.generation import Expert
from harness.records.probe import Point, PointKind, ProbeInput

ATTENTION_OUT = ".to_out.0"
ROPE = "rope"
"""Name of the module that returns the rotary tables, cosine and sine."""


def is_linear(module: torch.nn.Module) -> bool:
    """Return whether this is a Linear, packed or plain."""
    return isinstance(module, torch.nn.Linear | QuantizedLinear)


def is_norm(name: str, module: torch.nn.Module) -> bool:
    """Return whether this is a norm that computes (not an identity or a container)."""
    return "norm" in name.rpartition(".")[2] and hasattr(module, "eps") and not list(module.children())


class PointWatch:
    """Sketches of one forward pass, in order of execution."""

    def __init__(self) -> None:
        self.points: list[Point] = []
        self.sketches: list[tuple[float, ...]] = []
        self.in_parts: set[str] = set()
        """Points that were called more than once per pass, and so were dropped."""
        self.busy = False
        """True while a hook of this watch computes, so that its operations are not counted as the model's."""
        self.amplitudes: dict[str, float] = {}
        """Root mean square of the input of every Linear."""

    def take(self, name: str, kind: PointKind, value: Any) -> None:
        """Sketch a tensor: of a tuple the first item, and of a batch the first item, as a runtime may batch more.

        A module that is called twice per pass computes in parts (a feed-forward in two chunks). No part is comparable
        with the whole, so the point is dropped.
        """
        tensor = value[0] if isinstance(value, tuple) else value
        if not isinstance(tensor, torch.Tensor) or name in self.in_parts:
            return
        seen = next((place for place, point in enumerate(self.points) if point.name == name), None)
        if seen is not None:
            self.in_parts.add(name)
            del self.points[seen], self.sketches[seen]
            return
        self.points.append(Point(name=name, kind=kind))
        self.busy = True
        try:
            # the first item of a batch only: a runtime may batch both guidance passes
            self.sketches.append(sketch(tensor[:1]))
        finally:
            self.busy = False

    @contextmanager
    def watching(self, model: torch.nn.Module) -> Iterator[None]:
        """Hook ``model`` while the context lasts. Its computations are not changed."""
        handles = []
        for name, module in model.named_modules():
            kind = _kind(name, module)
            if kind is None:
                continue
            if kind == "linear":
                handles.append(module.register_forward_pre_hook(self._before(name)))
            handles.append(module.register_forward_hook(self._after(name, kind)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _before(self, name: str) -> Any:
        def hook(_module: torch.nn.Module, inputs: tuple[Any, ...]) -> None:
            x = inputs[0]
            # this computation is the watch's, so it must not be counted as the model's
            self.busy = True
            self.amplitudes[name] = float(x.detach().to(torch.float32).square().mean().sqrt())
            self.busy = False
            if name.endswith(ATTENTION_OUT):
                # the output of attention before the projection
                self.take(name.removesuffix(ATTENTION_OUT) + ".attention", "attention", x)

        return hook

    def _after(self, name: str, kind: PointKind) -> Any:
        def hook(_module: torch.nn.Module, _inputs: Any, output: Any) -> None:
            if name.rpartition(".")[2] == ROPE and isinstance(output, tuple):
                self.busy = True
                output = torch.cat([table.detach().float() for table in output], dim=-1)  # cosine and sine
                self.busy = False
            self.take(name, kind, output)

        return hook


def _kind(name: str, module: torch.nn.Module) -> PointKind | None:
    if is_linear(module):
        return "linear"
    leaf = name.rpartition(".")[2]
    if is_norm(name, module):
        return "norm"
    head, _, last = name.rpartition(".")
    if last.isdigit() and head.endswith("blocks"):
        return "block"
    return "other" if leaf in (ROPE, "patch_embedding") else None


# Record probe inputs: run a generation of the base, and keep chosen inputs of each expert.


@dataclass(frozen=True)
class Recorded:
    """One recorded input: latents [1, C, T, H, W] with any conditioning, conditional text [1, L, D], the timestep."""

    probe: ProbeInput
    latents: torch.Tensor
    text: torch.Tensor
    timesteps: torch.Tensor | None = None
    """[1, tokens], if each token has its own timestep."""


class InputWatch:
    """Keeps every input of the experts' conditional passes: a pipeline calls conditional first, then unconditional."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, Any, torch.Tensor, torch.Tensor]] = []
        self._last: Any = None

    @contextmanager
    def watching(self, experts: dict[str, torch.nn.Module]) -> Iterator[None]:
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
        def hook(_module: torch.nn.Module, _arguments: Any, options: dict[str, Any]) -> None:
            timestep = options["timestep"]
            # with a timestep per token, those of a given frame are 0, so the largest is the step's
            if float(timestep.max()) == self._last:
                return
            self._last = float(timestep.max())
            kept = (
                options["hidden_states"].detach().cpu().clone(),
                options["encoder_hidden_states"].detach().cpu().clone(),
            )
            self.seen.append((role, timestep.detach().cpu(), *kept))

        return hook

    def chosen(self) -> tuple[Recorded, ...]:
        """Return the first and the last step of every expert, the ends of its noise range."""
        picked: list[Recorded] = []
        for role in dict.fromkeys(role for role, *_ in self.seen):
            mine = [index for index, (name, *_) in enumerate(self.seen) if name == role]
            for index in _ends(mine):
                _, timestep, latents, text = self.seen[index]
                probe = ProbeInput(
                    expert=cast("Expert", role),
                    step=index,
                    timestep=float(timestep.max()),
                    timestep_dtype=str(timestep.dtype).removeprefix("torch."),
                    tokens=text.shape[1],
                )
                tokens = timestep.clone() if timestep.dim() == 2 else None
                picked.append(Recorded(probe, latents, _trimmed(text), tokens))
        return tuple(picked)


def _ends(indices: Sequence[int]) -> list[int]:
    return sorted({indices[0], indices[-1]})


def _trimmed(text: torch.Tensor) -> torch.Tensor:
    """Return the text without the trailing rows of zeros, with which the pipeline pads."""
    used = text[0].abs().amax(dim=1).nonzero()
    rows = int(used[-1]) + 1 if len(used) else 1
    return text[:, :rows].contiguous()
