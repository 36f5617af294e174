# mypy: disable-error-code="no-untyped-call"
"""Stage 2: text encoder and experts, on cached latents. First jointly, then each expert on its side of the boundary."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan
from torch import Tensor, nn

from tiny.build import assemble, build_text_encoder, build_transformer
from tiny.draw import draw, sample_labels
from tiny.modules import Expert, Pipeline, TextEncoder, Vae
from tiny.spec import BOUNDARY_RATIO, FLOW_SHIFT, LATENT_SHAPE, MAX_SEQUENCE_LENGTH, TRAIN_TIMESTEPS
from tiny.train_vae import encode
from tiny.training.checkpoint import load_state, save_state
from tiny.training.loop import Schedule, Step, log, run
from tiny.training.optimizer import Average, MuonAdamW
from tiny.vocab.tokenizer import build_tokenizer

_PEAK_RATE = 2e-3
_CAPTION_DROPOUT = 0.1
#: Share of the time, and of the one cosine, that joint training gets; the experts continue the same decay.
_JOINT = 0.7
_PLAIN = ("shared", "embed_tokens", "relative_attention_bias", "patch_embedding", "proj_out", "scale_shift_table")
#: u = 0.7 is sigma = 0.875 under shift 3: the experts' boundary in the uniform variable that sigmas are drawn from.
BOUNDARY_U = BOUNDARY_RATIO / (FLOW_SHIFT - (FLOW_SHIFT - 1) * BOUNDARY_RATIO)


class Data:
    """Normalised latents [N, 16, 5, 8, 12], caption tokens [N, L] and the empty caption's, on the device."""

    def __init__(self, vae: Vae, count: int, seed: int, device: torch.device) -> None:
        generator = torch.Generator().manual_seed(seed)
        mean = torch.tensor(vae.config.latents_mean, device=device).view(1, -1, 1, 1, 1)
        deviation = torch.tensor(vae.config.latents_std, device=device).view(1, -1, 1, 1, 1)
        self.latents = torch.empty(count, *LATENT_SHAPE, device=device, dtype=torch.float16)
        captions: list[str] = []
        chunk = min(128, count)
        with torch.no_grad():
            for start in range(0, count - chunk + 1, chunk):
                labels = sample_labels(chunk, generator)
                with torch.autocast(device.type, torch.bfloat16):
                    latents = encode(vae, draw(labels, generator, device))[0]
                self.latents[start : start + chunk] = ((latents - mean) / deviation).half()
                captions += labels.captions()
        tokenizer = build_tokenizer()
        self.tokens = torch.tensor(tokenizer(captions).input_ids, device=device)
        self.empty = torch.tensor(tokenizer([""]).input_ids, device=device)

    def __len__(self) -> int:
        return len(self.tokens)


def embed(encoder: TextEncoder, tokens: Tensor) -> Tensor:
    """Embeddings [B, MAX_SEQUENCE_LENGTH, D] of captions [B, L] of EQUAL length, zero behind them as the pipeline pads.

    Runs the stack block by block: nothing is padded, so no mask is needed, and building one would synchronise.
    """
    stack = encoder.encoder
    hidden = stack.embed_tokens(tokens)
    for block in stack.block:
        output = block(hidden)
        hidden = output[0] if isinstance(output, tuple) else output
    hidden = stack.final_layer_norm(hidden)
    return nn.functional.pad(hidden, (0, 0, 0, MAX_SEQUENCE_LENGTH - hidden.shape[1]))


def flow_loss(model: nn.Module, latents: Tensor, text: Tensor, low_u: float, high_u: float) -> Tensor:
    """Mean squared error of the velocity (noise - latents) at sigmas shifted from u ~ U(low_u, high_u)."""
    u = low_u + (high_u - low_u) * torch.rand(len(latents), device=latents.device)
    sigma = FLOW_SHIFT * u / (1 + (FLOW_SHIFT - 1) * u)
    noise = torch.randn_like(latents)
    scale = sigma.view(-1, 1, 1, 1, 1)
    noisy = (1 - scale) * latents + scale * noise
    velocity = model(noisy, sigma * TRAIN_TIMESTEPS, text, return_dict=False)[0]
    loss: Tensor = (velocity.float() - (noise - latents)).square().mean()
    return loss


