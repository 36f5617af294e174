# mypy: disable-error-code="no-untyped-call"
"""Stage 3: experts that tolerate four-bit weights, as a 14 B model does by its redundancy and 4 M parameters do not.

Weight-noise training: in every step the quantized Linears' weights are disturbed by fresh noise of the size of NVFP4's
rounding error, and the disturbed expert learns both the velocity and to agree with its undisturbed self. The noise is
random, not the rounding itself: weights stay off the grid, and their quantization error stays what it is in the field.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from tiny.build import assemble
from tiny.evaluate import load
from tiny.modules import Expert, TextEncoder, Vae
from tiny.spec import FLOW_SHIFT, TRAIN_TIMESTEPS
from tiny.train_dit import BOUNDARY_U, Data, Phase, Table, compile_blocks, save_pipeline
from tiny.training.loop import Schedule, log

_PEAK_RATE = 5e-4
#: Weight of the agreement with the undisturbed expert against the velocity's own error.
_AGREEMENT = 10.0
_BLOCK = 16


class WeightNoise:
    """Disturbs and restores weights in place, on the device, between forward passes; safe inside a CUDA graph."""

    def __init__(self, model: Expert) -> None:
        last = len(model.blocks) - 1
        self.weights = [
            module.weight.data
            for index, block in enumerate(model.blocks)
            if 0 < index < last
            for module in block.modules()
            if isinstance(module, nn.Linear)
        ]
        self.kept = [weight.clone() for weight in self.weights]

    @torch.no_grad()
    def disturb(self) -> None:
        """Adds uniform noise as wide as E2M1's step at each weight: .5, 1 or 2 sixths of its block's largest."""
        torch._foreach_copy_(self.kept, self.weights)
        for weight in self.weights:
            blocks = weight.view(-1, _BLOCK)
            unit = blocks.abs().amax(dim=1, keepdim=True) / 6
            scaled = blocks.abs() / unit
            step = torch.where(scaled < 2, 0.5, torch.where(scaled < 4, 1.0, 2.0)) * unit
            blocks.add_((torch.rand_like(blocks) - 0.5) * step)

    @torch.no_grad()
    def restore(self) -> None:
        """The weights as they were before `disturb`, to the bit."""
        torch._foreach_copy_(self.weights, self.kept)


def train(
    out: Path, device: torch.device, seconds: float, *, steps: int = 0, batch: int = 256, count: int = 24_576,
    seed: int = 0, resume: bool = False, compiled: bool = False,
) -> list[float]:  # fmt: skip
    """Continues the experts of the pipeline in `out` and writes it back; text encoder and VAE stay. Logged losses."""
    torch.manual_seed(seed)
    schedule = Schedule(_PEAK_RATE, seconds, steps)
    pipeline = load(out)
    vae: Vae = pipeline.vae.to(device)
    text: TextEncoder = pipeline.text_encoder.float().to(device)
    high: Expert = pipeline.transformer.float().to(device)
    low: Expert = pipeline.transformer_2.float().to(device)
    data = Data(vae, count, seed + 3, device)
    log(f"robust: encoded {len(data)} videos in {schedule.used():.1f} s")
    table = Table(text, data.tokens, data.empty)
    phase = Phase("robust", {"high": high, "low": low}, out, schedule, resume)
    compile_blocks(compiled, high, low)
    experts = ((high, WeightNoise(high), BOUNDARY_U, 1.0), (low, WeightNoise(low), 0.0, BOUNDARY_U))

    def step() -> Tensor:
        total = torch.zeros((), device=device)
        phase.optimizer.zero_grad()
        for model, noise, low_u, high_u in experts:
            index = torch.randint(len(data), (batch // 2,), device=device)
            loss = _loss(model, noise, data.latents[index].float(), table.pick(index), low_u, high_u)
            total = total + loss.detach() / 2
            noise.restore()
        phase.optimizer.step()
        return total

    losses = phase.run(step, (high, low))
    save_pipeline(assemble(vae, text, high, low), out)
    return losses


def _loss(model: Expert, noise: WeightNoise, latents: Tensor, text: Tensor, low_u: float, high_u: float) -> Tensor:
    """Backward is done here, while the weights are still disturbed: the linear layers' gradients need them so."""
    u = low_u + (high_u - low_u) * torch.rand(len(latents), device=latents.device)
    sigma = FLOW_SHIFT * u / (1 + (FLOW_SHIFT - 1) * u)
    start = torch.randn_like(latents)
    scale = sigma.view(-1, 1, 1, 1, 1)
    noisy = (1 - scale) * latents + scale * start
    with torch.autocast(latents.device.type, torch.bfloat16, cache_enabled=False):
        with torch.no_grad():
            clean = model(noisy, sigma * TRAIN_TIMESTEPS, text, return_dict=False)[0].float()
        noise.disturb()
        velocity = model(noisy, sigma * TRAIN_TIMESTEPS, text, return_dict=False)[0].float()
    error = (velocity - (start - latents)).square().mean()
    loss: Tensor = error + _AGREEMENT * (velocity - clean).square().mean()
    loss.backward()
    return loss
