"""What the trace costs: ``python -m benchmarks.tracing [--device cuda]``.

Denoising steps of a Wan transformer with random weights, with and without the recorder in turns in one process; the
ratio of the medians is printed. On a GPU the shape is that of 480p video (latents 16 x 21 x 60 x 104) and the width
that of the A14B model with some of its 40 layers: more layers make a step longer and the trace no dearer.
"""

from __future__ import annotations

import argparse
import sys
import time
from statistics import median
from types import SimpleNamespace
from typing import Any

import torch

from harness.engine.backends.wan_recorder import Recorder

SHAPES = {"480p": (16, 21, 60, 104), "tiny": (16, 5, 8, 12)}
LIMIT = 0.03
"""Largest share of a step that the trace may cost on a GPU at 480p."""


class _Pipe(SimpleNamespace):
    """What the recorder needs of a pipeline."""

    def encode_prompt(self) -> None:
        """Never called here: texts are given as embeddings."""


def build(device: torch.device, shape: str, layers: int) -> Any:
    """An object that the recorder takes for a pipeline."""
    import diffusers

    wide = shape == "480p"
    with torch.device(device):
        kind: Any = diffusers.WanTransformer3DModel
        model = kind(
            num_attention_heads=40 if wide else 4,
            attention_head_dim=128 if wide else 48,
            ffn_dim=13824 if wide else 768,
            text_dim=4096 if wide else 128,
            num_layers=layers,
        )
    solver: Any = diffusers.UniPCMultistepScheduler
    scheduler = solver(
        use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0, num_train_timesteps=1000
    )
    return _Pipe(
        transformer=model.to(torch.bfloat16).eval(),
        transformer_2=None,
        text_encoder=None,
        scheduler=scheduler,
        _guidance_scale=3.0,
        _guidance_scale_2=None,
    )


def denoise(pipe: Any, device: torch.device, shape: str, steps: int, *, traced: bool) -> list[float]:
    """Seconds of every step."""
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn((1, *SHAPES[shape]), generator=generator).to(device)
    width = pipe.transformer.config.text_dim
    texts = [torch.randn((1, 64, width), generator=generator).to(device, torch.bfloat16) for _ in range(2)]
    pipe.scheduler.set_timesteps(steps, device=device)
    recorder = Recorder(pipe, steps, lambda _event: None)
    seconds: list[float] = []
    watching = recorder.watching() if traced else None
    if watching is not None:
        watching.__enter__()
    try:
        for timestep in pipe.scheduler.timesteps:
            began = time.perf_counter()
            passes = [
                pipe.transformer(
                    hidden_states=latents.to(torch.bfloat16),
                    timestep=timestep.expand(1),
                    encoder_hidden_states=text,
                    return_dict=False,
                )[0]
                for text in texts
            ]
            velocity = passes[1] + 3.0 * (passes[0] - passes[1])
            latents = pipe.scheduler.step(velocity, timestep, latents, return_dict=False)[0]
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - began)
    finally:
        if watching is not None:
            watching.__exit__(None, None, None)
    return seconds


def main(arguments: list[str] | None = None) -> int:
    """Print the ratio; 1 where a GPU at 480p is above the limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=6)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    device, shape = torch.device(options.device), "480p" if options.device == "cuda" else "tiny"
    pipe = build(device, shape, options.layers)
    with torch.no_grad():
        for traced in (False, True):
            denoise(pipe, device, shape, 2, traced=traced)
        rows: dict[bool, list[float]] = {False: [], True: []}
        for _ in range(options.rounds):
            for traced in (False, True):
                rows[traced] += denoise(pipe, device, shape, options.steps, traced=traced)
    plain, traced_step = median(rows[False]), median(rows[True])
    share = traced_step / plain - 1.0
    name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    print(f"{name}, {shape}, {options.layers} layers, {len(rows[True])} steps each, torch {torch.__version__}")
    print(f"step {plain * 1e3:.2f} ms, traced {traced_step * 1e3:.2f} ms: {share:+.2%}")
    return int(device.type == "cuda" and share > LIMIT)


if __name__ == "__main__":
    sys.exit(main())