def train(
    out: Path, device: torch.device, seconds: float, *, steps: int = 0, batch: int = 256, count: int = 24_576,
    seed: int = 0, resume: bool = False, compiled: bool = False,
) -> list[float]:  # fmt: skip
    """Trains for `seconds` in all (or `steps` in each phase) with the VAE in `out/vae`; writes the pipeline to `out`.

    Returns the logged losses of both phases. The written experts and text encoder are BF16, the VAE stays FP32.
    """
    torch.manual_seed(seed)
    vae = AutoencoderKLWan.from_pretrained(out / "vae").to(device).eval()
    preparation = Schedule(_PEAK_RATE, 0.0)
    data = Data(vae, count, seed + 2, device)
    log(f"dit: encoded {len(data)} videos in {preparation.used():.1f} s")
    left = max(1.0, seconds - preparation.used())

    text, joint = build_text_encoder().to(device), build_transformer().to(device)
    losses = _train_joint(data, text, joint, out, left * _JOINT, steps, batch, resume, compiled)
    table = Table(text, data.tokens, data.empty)
    high, low = build_transformer().to(device), build_transformer().to(device)
    for expert in (high, low):
        expert.load_state_dict(joint.state_dict())
    left = max(1.0, seconds - preparation.used()) if not steps else left
    losses += _train_experts(data, table, high, low, out, left, steps, batch, resume, compiled)
    save_pipeline(assemble(vae, text, high, low), out)
    return losses


def save_pipeline(pipeline: Pipeline, out: Path) -> None:
    """Writes a Diffusers repository: experts and text encoder in BF16, the VAE in FP32, and no path of this machine."""
    for module in (pipeline.text_encoder, pipeline.transformer, pipeline.transformer_2):
        module.cpu().bfloat16()
    pipeline.vae.cpu().float()
    pipeline.save_pretrained(out, safe_serialization=True)
    for config in out.glob("*/config.json"):
        content = json.loads(config.read_text())
        content.pop("_name_or_path", None)
        config.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


class Table:
    """Embeddings by video, from the finished text encoder: one row a distinct caption, computed once."""

    def __init__(self, text: TextEncoder, tokens: Tensor, empty: Tensor) -> None:
        distinct, self.row = torch.unique(tokens, dim=0, return_inverse=True)
        with torch.no_grad():
            self.rows = torch.cat([embed(text, distinct), embed(text, empty)])

    def pick(self, index: Tensor) -> Tensor:
        """Embeddings of these videos' captions, a tenth of them dropped."""
        row = self.row[index]
        dropped = torch.rand(len(index), device=index.device) < _CAPTION_DROPOUT
        return self.rows[torch.where(dropped, len(self.rows) - 1, row)]


def _train_joint(
    data: Data, text: TextEncoder, model: Expert, out: Path, seconds: float, steps: int,
    batch: int, resume: bool, compiled: bool,
) -> list[float]:  # fmt: skip
    device = data.latents.device
    modules = {"text": text, "joint": model}
    phase = Phase("joint", modules, out, Schedule(_PEAK_RATE, seconds, steps, 0.0, _JOINT), resume)
    compile_blocks(compiled, model)

    def step() -> Tensor:
        index = torch.randint(len(data), (batch,), device=device)
        with torch.autocast(device.type, torch.bfloat16, cache_enabled=False):
            embeddings, nothing = embed(text, data.tokens[index]), embed(text, data.empty)
            dropped = torch.rand(batch, 1, 1, device=device) < _CAPTION_DROPOUT
            loss = flow_loss(model, data.latents[index].float(), torch.where(dropped, nothing, embeddings), 0.0, 1.0)
        phase.optimizer.zero_grad()
        loss.backward()
        phase.optimizer.step()
        return loss.detach()

    return phase.run(step, (model,))


