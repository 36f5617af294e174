"""Sketches inside an expert: rotary tables are a point of their own, and a module that runs in parts is none."""

from __future__ import annotations

import torch

from harness.engine.probes.points import PointWatch


class Rope(torch.nn.Module):
    def __init__(self, sign: float) -> None:
        super().__init__()
        self.sign = sign

    def forward(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        angles = torch.arange(states.shape[1], dtype=torch.float32)[None, :, None, None].expand(1, -1, 1, 8) * 0.1
        return angles.cos(), self.sign * angles.sin()


class Expert(torch.nn.Module):
    def __init__(self, sign: float = 1.0, chunks: int = 1) -> None:
        super().__init__()
        self.rope, self.project, self.chunks = Rope(sign), torch.nn.Linear(8, 8), chunks
        torch.nn.init.eye_(self.project.weight)
        torch.nn.init.zeros_(self.project.bias)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        self.rope(states)
        return torch.cat([self.project(part) for part in states.chunk(self.chunks, dim=1)], dim=1)


def points(model: Expert) -> dict[str, tuple[float, ...]]:
    watch = PointWatch()
    states = torch.randn(1, 6, 8, generator=torch.Generator().manual_seed(0))
    with watch.watching(model), torch.no_grad():
        model(states)
    return {point.name: row for point, row in zip(watch.points, watch.sketches, strict=True)}


def test_the_rotary_tables_are_the_first_point_and_a_turned_sign_is_seen_there() -> None:
    right, turned = points(Expert()), points(Expert(sign=-1.0))
    assert list(right) == ["rope", "project"]
    assert right["rope"] != turned["rope"]
    assert right["project"] == turned["project"]


def test_a_module_that_runs_in_two_chunks_is_no_point() -> None:
    assert list(points(Expert(chunks=2))) == ["rope"]
    assert list(points(Expert(chunks=3))) == ["rope"]
