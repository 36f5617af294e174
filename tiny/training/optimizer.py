# mypy: disable-error-code="no-untyped-call"
"""Muon for matrices and kernels, AdamW for the rest, in one step of batched tensor operations.

Every operation works on device tensors only (the learning rate too), so a whole training step can be captured
in a CUDA graph. Muon: Jordan et al. 2024 (orthogonalised momentum, quintic Newton-Schulz); the update is scaled by
0.2 * sqrt(max(rows, columns)) so that both halves share one learning rate (Liu et al. 2025, arXiv 2502.16982).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

_NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


def orthogonalise(matrices: Tensor, steps: int = 5) -> Tensor:
    """Approximate U V^T of each matrix's SVD, [n, r, c] float32 in and out; singular values land in about 0.7..1.2."""
    a, b, c = _NEWTON_SCHULZ
    x = matrices.bfloat16() if matrices.is_cuda else matrices
    wide = x.shape[1] <= x.shape[2]
    if not wide:
        x = x.transpose(1, 2)
    x = x / (x.float().norm(dim=(1, 2), keepdim=True) + 1e-7).to(x.dtype)
    for _ in range(steps):
        gram = x @ x.transpose(1, 2)
        x = a * x + (b * gram + c * gram @ gram) @ x
    result: Tensor = x if wide else x.transpose(1, 2)
    return result.float()


class MuonAdamW:
    """Optimises `named` parameters; those with >= 2 dimensions and none of `plain` in their name by Muon."""

    def __init__(self, named: Iterable[tuple[str, nn.Parameter]], plain: tuple[str, ...] = ()) -> None:
        self.groups: dict[tuple[int, int], list[nn.Parameter]] = {}
        self.vectors: list[nn.Parameter] = []
        for name, parameter in named:
            if parameter.dim() >= 2 and not any(word in name for word in plain):
                rows = parameter.shape[0]
                self.groups.setdefault((rows, parameter.numel() // rows), []).append(parameter)
            else:
                self.vectors.append(parameter)
        device = next(iter([*self.vectors, *(p for g in self.groups.values() for p in g)])).device
        self.lr = torch.zeros((), device=device)
        self.count = torch.zeros((), device=device)
        self.momentum = {shape: torch.zeros(len(group), *shape, device=device) for shape, group in self.groups.items()}
        total = sum(p.numel() for p in self.vectors)
        self.first = torch.zeros(total, device=device)
        self.second = torch.zeros(total, device=device)

    def parameters(self) -> list[nn.Parameter]:
        return [*self.vectors, *(p for group in self.groups.values() for p in group)]

    def zero_grad(self) -> None:
        """Drops the gradients; the next backward writes them afresh."""
        for parameter in self.parameters():
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """One update from the gradients, with the rate in `lr` (a device scalar; fill it, do not replace it)."""
        self.count += 1
        for shape, group in self.groups.items():
            grad = torch.stack([_gradient(p).reshape(shape) for p in group]).float()
            momentum = self.momentum[shape]
            momentum.lerp_(grad, 0.05)
            update = orthogonalise(grad.lerp(momentum, 0.95)) * (self.lr * (0.2 * max(shape) ** 0.5))
            torch._foreach_sub_([p.data for p in group], [u.view_as(p) for u, p in zip(update, group, strict=True)])
        if self.vectors:
            grad = torch.cat([_gradient(p).reshape(-1) for p in self.vectors]).float()
            self.first.lerp_(grad, 0.1)
            self.second.lerp_(grad * grad, 0.01)
            first = self.first / (1 - 0.9**self.count)
            second = self.second / (1 - 0.99**self.count)
            update = first / (second.sqrt() + 1e-8) * self.lr
            parts = update.split([p.numel() for p in self.vectors])
            torch._foreach_sub_(
                [p.data for p in self.vectors], [u.view_as(p) for u, p in zip(parts, self.vectors, strict=True)]
            )

    def state(self) -> dict[str, Tensor]:
        """Everything but the parameters, flat, for safetensors."""
        out = {"count": self.count, "first": self.first, "second": self.second}
        out.update({f"momentum.{r}x{c}": m for (r, c), m in self.momentum.items()})
        return out

    @torch.no_grad()
    def load_state(self, state: dict[str, Tensor]) -> None:
        """Inverse of `state`, in place. KeyError names what is missing."""
        for name, tensor in self.state().items():
            tensor.copy_(state[name])


def _gradient(parameter: nn.Parameter) -> Tensor:
    return parameter.grad if parameter.grad is not None else torch.zeros_like(parameter)


class Average:
    """Exponential moving average of parameters, updated in place on the device."""

    def __init__(self, parameters: Iterable[nn.Parameter]) -> None:
        self.live = [p.data for p in parameters]
        self.mean = [p.clone() for p in self.live]
        self.decay = torch.zeros((), device=self.live[0].device)

    @torch.no_grad()
    def update(self) -> None:
        """mean += (1 - decay) * (live - mean), with `decay` a device scalar."""
        difference = torch._foreach_sub(self.live, self.mean)
        torch._foreach_mul_(difference, 1 - self.decay)
        torch._foreach_add_(self.mean, difference)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchanges the averages with the live weights (call again to undo)."""
        for live, mean in zip(self.live, self.mean, strict=True):
            held = live.clone()
            live.copy_(mean)
            mean.copy_(held)
