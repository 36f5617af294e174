"""The inputs that the model really received, taken by a forward hook, since the pipeline's variables may differ.

Both guidance passes may come in one batch or in the other order, or one may be left out. So a pass is recognized by its
text and not by its position, and every row of a batch counts as a separate pass.
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
    """[C, T, H, W], as received by the expert."""
    timestep: float | None
    text: torch.Tensor | None
    """[L, D]."""
    prediction: torch.Tensor
    """[C, T, H, W]."""
    timesteps: torch.Tensor | None = None
    """[tokens], if each token has its own timestep."""

    def denoised(self) -> list[int] | None:
        """Return the latent frames that are not given clean (all their tokens at timestep 0); ``None``: every frame."""
        if self.timesteps is None or self.latents is None or self.timesteps.numel() % self.latents.shape[1]:
            return None
        moving = (self.timesteps.reshape(self.latents.shape[1], -1) != 0).any(dim=1)
        return None if bool(moving.all()) else torch.nonzero(moving).flatten().tolist()


def passes(expert: str, inputs: tuple[Any, ...], options: dict[str, Any], output: torch.Tensor) -> list[Pass]:
    """Split one forward call into its rows. An absent argument is ``None`` in each row.

    Args:
        expert: role of the transformer that was called.
        inputs: positional arguments of the call.
        options: keyword arguments of the call.
        output: the prediction of the call, [B, C, T, H, W].
    """
    arguments = {**dict(zip(ARGUMENTS, inputs, strict=False)), **options}
    latents, timestep, text = (arguments.get(name) for name in ARGUMENTS)
    rows = output.shape[0]
    return [
        Pass(
            expert,
            _row(latents, row, rows),
            None if timestep is None else _largest(timestep, row, rows),
            _row(text, row, rows),
            output[row].clone(),
            _tokens(timestep, row, rows),
        )
        for row in range(rows)
    ]


def _row(tensor: Any, row: int, rows: int) -> torch.Tensor | None:
    if not isinstance(tensor, torch.Tensor):
        return None
    # a copy: a runtime may give every call the same buffers (CUDA graphs need it), and overwrite them
    return (tensor[row] if tensor.shape[0] == rows else tensor[0]).clone()


def _largest(timestep: Any, row: int, rows: int) -> float:
    """Return the timestep of a row. With one timestep per token, given frames have 0, so the largest is the step's."""
    if not isinstance(timestep, torch.Tensor):
        return float(timestep)
    times = timestep[row] if timestep.dim() and timestep.shape[0] == rows else timestep
    return float(times.max())


def _tokens(timestep: Any, row: int, rows: int) -> torch.Tensor | None:
    if not isinstance(timestep, torch.Tensor) or timestep.dim() < 2:
        return None
    return timestep[row] if timestep.shape[0] == rows else timestep[0]


class Texts:
    """The texts from the encoder, by which the texts of the passes are recognized."""

    def __init__(self, prompt: Any = None, negative: Any = None) -> None:
        pairs: tuple[tuple[TextRole, Any], ...] = (("prompt", prompt), ("negative", negative))
        self._texts = {role: text[0] for role, text in pairs if isinstance(text, torch.Tensor)}

    def role(self, text: torch.Tensor | None) -> tuple[TextRole | Literal[""], float | None]:
        """Return the name of the nearest encoder text and the relative L2 distance to it; ``""`` without texts."""
        if text is None or not self._texts:
            return "", None
        errors = {role: _distance(text, role_text) for role, role_text in self._texts.items()}
        role = min(errors, key=lambda name: errors[name])
        return role, errors[role]


def _distance(text: torch.Tensor, reference: torch.Tensor) -> float:
    """Return the relative L2 distance of [L, D] to [K, D]. Rows that one of them lacks count as zeros."""
    rows = min(text.shape[0], reference.shape[0])
    # the encoder's text is rounded to the dtype of the pass first, so that a cast is no difference
    received, expected = text.double(), reference.to(text.dtype).double()
    squared = (
        (received[:rows] - expected[:rows]).square().sum()
        + received[rows:].square().sum()
        + expected[rows:].square().sum()
    )
    return finite(float((squared / expected.square().sum().clamp_min(1e-30)).sqrt()))


