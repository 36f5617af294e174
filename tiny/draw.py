"""Draws the training videos: one coloured shape moving over a softly graded background. Batched, on any device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from tiny.spec import COLOURS, DIRECTIONS, FRAMES, HEIGHT, SHAPES, WIDTH, caption

_COLOUR_NAMES = tuple(COLOURS)
_DIRECTION_NAMES = tuple(DIRECTIONS)


@dataclass(frozen=True)
class Labels:
    """What each video of a batch shows: int64 indices [B] into the names of `tiny.spec`. `background != colour`."""

    colour: Tensor
    shape: Tensor
    direction: Tensor
    background: Tensor

    def __len__(self) -> int:
        return len(self.colour)

    def captions(self) -> list[str]:
        """One sentence a video."""
        columns = (self.colour.tolist(), self.shape.tolist(), self.direction.tolist(), self.background.tolist())
        return [
            caption(_COLOUR_NAMES[c], SHAPES[s], _DIRECTION_NAMES[d], _COLOUR_NAMES[b])
            for c, s, d, b in zip(*columns, strict=True)
        ]


def sample_labels(count: int, generator: torch.Generator) -> Labels:
    """Uniform labels from a CPU generator; the background's colour always differs from the object's."""

    def pick(limit: int) -> Tensor:
        return torch.randint(limit, (count,), generator=generator)

    colour = pick(len(_COLOUR_NAMES))
    offset = 1 + pick(len(_COLOUR_NAMES) - 1)
    return Labels(colour, pick(len(SHAPES)), pick(len(DIRECTIONS)), (colour + offset) % len(_COLOUR_NAMES))


def draw(labels: Labels, generator: torch.Generator, device: torch.device | str = "cpu") -> Tensor:
    """Videos [B, 3, FRAMES, HEIGHT, WIDTH], float32 in -1..1.

    All randomness (place, size, speed, shading) is drawn on the CPU from `generator`, so a seed means the same
    videos on every device up to rounding.
    """
    uniform = _uniform(len(labels), generator, device)
    step = _steps(labels, device)
    radius = uniform(12.0, 15.0)
    travel = torch.where(step[:, 0] != 0, uniform(36.0, 56.0), uniform(22.0, 30.0))
    margin = radius + 1.0
    half = (step.abs() * travel[:, None] / 2) + margin[:, None]
    size = torch.tensor([WIDTH, HEIGHT], dtype=torch.float32, device=device)
    slack = (size / 2 - half).clamp(min=0.0)
    middle = size / 2 + torch.stack([uniform(-1, 1), uniform(-1, 1)], 1) * slack
    time = torch.linspace(-0.5, 0.5, FRAMES, device=device)
    centre = middle[:, None] + step[:, None] * travel[:, None, None] * time[None, :, None]  # [B, F, 2]
    return _render(labels, centre, radius, uniform)


def draw_from_centre(labels: Labels, generator: torch.Generator, device: torch.device | str = "cpu") -> Tensor:
    """Videos as `draw` makes them, but each object starts where it could move in any of the four directions.

    So the first frame does not tell where the object will go: only the sentence does. Used to train and to measure the
    models that take a first frame.
    """
    uniform = _uniform(len(labels), generator, device)
    step = _steps(labels, device)
    radius = uniform(11.0, 14.0)
    travel = torch.stack([uniform(22.0, 30.0), uniform(13.0, 17.0)], 1)  # by axis, whichever the object moves along
    size = torch.tensor([WIDTH, HEIGHT], dtype=torch.float32, device=device)
    slack = (size / 2 - radius[:, None] - 1.0 - travel).clamp(min=0.0)
    start = size / 2 + torch.stack([uniform(-1, 1), uniform(-1, 1)], 1) * slack
    time = torch.linspace(0.0, 1.0, FRAMES, device=device)
    centre = start[:, None] + step[:, None] * travel[:, None] * time[None, :, None]  # [B, F, 2]
    return _render(labels, centre, radius, uniform)


def _uniform(count: int, generator: torch.Generator, device: torch.device | str) -> Callable[[float, float], Tensor]:
    def uniform(low: float, high: float) -> Tensor:
        return (low + (high - low) * torch.rand(count, generator=generator)).to(device)

    return uniform


def _steps(labels: Labels, device: torch.device | str) -> Tensor:
    """Each video's unit step [B, 2] as (x, y), float32."""
    steps = torch.tensor([DIRECTIONS[name] for name in _DIRECTION_NAMES], dtype=torch.float32)
    return steps[labels.direction].to(device)


def _render(labels: Labels, centre: Tensor, radius: Tensor, uniform: Callable[[float, float], Tensor]) -> Tensor:
    """Videos [B, 3, FRAMES, HEIGHT, WIDTH] in -1..1 of objects at `centre` [B, F, 2] (x, y in pixels)."""
    device = centre.device
    palette = torch.tensor(list(COLOURS.values()), device=device)
    x = torch.arange(WIDTH, device=device).float()[None, None, None, :] - centre[..., 0, None, None] + 0.5
    y = torch.arange(HEIGHT, device=device).float()[None, None, :, None] - centre[..., 1, None, None] + 0.5
    distance = _signed_distance(x, y, radius[:, None, None, None], labels.shape.to(device))
    alpha = (0.5 - distance).clamp(0, 1)[:, None]

    back = palette[labels.background.to(device)][:, :, None, None, None] * _shading(uniform)[:, None, None]
    front = palette[labels.colour.to(device)][:, :, None, None, None]
    return (back + (front - back) * alpha) * 2 - 1


def _shading(uniform: Callable[[float, float], Tensor]) -> Tensor:
    """A linear gradient of brightness in a random orientation, [B, HEIGHT, WIDTH] in 0.75..1."""
    angle = uniform(0.0, 2 * torch.pi)
    depth = uniform(0.05, 0.25)
    u = torch.linspace(-1, 1, WIDTH, device=angle.device)[None, None, :]
    v = torch.linspace(-1, 1, HEIGHT, device=angle.device)[None, :, None]
    ramp = (u * angle.cos()[:, None, None] + v * angle.sin()[:, None, None]) / 2**0.5
    shading: Tensor = 1 - depth[:, None, None] * (1 + ramp) / 2
    return shading


def _signed_distance(x: Tensor, y: Tensor, radius: Tensor, shape: Tensor) -> Tensor:
    """Pixels to the outline (negative inside) of each video's shape; exact enough for one pixel of antialiasing."""
    circle = (x * x + y * y).sqrt() - radius * 0.95
    square = torch.maximum(x.abs(), y.abs()) - radius * 0.85
    # Isosceles, apex up: base at y = +r * 0.9, apex at y = -r; both flanks have the same slope.
    flank = (2 * x.abs() - (y + radius)) / 5**0.5
    triangle = torch.maximum(flank, y - radius * 0.9)
    arm = radius * 0.34
    bar = torch.maximum(x.abs() - radius, y.abs() - arm)
    cross = torch.minimum(bar, torch.maximum(y.abs() - radius, x.abs() - arm))
    index = shape[:, None, None, None]
    out = torch.where(index == 0, circle, square)
    out = torch.where(index == 2, triangle, out)
    return torch.where(index == 3, cross, out)
