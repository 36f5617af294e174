# mypy: disable-error-code="no-untyped-call"
"""Trains the models that take an image: `python -m tiny.train_variants --out DIR [--only i2v|ti2v]`.

Each starts from the trained text-to-video experts, whose VAE and text encoder it shares: patch embedding widened with
zeros for mask and image latents (I2V), or both experts averaged into one (TI2V). Two stages follow: `base`, then
`robust` with weight noise (`tiny.train_robust`); `tiny.finish_variants` mixes the two. With two GPUs both models train
side by side. `DIR` gets BF16 weights, averaged, once a minute and at the end; `--state` gets what `--resume` needs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from tiny.draw import Labels, draw, draw_from_centre, sample_labels
from tiny.modules import Expert, TextEncoder, Vae
from tiny.spec import FRAMES, LATENT_SHAPE, TRAIN_TIMESTEPS
from tiny.train_dit import Phase, Table, compile_blocks
from tiny.train_vae import encode
from tiny.training.checkpoint import load_state, save_state
from tiny.training.loop import Schedule, log
from tiny.variants import I2V, MASK_CHANNELS, TEXT_TO_VIDEO, VARIANTS, Variant
from tiny.vocab.tokenizer import build_tokenizer

_FILE: Final = "diffusion_pytorch_model.safetensors"
_PEAK_RATES: Final = {"base": 8e-4, "robust": 5e-4}
#: Share of the training time that the first stage gets.
_BASE_SHARE: Final = 0.58
#: Weight of the agreement with the undisturbed expert against the velocity's own error, as in `tiny.train_robust`.
_AGREEMENT: Final = 10.0
#: Share of I2V's training videos that are given their last frame too, of TI2V's that are given their first.
_LAST_FRAME_SHARE: Final = 0.2
_FIRST_FRAME_SHARE: Final = 0.6
#: Share of videos whose object starts where it could go anywhere (`draw_from_centre`).
_FROM_CENTRE: Final = {"i2v": 0.75, "ti2v": 0.5}


def initial_expert(variant: Variant, sources: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The state of an expert of `variant` from text-to-video experts (their mean, if several), float32.

    Blocks are kept as `variant.kept_blocks` says; of a feed-forward layer's inner channels the strongest stay (by the
    product of the norms of their weights into and out of the channel). New input channels start at zero, so that the
    model at first does as the text-to-video one does, whatever the image.
    """
    mean = {name: torch.stack([source[name].float() for source in sources]).mean(0) for name in sources[0]}
    state: dict[str, Tensor] = {}
    for name, tensor in mean.items():
        if not name.startswith("blocks."):
            state[name] = tensor
            continue
        _, block, rest = name.split(".", 2)
        if int(block) in variant.kept_blocks:
            state[f"blocks.{variant.kept_blocks.index(int(block))}.{rest}"] = tensor
    patch = state["patch_embedding.weight"]
    new = torch.zeros(patch.shape[0], variant.in_channels - patch.shape[1], *patch.shape[2:])
    state["patch_embedding.weight"] = torch.cat([patch, new], 1)
    for index in range(len(variant.kept_blocks)):
        into, out = f"blocks.{index}.ffn.net.0.proj", f"blocks.{index}.ffn.net.2.weight"
        strength = state[f"{into}.weight"].norm(dim=1) * state[out].norm(dim=0)
        kept = strength.topk(variant.ffn_dim).indices.sort().values
        state[f"{into}.weight"], state[f"{into}.bias"] = state[f"{into}.weight"][kept], state[f"{into}.bias"][kept]
        state[out] = state[out][:, kept]
    return state


def initial_experts(variant: Variant, weights: Path = TEXT_TO_VIDEO) -> dict[str, Expert]:
    """The untrained experts by component folder, in float32: see `initial_expert`."""
    from diffusers import WanTransformer3DModel
    from safetensors.torch import load_file

    folders = sorted(path.parent for path in weights.glob(f"transformer*/{_FILE}"))
    states = {folder.name: load_file(folder / _FILE) for folder in folders}
    base = json.loads((folders[0] / "config.json").read_text())
    config = {k: v for k, v in variant.transformer_config(base).items() if not k.startswith("_")}
    experts: dict[str, Expert] = {}
    for name in variant.experts:
        sources = [states[name]] if len(variant.experts) > 1 else list(states.values())
        expert: Expert = WanTransformer3DModel(**config)
        expert.load_state_dict(initial_expert(variant, sources))
        experts[name] = expert
    return experts


