"""What the model was really given: a forward hook sees what the pipeline's own variables do not tell.

Both guidance passes may come in one batch, in the other order, or one may be left out. So a pass is named by its text
and not by its place, and every row of a batch counts as a pass of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch

TextRole = Literal["prompt", "negative"]
ARGUMENTS = ("hidden_states", "timestep", "encoder_hidden_states")
"""Positional order of ``WanTransformer3DModel.forward``."""


@dataclass(frozen=True, eq=False)
class Pass:
    """One row of one forward call of an expert."""

    expert: str
    latents: torch.Tensor | None
    """[C, T, H, W], as the expert received them."""
    timestep: float | None
    text: torch.Tensor | None
    """[L, D]."""
    prediction: torch.Tensor
    """[C, T, H, W]."""
    timesteps: torch.Tensor | None = None
    """[tokens], where each token has a timestep of its own."""

    def denoised(self) -> list[int] | None:
        """The latent frames that are not given clean (all their tokens at timestep 0); ``None``: every frame."""
        if self.timesteps is None or self.latents is None or self.timesteps.numel() % self.latents.shape[1]:
            return None
        moving = (self.timesteps.reshape(self.latents.shape[1], -1) != 0).any(dim=1)
        return None if bool(moving.all()) else torch.nonzero(moving).flatten().tolist()


def passes(expert: str, inputs: tuple[Any, ...], options: dict[str, Any], output: torch.Tensor) -> list[Pass]:
    """Take one forward call apart into its rows; an argument that is not there is ``None`` in each.

    Args:
        expert: role of the transformer that was called.
        inputs: positional arguments of the call.
        options: keyword arguments of the call.
        output: its prediction, [B, C, T, H, W].
    """
    given = {**dict(zip(ARGUMENTS, inputs, strict=False)), **options}
    latents, timestep, text = (given.get(name) for name in ARGUMENTS)
    rows = output.shape[0]
    return [
        Pass(
            expert,
            _row(latents, row, rows),
            None if timestep is None else _largest(timestep, row, rows),
            _row(text, row, rows),
            output[row],
            _tokens(timestep, row, rows),
        )
        for row in range(rows)
    ]


def _row(tensor: Any, row: int, rows: int) -> torch.Tensor | None:
    if not isinstance(tensor, torch.Tensor):
        return None
    return tensor[row] if tensor.shape[0] == rows else tensor[0]


def _largest(timestep: Any, row: int, rows: int) -> float:
    """A pipeline with a timestep per token sets those of given frames to 0: the largest is the step's."""
    if not isinstance(timestep, torch.Tensor):
        return float(timestep)
    mine = timestep[row] if timestep.dim() and timestep.shape[0] == rows else timestep
    return float(mine.max())


def _tokens(timestep: Any, row: int, rows: int) -> torch.Tensor | None:
    if not isinstance(timestep, torch.Tensor) or timestep.dim() < 2:
        return None
    return timestep[row] if timestep.shape[0] == rows else timestep[0]


class Texts:
    """The texts that the encoder gave, by which the texts of the passes are recognised."""

    def __init__(self, prompt: Any = None, negative: Any = None) -> None:
        pairs: tuple[tuple[TextRole, Any], ...] = (("prompt", prompt), ("negative", negative))
        self._texts = {role: text[0] for role, text in pairs if isinstance(text, torch.Tensor)}

    def role(self, text: torch.Tensor | None) -> tuple[TextRole | Literal[""], float | None]:
        """Name the nearest text of the encoder, with the relative L2 distance to it; nothing without texts."""
        if text is None or not self._texts:
            return "", None
        errors = {role: _distance(text, known) for role, known in self._texts.items()}
        role = min(errors, key=lambda name: errors[name])
        return role, errors[role]


def _distance(text: torch.Tensor, known: torch.Tensor) -> float:
    """Relative L2 distance of [L, D] to [K, D]; rows that only one of them has count as zeros in the other."""
    rows = min(text.shape[0], known.shape[0])
    ours, theirs = text.double(), known.to(text.dtype).double()
    squared = (ours[:rows] - theirs[:rows]).square().sum() + ours[rows:].square().sum() + theirs[rows:].square().sum()
    return finite(float((squared / theirs.square().sum().clamp_min(1e-30)).sqrt()))


def fit(mine: torch.Tensor | None, reference: torch.Tensor) -> tuple[float | None, float | None]:
    """Least-squares factor from ``reference`` to ``mine``, and the relative L2 distance of the two as they are.

    ``None`` twice for other shapes or a reference of zeros. Further channels of ``mine`` (a conditioning image) are
    left out.
    """
    if mine is None or mine.dim() != reference.dim() or mine.shape[0] < reference.shape[0]:
        return None, None
    if mine.shape[1:] != reference.shape[1:]:
        return None, None
    ours, theirs = mine[: reference.shape[0]].double(), reference.double()
    length = float(theirs.square().sum())
    if not 0 < length < float("inf"):
        return None, None
    gain = float((ours * theirs).sum()) / length
    apart = float((ours - theirs).square().sum() / length) ** 0.5
    return finite(gain), finite(apart)


def guidance(velocity: torch.Tensor, seen: list[Pass], texts: Texts) -> float | None:
    """The scale g that best explains ``v = u + g (c - u)``, by least squares over all values; 4 decimals.

    c is the prediction under the prompt and u the one under the negative prompt, whichever came first. If both were
    made under one text, the first counts as c. ``None`` without two predictions, or where both are equal.
    """
    if len(seen) != 2:
        return None
    roles = [texts.role(one.text)[0] for one in seen]
    ordered = seen[::-1] if roles == ["negative", "prompt"] else seen
    conditional, unconditional = (one.prediction.double() for one in ordered)
    direction = conditional - unconditional
    length = float((direction * direction).sum())
    if not 0 < length < float("inf"):
        return None
    return finite(round(float(((velocity[0].double() - unconditional) * direction).sum()) / length, 4))


def finite(value: float) -> float:
    """NaN and infinities as the largest float: records are JSON, and what broke is told by the float statistics."""
    return value if abs(value) <= 1e300 else 1e300
