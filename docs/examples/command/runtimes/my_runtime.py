"""A runtime of your own: reads what quantgate asks for, generates with diffusers, and writes the frames.

    my_runtime.py CASE_JSON OUT RECEIPTS DISTURB

Replace `generate` by what your runtime does. Everything else is what quantgate asks of a program.
"""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from diffusers import WanPipeline
from safetensors.numpy import save_file


def main(case_json: str, out: str, receipts: str) -> None:
    asked = json.loads(Path(case_json).read_text(encoding="utf-8"))
    case, model = asked["case"], asked["paths"]["model"]
    device = "cuda" if asked["device"] != "cpu" and torch.cuda.is_available() else "cpu"
    pipe = WanPipeline.from_pretrained(model, dtype=torch.bfloat16).to(device)
    frames, calls = generate(pipe, case["sampling"], asked["disturb"])
    # float32 in [0, 1], not rounded and not clipped: NaN and overshoot are seen. safetensors writes memory as it
    # lies, so a transposed view would come out scrambled: make it contiguous first.
    save_file({"frames": np.ascontiguousarray(frames)}, out)
    Path(receipts).write_text(json.dumps({"modules": calls}), encoding="utf-8")


def generate(pipe: WanPipeline, asked: dict, disturb: dict | None) -> tuple[np.ndarray, list[dict]]:
    """Frames [T, H, W, 3], and a receipt for each Linear of the experts' blocks, written where it runs."""
    calls: dict[tuple[str, str], dict] = {}
    for expert in ("transformer", "transformer_2"):
        for name, module in getattr(pipe, expert).named_modules():
            if isinstance(module, torch.nn.Linear):
                module.register_forward_hook(receipt(calls, expert, name))
    video = pipe(
        prompt=asked["prompt"],
        negative_prompt=asked["negative_prompt"],
        height=asked["height"],
        width=asked["width"],
        num_frames=asked["num_frames"],
        num_inference_steps=asked["num_inference_steps"],
        guidance_scale=asked["guidance_scale"],
        guidance_scale_2=asked["guidance_scale_2"],
        max_sequence_length=asked["max_sequence_length"],
        latents=latents(pipe, asked, disturb),
        output_type="np",
    ).frames[0]
    return video.astype(np.float32), list(calls.values())


def latents(pipe: WanPipeline, asked: dict, disturb: dict | None) -> torch.Tensor:
    """Initial noise of the seed. In a disturbed run each value moves by one unit in the last place of bfloat16."""
    channels = pipe.transformer.config.in_channels
    space, time = pipe.vae_scale_factor_spatial, pipe.vae_scale_factor_temporal
    shape = (1, channels, (asked["num_frames"] - 1) // time + 1, asked["height"] // space, asked["width"] // space)
    noise = torch.randn(shape, generator=torch.Generator("cpu").manual_seed(asked["seed"]))
    if disturb is not None:
        steps = torch.randint(-1, 2, shape, generator=torch.Generator("cpu").manual_seed(disturb["seed"]))
        noise = noise + steps * noise.abs() * 2.0**-8
    return noise


def receipt(calls: dict, expert: str, name: str) -> Callable[..., None]:
    """A hook that counts the calls of one Linear, in the format that its weight really has."""

    def count(module: torch.nn.Module, _inputs: tuple, _output: torch.Tensor) -> None:
        kind = {torch.bfloat16: "bf16", torch.float16: "fp16", torch.float32: "fp32"}[module.weight.dtype]
        row = {"expert": expert, "module": name, "format": kind, "kernel": "linear", "calls": 0}
        calls.setdefault((expert, name), row)["calls"] += 1

    return count


if __name__ == "__main__":
    main(*sys.argv[1:4])