def first_frame_mask(last: bool = False) -> Tensor:
    """I2V's mask channels [1, 4, F', H', W']: one where a frame is given (the first; with `last` the last too).

    Latent frame 0 stands for frame 0 alone, four times; every other latent frame for four frames.
    """
    frames = torch.zeros(1, FRAMES, *LATENT_SHAPE[2:])
    frames[:, 0] = 1
    if last:
        frames[:, -1] = 1
    frames = torch.cat([frames[:, :1].repeat_interleave(MASK_CHANNELS, dim=1), frames[:, 1:]], 1)
    return frames.view(1, -1, MASK_CHANNELS, *LATENT_SHAPE[2:]).transpose(1, 2).contiguous()


class Data:
    """Normalised latents and image conditions [N, 16, 5, 8, 12] and caption tokens [N, L], on the device.

    `given` holds I2V's conditions: the encoded video with all frames grey but the first, and but the first and last.
    """

    def __init__(self, variant: Variant, vae: Vae, count: int, seed: int, device: torch.device) -> None:
        generator = torch.Generator().manual_seed(seed)
        mean = torch.tensor(vae.config.latents_mean, device=device).view(1, -1, 1, 1, 1)
        deviation = torch.tensor(vae.config.latents_std, device=device).view(1, -1, 1, 1, 1)
        self.latents = torch.empty(count, *LATENT_SHAPE, device=device, dtype=torch.float16)
        self.given = [torch.empty_like(self.latents) for _ in range(2)] if variant is I2V else []
        captions: list[str] = []
        chunk = min(128, count)
        centred = round(chunk * _FROM_CENTRE[variant.name])
        with torch.no_grad():
            for start in range(0, count - chunk + 1, chunk):
                labels = sample_labels(chunk, generator)
                parts = [
                    draw_from_centre(_part(labels, 0, centred), generator, device),
                    draw(_part(labels, centred, chunk), generator, device),
                ]
                video = torch.cat(parts)
                rows = slice(start, start + chunk)
                with torch.autocast(device.type, torch.bfloat16):
                    self.latents[rows] = ((encode(vae, video)[0] - mean) / deviation).half()
                    for last, given in enumerate(self.given):
                        frames = torch.zeros_like(video)
                        frames[:, :, 0] = video[:, :, 0]
                        if last:
                            frames[:, :, -1] = video[:, :, -1]
                        given[rows] = ((encode(vae, frames)[0] - mean) / deviation).half()
                captions += labels.captions()
        tokenizer = build_tokenizer()
        self.tokens = torch.tensor(tokenizer(captions).input_ids, device=device)
        self.empty = torch.tensor(tokenizer([""]).input_ids, device=device)
        self.masks = [first_frame_mask(last).to(device) for last in (False, True)]

    def __len__(self) -> int:
        return len(self.tokens)


def _part(labels: Labels, start: int, stop: int) -> Labels:
    rows = slice(start, stop)
    return Labels(labels.colour[rows], labels.shape[rows], labels.direction[rows], labels.background[rows])


@dataclass(frozen=True)
class Batch:
    """What one expert is given in a step, and what its velocity is compared with.

    `noisy` [B, C, F', H', W'] with C the model's input channels, `timestep` [B] or (per token) [B, tokens], `target`
    [B, 16, F', H', W'], `weight` broadcasts over the target and has a mean of one.
    """

    noisy: Tensor
    timestep: Tensor
    target: Tensor
    weight: Tensor