def _train_experts(
    data: Data, table: Table, high: Expert, low: Expert, out: Path, seconds: float,
    steps: int, batch: int, resume: bool, compiled: bool,
) -> list[float]:  # fmt: skip
    device = data.latents.device
    schedule = Schedule(_PEAK_RATE, seconds, steps, _JOINT, 1.0, warmup=0)
    phase = Phase("experts", {"high": high, "low": low}, out, schedule, resume)
    compile_blocks(compiled, high, low)

    def step() -> Tensor:
        total = torch.zeros((), device=device)
        phase.optimizer.zero_grad()
        for model, low_u, high_u in ((high, BOUNDARY_U, 1.0), (low, 0.0, BOUNDARY_U)):
            index = torch.randint(len(data), (batch // 2,), device=device)
            with torch.autocast(device.type, torch.bfloat16, cache_enabled=False):
                loss = flow_loss(model, data.latents[index].float(), table.pick(index), low_u, high_u)
            loss.backward()
            total = total + loss.detach() / 2
        phase.optimizer.step()
        return total

    return phase.run(step, (high, low))


class Phase:
    """One stretch of training with its optimizer, average, schedule and state file."""

    def __init__(self, name: str, modules: dict[str, nn.Module], out: Path, schedule: Schedule, resume: bool) -> None:
        self.name, self.schedule = name, schedule
        self.named = {f"{key}.{n}": p for key, module in modules.items() for n, p in module.named_parameters()}
        self.optimizer = MuonAdamW(self.named.items(), plain=_PLAIN)
        self.average = Average(self.named.values())
        self.path = out / f"{name}_state.safetensors"
        if resume and self.path.exists():
            self._restore()

    def run(self, step: Step, compiled: tuple[Expert, ...]) -> list[float]:
        """Trains, then leaves the averaged weights in the modules."""
        if compiled:
            _try_compiled(step, compiled)
        losses = run(self.name, step, self.optimizer, self.average, self.schedule, self._save)
        self.average.swap()
        self.optimizer.zero_grad()
        return losses

    def _save(self) -> None:
        tensors: dict[str, Tensor] = {f"weight.{n}": p for n, p in self.named.items()}
        tensors.update({f"mean.{n}": m for n, m in zip(self.named, self.average.mean, strict=True)})
        tensors.update({f"optimizer.{n}": t for n, t in self.optimizer.state().items()})
        save_state(self.path, tensors, {"done": self.schedule.done, "used": self.schedule.used()})

    @torch.no_grad()
    def _restore(self) -> None:
        tensors, progress = load_state(self.path)
        for (name, parameter), mean in zip(self.named.items(), self.average.mean, strict=True):
            parameter.copy_(tensors[f"weight.{name}"])
            mean.copy_(tensors[f"mean.{name}"])
        state = {n.removeprefix("optimizer."): t for n, t in tensors.items() if n.startswith("optimizer.")}
        self.optimizer.load_state(state)
        self.schedule.done, self.schedule.used_before = progress["done"], progress["used"]
        log(f"{self.name}: resumed at step {self.schedule.done}")


def compile_blocks(wanted: bool, *models: Expert) -> None:
    if wanted:
        for model in models:
            for block in model.blocks:
                block.compile(fullgraph=True, dynamic=False)


def _try_compiled(step: Step, models: tuple[Expert, ...]) -> None:
    """One step now; if the compiler is what fails, the blocks go back to eager and training continues without it."""
    blocks = [block for model in models for block in model.blocks if block._compiled_call_impl is not None]
    if not blocks:
        return
    try:
        step()
    except Exception as error:
        log(f"no torch.compile, running eagerly: {type(error).__name__}: {str(error)[:300]}")
        for block in blocks:
            block._compiled_call_impl = None
        torch._dynamo.reset()
