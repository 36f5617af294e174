"""Sketch values inside an expert while it runs: rotary tables, every Linear, every norm, attention, every block."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import cast

import torch

from harness.engine.probes import watching
from harness.engine.probes.watching import ROPE, SketchWatch
from harness.engine.quantized.linear import QuantizedLinear
from harness.records.probe import Point, PointKind, ProbeInput


def is_linear(module: torch.nn.Module) -> bool:
    """Return whether this is a Linear, packed or plain."""
    return isinstance(module, torch.nn.Linear | QuantizedLinear)


def is_norm(name: str, module: torch.nn.Module) -> bool:
    """Return whether this is a norm that computes (not an identity or a container)."""
    return "norm" in name.rpartition(".")[2] and hasattr(module, "eps") and not list(module.children())


def projection_of(module: torch.nn.Module) -> str:
    """Return the name of the only child of an activation with its own projection (diffusers' ``GELU``), else ``""``.

    Such a module is a Linear called ``proj`` and a function behind it, which belongs to no Linear.
    """
    children = dict(module.named_children())
    return "proj" if list(children) == ["proj"] and is_linear(children["proj"]) else ""


class PointWatch(SketchWatch):
    """Sketches of one forward pass of a diffusers expert."""

    @property
    def points(self) -> tuple[Point, ...]:
        """The points in order of execution."""
        return tuple(Point(name=name, kind=cast("PointKind", kind)) for name, kind in self.names)

    def watching(self, model: torch.nn.Module) -> AbstractContextManager[None]:
        """Hook ``model`` while the context lasts. Its computations are not changed."""
        named = ((name, _kind(name, module), module) for name, module in model.named_modules())
        return self.hooked((name, kind, module) for name, kind, module in named if kind is not None)


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


class InputWatch(watching.InputWatch):
    """Keeps the inputs of the experts as records."""

    def chosen(self) -> tuple[Recorded, ...]:
        """Return the first and the last step of every expert, the ends of its noise range."""
        return tuple(
            Recorded(
                ProbeInput(**item.facts()),
                item.latents,
                item.trimmed(),
                item.timestep.clone() if item.timestep.dim() == 2 else None,
            )
            for item in self.ends()
        )
