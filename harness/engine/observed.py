"""Facts of tensors that a backend observes, in any runtime.

The code needs torch only, so it also runs under the interpreter of a runtime, where the rest of the harness is absent
(an import-linter contract in ``pyproject.toml`` checks this).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch

MANTISSA = {"float32": 23, "bf16": 7}
"""Stored bits of the mantissa."""


def moved(latents: torch.Tensor, steps: torch.Tensor, dtype: str) -> torch.Tensor:
    """Return ``latents`` moved by ``steps`` units in the last place of ``dtype``.

    Zeros and values that are not finite stay.

    Args:
        latents: any shape.
        steps: int8 of that shape: -1, 0 or 1.
        dtype: a key of ``MANTISSA``.
    """
    _, exponent = torch.frexp(latents.float())
    # frexp's mantissa lies in [.5, 1): the leading bit is worth 2^(exponent - 1)
    unit = torch.ldexp(torch.ones_like(latents, dtype=torch.float32), exponent - 1 - MANTISSA[dtype])
    unit = torch.where((latents == 0) | ~torch.isfinite(latents), torch.zeros_like(unit), unit)
    return (latents.float() + steps.to(latents.device) * unit).to(latents.dtype)


def numbers(values: Any) -> tuple[float, ...]:
    """Return a scheduler's list of numbers, unchanged; empty for ``None``."""
    if values is None:
        return ()
    return tuple(float(value) for value in torch.as_tensor(values).double().flatten().tolist())


def repeated_frames(latents: torch.Tensor) -> int:
    """Return how many frames of [B, C, T, H, W] equal the previous frame; 0 for other shapes."""
    if latents.dim() != 5 or latents.shape[2] < 2:
        return 0
    return int((latents[:, :, 1:] == latents[:, :, :-1]).flatten(3).all(dim=3).all(dim=1).sum())


def text_facts(embeds: Any, ids: Sequence[torch.Tensor], masks: Sequence[torch.Tensor | None]) -> dict[str, Any]:
    """Return exact facts of the encoded prompt: length and dtype of the embedding, digests of tokens and mask.

    Args:
        embeds: [B, L, D]; anything but a tensor has no facts.
        ids: token ids that the text encoder read, a tensor per call.
        masks: the mask of each call; ``None``: it got none.
    """
    if not isinstance(embeds, torch.Tensor):
        return {}
    return {
        "length": embeds.shape[1],
        "dtype": str(embeds.dtype).removeprefix("torch."),
        "tokens": _digest(ids),
        # an absent mask counts as an empty row
        "mask": _digest([torch.zeros(1) if mask is None else mask for mask in masks]),
    }


def _digest(parts: Sequence[torch.Tensor]) -> str:
    """Return 16 hex digits of sha256 over the values without trailing zeros: a longer limit only adds such padding."""
    digest = hashlib.sha256()
    for part in parts:
        for row in part.reshape(-1, part.shape[-1]).to(device="cpu", dtype=torch.int64).tolist():
            while row and row[-1] == 0:
                row.pop()
            digest.update(repr(row).encode())
    return digest.hexdigest()[:16]


class FloatRange:
    """Observes the values of a VAE's decoder before they are clamped; a forward hook.

    A clamp hides infinities and values out of range. Values are mapped to [0, 1] as the video is, ``x / 2 + 0.5``.
    """

    def __init__(self) -> None:
        self._nan = self._inf = 0
        self._minimum, self._maximum = float("inf"), float("-inf")
        self._first_bad: int | None = None
        self.frames = 0
        """Number of frames that were observed."""

    def __call__(self, _module: Any, _inputs: Any, output: Any) -> None:
        """Add the next frames, [B, C, T, H, W], of a tuple the first item. Other outputs are no frames."""
        tensor = output[0] if isinstance(output, tuple) else output
        if not isinstance(tensor, torch.Tensor) or tensor.dim() != 5:
            return
        finite = torch.isfinite(tensor)
        if bool(finite.all()):
            self._spread(tensor)
            self.add_finite(tensor)
        else:
            self._nan += int(torch.isnan(tensor).sum())
            self._inf += int(torch.isinf(tensor).sum())
            bad = (~finite).any(dim=1).flatten(2).any(dim=2).any(dim=0)
            if self._first_bad is None:
                self._first_bad = self.frames + int(bad.to(torch.int8).argmax())
            if bool(finite.any()):
                self._spread(tensor[finite])
        self.frames += tensor.shape[2]

    def add_finite(self, frames: torch.Tensor) -> None:
        """Take frames without NaN or infinity; for watches that need more than the range."""

    def _spread(self, values: torch.Tensor) -> None:
        low, high = torch.aminmax(values)
        self._minimum, self._maximum = min(self._minimum, float(low)), max(self._maximum, float(high))

    def facts(self) -> dict[str, Any]:
        """Return the fields of ``harness.records.generation.FloatStats``. The range is that of the finite values, 0 if
        there are none.
        """
        seen = self._minimum <= self._maximum
        return {
            "nan": self._nan,
            "inf": self._inf,
            "minimum": self._minimum / 2 + 0.5 if seen else 0.0,
            "maximum": self._maximum / 2 + 0.5 if seen else 0.0,
            "first_bad_frame": self._first_bad,
        }
