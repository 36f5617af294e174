"""Record probe inputs: a generation of the base, from which chosen inputs of each expert are kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import torch

from harness.records.generation import Expert
from harness.records.probe import ProbeInput


@dataclass(frozen=True)
class Recorded:
    """One recorded input: latents [1, C, T, H, W], the conditional text embedding [1, L, D], the timestep."""

    probe: ProbeInput
    latents: torch.Tensor
    text: torch.Tensor


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
            if float(timestep.reshape(-1)[0]) == self._last:
                return
            self._last = float(timestep.reshape(-1)[0])
            kept = (
                options["hidden_states"].detach().cpu().clone(),
                options["encoder_hidden_states"].detach().cpu().clone(),
            )
            self.seen.append((role, timestep.detach().cpu(), *kept))

        return hook

    def chosen(self) -> tuple[Recorded, ...]:
        """The first and the last step of every expert: the ends of the noise range that it serves."""
        picked: list[Recorded] = []
        for role in dict.fromkeys(role for role, *_ in self.seen):
            mine = [index for index, (name, *_) in enumerate(self.seen) if name == role]
            for index in _ends(mine):
                _, timestep, latents, text = self.seen[index]
                probe = ProbeInput(
                    expert=cast("Expert", role),
                    step=index,
                    timestep=float(timestep.reshape(-1)[0]),
                    timestep_dtype=str(timestep.dtype).removeprefix("torch."),
                    tokens=text.shape[1],
                )
                picked.append(Recorded(probe, latents, _trimmed(text)))
        return tuple(picked)


def _ends(indices: Sequence[int]) -> list[int]:
    return sorted({indices[0], indices[-1]})


def _trimmed(text: torch.Tensor) -> torch.Tensor:
    """Without trailing rows of zeros, with which the pipeline pads."""
    used = text[0].abs().amax(dim=1).nonzero()
    rows = int(used[-1]) + 1 if len(used) else 1
    return text[:, :rows].contiguous()