def draw_batch(variant: Variant, data: Data, index: Tensor, low_u: float, high_u: float) -> Batch:
    """Noisy latents of the videos at `index`, with their images, at sigmas shifted from u ~ U(low_u, high_u)."""
    device, count = index.device, len(index)
    u = low_u + (high_u - low_u) * torch.rand(count, device=device)
    sigma = variant.flow_shift * u / (1 + (variant.flow_shift - 1) * u)
    latents = data.latents[index].float()
    noise = torch.randn_like(latents)
    scale = sigma.view(-1, 1, 1, 1, 1)
    noisy, target = (1 - scale) * latents + scale * noise, noise - latents
    if not variant.expand_timesteps:
        last = torch.rand(count, 1, 1, 1, 1, device=device) < _LAST_FRAME_SHARE
        given = torch.where(last, data.given[1][index].float(), data.given[0][index].float())
        mask = torch.where(last, data.masks[1], data.masks[0])
        inputs = torch.cat([noisy, mask, given], 1)
        return Batch(inputs, sigma * TRAIN_TIMESTEPS, target, torch.ones(1, 1, 1, 1, 1, device=device))
    # 1 where the model has to denoise; 0 in the first latent frame of videos that are given it, clean.
    unknown = torch.ones(count, 1, LATENT_SHAPE[1], 1, 1, device=device)
    given_first = torch.rand(count, 1, 1, 1, device=device) < _FIRST_FRAME_SHARE
    unknown[:, :, 0] = torch.where(given_first, 0.0, 1.0)
    inputs = torch.where(unknown > 0, noisy, latents)
    tokens = (LATENT_SHAPE[2] // 2) * (LATENT_SHAPE[3] // 2)
    per_frame = unknown.view(count, -1, 1) * (sigma * TRAIN_TIMESTEPS).view(-1, 1, 1)
    timestep = per_frame.expand(-1, -1, tokens).reshape(count, -1)
    return Batch(inputs, timestep, target, unknown / unknown.mean())


def loss_of(model: nn.Module, batch: Batch, text: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted mean squared error of the velocity, and the velocity, float32."""
    velocity = model(batch.noisy, batch.timestep, text, return_dict=False)[0].float()
    return ((velocity - batch.target).square() * batch.weight).mean(), velocity


class WritingPhase(Phase):
    """A phase that also writes the averaged weights in BF16 to `target` with every checkpoint."""

    target: Path

    def _save(self) -> None:
        super()._save()
        means = {n: m.to(torch.bfloat16) for n, m in zip(self.named, self.average.mean, strict=True)}
        save_state(self.target, means, {"phase": self.name, "done": self.schedule.done, "used": self.schedule.used()})


def train(
    variant: Variant, out: Path, state: Path, device: torch.device, seconds: float, *, steps: int = 0,
    batch: int = 256, count: int = 24_576, seed: int = 0, resume: bool = False, compiled: bool = False,
) -> dict[str, list[float]]:  # fmt: skip
    """Both stages within `seconds` in all (or `steps` each); writes `out/NAME-base.safetensors` and `NAME-robust`.

    Returns each stage's logged losses.
    """
    from diffusers import AutoencoderKLWan
    from transformers import UMT5EncoderModel

    torch.manual_seed(seed)
    whole = Schedule(0.0, seconds)
    vae: Vae = AutoencoderKLWan.from_pretrained(TEXT_TO_VIDEO / "vae").to(device).eval()
    text: TextEncoder = UMT5EncoderModel.from_pretrained(TEXT_TO_VIDEO / "text_encoder").float().to(device).eval()
    data = Data(variant, vae, count, seed + 20, device)
    table = Table(text, data.tokens, data.empty)
    del vae, text
    log(f"{variant.name}: encoded {len(data)} videos in {whole.used():.1f} s")
    experts = {name: expert.to(device) for name, expert in initial_experts(variant).items()}
    compile_blocks(compiled, *experts.values())
    losses: dict[str, list[float]] = {}
    for stage, share in (("base", _BASE_SHARE), ("robust", 1.0)):
        left = max(1.0, (seconds - whole.used()) * share)
        schedule = Schedule(_PEAK_RATES[stage], left, steps)
        phase = WritingPhase(f"{variant.name}-{stage}", dict(experts), state, schedule, resume)
        phase.target = out / f"{variant.name}-{stage}.safetensors"
        step = _step(variant, data, table, experts, phase, batch, noisy=stage == "robust")
        losses[stage] = phase.run(step, tuple(experts.values()))
        values = losses[stage]
        log(f"{phase.name}: loss {values[0]:.4f} -> {values[-1]:.4f}" if values else f"{phase.name}: done already")
    return losses


def _step(
    variant: Variant, data: Data, table: Table, experts: dict[str, Expert], phase: Phase, batch: int, noisy: bool
) -> Callable[[], Tensor]:
    from tiny.train_robust import WeightNoise

    boundary = variant.boundary_u()
    ranges = [(boundary, 1.0), (0.0, boundary)] if len(experts) > 1 else [(0.0, 1.0)]
    noises = [WeightNoise(model) if noisy else None for model in experts.values()]
    device = data.latents.device

    def step() -> Tensor:
        total = torch.zeros((), device=device)
        phase.optimizer.zero_grad()
        for model, noise, (low_u, high_u) in zip(experts.values(), noises, ranges, strict=True):
            index = torch.randint(len(data), (batch // len(experts),), device=device)
            given, text = draw_batch(variant, data, index, low_u, high_u), table.pick(index)
            with torch.autocast(device.type, torch.bfloat16, cache_enabled=False):
                if noise is None:
                    loss = loss_of(model, given, text)[0]
                else:
                    with torch.no_grad():
                        clean = loss_of(model, given, text)[1]
                    noise.disturb()
                    error, velocity = loss_of(model, given, text)
                    loss = error + _AGREEMENT * ((velocity - clean).square() * given.weight).mean()
            loss.backward()
            if noise is not None:
                noise.restore()
            total = total + loss.detach() / len(experts)
        phase.optimizer.step()
        return total

    return step


def _one_process_each(options: argparse.Namespace) -> int:
    """Both models at once, one process each, on a GPU of their own if there are two. Exit status 1 if one failed."""
    gpus = torch.cuda.device_count() if options.device == "cuda" else 0
    running = []
    for number, name in enumerate(VARIANTS):
        command = [sys.executable, "-m", "tiny.train_variants", "--only", name, "--out", str(options.out)]
        command += ["--state", str(options.state), "--seed", str(options.seed), "--device", options.device]
        command += ["--budget-seconds", str(options.budget_seconds - (time.monotonic() - _STARTED))]
        command += [flag for flag, given in (("--resume", options.resume), ("--smoke", options.smoke)) if given]
        environment = dict(os.environ)
        if gpus > 1:
            environment["CUDA_VISIBLE_DEVICES"] = str(number)
        environment["TORCHINDUCTOR_CACHE_DIR"] = str(options.state / f"inductor-{name}")
        with (options.out / f"{name}.log").open("ab") as written:
            running.append((name, subprocess.Popen(command, env=environment, stderr=written)))
    failed = [name for name, process in running if process.wait()]
    for name, _ in running:
        print((options.out / f"{name}.log").read_text()[-3000:], flush=True)
    print(f"failed: {', '.join(failed)}" if failed else "both models are trained", flush=True)
    return int(bool(failed))


def progress(path: Path) -> dict[str, Any]:
    """The stage, steps and seconds behind a file that `train` wrote."""
    return load_state(path)[1]


_STARTED = time.monotonic()


def main(arguments: list[str] | None = None) -> int:
    """Entry point; exit status 1 if a model failed to train."""
    parser = argparse.ArgumentParser(prog="python -m tiny.train_variants", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for the trained weights and the logs")
    parser.add_argument("--state", type=Path, help="folder of what --resume goes on from (default OUT-state)")
    parser.add_argument("--only", choices=sorted(VARIANTS), help="one model, in this process (default: both at once)")
    parser.add_argument("--budget-seconds", type=float, default=470.0, help="wall-clock time, everything included")
    parser.add_argument("--resume", action="store_true", help="continue from the state files of an earlier call")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--smoke", action="store_true", help="a few small steps of each stage, under a minute of CPU")
    options = parser.parse_args(arguments)
    options.state = options.state or options.out.with_name(options.out.name + "-state")
    for folder in (options.out, options.state):
        folder.mkdir(parents=True, exist_ok=True)
    if not options.only:
        return _one_process_each(options)
    device = torch.device(options.device)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.backends.cuda.matmul.allow_tf32 = True
        log(f"{options.only}: torch {torch.__version__} on {torch.cuda.get_device_name()}")
    size: dict[str, Any] = {"steps": 3, "batch": 2, "count": 4} if options.smoke else {}
    seconds = options.budget_seconds - (time.monotonic() - _STARTED)
    train(
        VARIANTS[options.only], options.out, options.state, device, seconds, seed=options.seed,
        resume=options.resume, compiled=device.type == "cuda", **size,
    )  # fmt: skip
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