def call_facts(model_pass: Pass, texts: Texts, latents: torch.Tensor) -> dict[str, Any]:
    """Return the fields of ``harness.records.generation.ModelCall`` for one pass.

    Args:
        model_pass: the pass.
        texts: the encoder's texts.
        latents: the latents passed to the scheduler's step, [1, C, T, H, W].
    """
    role, error = texts.role(model_pass.text)
    received, expected, moving = model_pass.latents, latents[0], model_pass.denoised()
    if received is not None and moving:
        # clean given frames replace the scheduler's frames and are covered by `Condition`, so compare only the others
        received, expected = (
            received[:, moving],
            expected[:, moving] if expected.shape[1] == received.shape[1] else expected,
        )
    gain, apart = fit(received, expected)
    return {
        "timestep": model_pass.timestep,
        "text": role,
        "text_error": error,
        "latents_gain": gain,
        "latents_error": apart,
    }


def fit(values: torch.Tensor | None, reference: torch.Tensor) -> tuple[float | None, float | None]:
    """Return the least-squares factor from ``reference`` to ``values``, and their relative L2 distance without it.

    Both are ``None`` if the shapes differ or the reference is zero. Additional channels of ``values`` (a conditioning
    image) are ignored.
    """
    if values is None or values.dim() != reference.dim() or values.shape[0] < reference.shape[0]:
        return None, None
    if values.shape[1:] != reference.shape[1:]:
        return None, None
    received, expected = values[: reference.shape[0]].double(), reference.double()
    length = float(expected.square().sum())
    if not 0 < length < float("inf"):
        return None, None
    gain = float((received * expected).sum()) / length
    apart = float((received - expected).square().sum() / length) ** 0.5
    return finite(gain), finite(apart)


def guidance(velocity: torch.Tensor, seen: list[Pass], texts: Texts) -> float | None:
    """Return the scale g that best explains ``v = u + g (c - u)``, by least squares over all values; 4 decimals.

    c is the prediction for the prompt and u the prediction for the negative prompt, in any order. If both were made
    with one text, the first counts as c. ``None`` without two predictions, or if both are equal.
    """
    if len(seen) != 2:
        return None
    roles = [texts.role(model_pass.text)[0] for model_pass in seen]
    # swap only if both are recognized: otherwise the first counts as the conditional pass
    ordered = seen[::-1] if roles == ["negative", "prompt"] else seen
    conditional, unconditional = (model_pass.prediction.double() for model_pass in ordered)
    direction = conditional - unconditional
    length = float((direction * direction).sum())
    if not 0 < length < float("inf"):
        return None
    return finite(round(float(((velocity[0].double() - unconditional) * direction).sum()) / length, 4))


def combination_error(velocity: torch.Tensor, seen: list[Pass]) -> float | None:
    """Return the relative L2 distance of ``velocity`` from the nearest ``a + g (b - a)`` of two predictions a and b.

    With one prediction, the distance from that. ``None`` without a prediction of the velocity's shape, or for a
    velocity that is zero or not finite.
    """
    rows = [model_pass.prediction.double() for model_pass in seen]
    combined = velocity[0].double()
    if len(rows) not in (1, 2) or any(row.shape != combined.shape for row in rows):
        return None
    length = float(combined.square().sum())
    if not 0 < length < float("inf"):
        return None
    rest = combined - rows[0]
    if len(rows) == 2:
        direction = rows[1] - rows[0]
        size = float(direction.square().sum())
        if size > 0:
            rest = rest - direction * (float((rest * direction).sum()) / size)
    error = (float(rest.square().sum()) / length) ** 0.5
    return error if error < float("inf") else None


def finite(value: float) -> float:
    """Return the value, or 1e300 for NaN and infinities: records are JSON, and the float statistics count them."""
    return value if abs(value) <= 1e300 else 1e300
