# mypy: disable-error-code="no-untyped-call"
"""Asks the trained model for videos and measures them: `python -m tiny.evaluate`."""

from __future__ import annotations

import argparse
import json
import random
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from tiny.build import component_dtypes
from tiny.measure import Seen, measure
from tiny.modules import Pipeline
from tiny.spec import (
    COLOURS,
    DIRECTIONS,
    FRAMES,
    GUIDANCE,
    HEIGHT,
    MAX_SEQUENCE_LENGTH,
    NEGATIVE_PROMPT,
    SHAPES,
    STEPS,
    WIDTH,
    caption,
)

WEIGHTS: Final = Path(__file__).parent / "weights"
#: What each measured attribute has to reach, as a share of prompts; and the VAE's PSNR in dB.
GOALS: Final = {"colour": 0.95, "background": 0.95, "direction": 0.95, "shape": 0.90}
PSNR_GOAL: Final = 30.0


@dataclass(frozen=True)
class Asked:
    """One prompt of the evaluation, with the seed of its initial noise."""

    wanted: Seen
    seed: int

    @property
    def prompt(self) -> str:
        w = self.wanted
        return caption(w.colour, w.shape, w.direction, w.background)


def prompts(count: int, seed: int = 2026) -> list[Asked]:
    """`count` prompts; shapes, directions and object colours are balanced, the rest is drawn from `seed`."""
    rng = random.Random(seed)
    colours, directions = list(COLOURS), list(DIRECTIONS)
    out = []
    for index in range(count):
        colour = colours[index % len(colours)]
        background = rng.choice([name for name in colours if name != colour])
        shape = SHAPES[(index // len(colours) + index) % len(SHAPES)]
        direction = directions[(index // 2 + index // len(colours)) % len(directions)]
        out.append(Asked(Seen(colour, shape, direction, background), seed=index))
    return out


def load(weights: Path, device: str = "cpu") -> Pipeline:
    """The pipeline from a local Diffusers repository: BF16 experts and text encoder, FP32 VAE."""
    from diffusers import WanPipeline

    pipeline = WanPipeline.from_pretrained(weights, dtype=component_dtypes(), local_files_only=True).to(device)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def generate(pipeline: Pipeline, prompt: str, seed: int) -> NDArray[np.float32]:
    """Frames [F, H, W, 3] in 0..1 at the model's own settings; the noise is drawn on the CPU in fp32."""
    frames: NDArray[np.float32] = pipeline(
        prompt=prompt,
        negative_prompt=NEGATIVE_PROMPT,
        height=HEIGHT,
        width=WIDTH,
        num_frames=FRAMES,
        num_inference_steps=STEPS,
        guidance_scale=GUIDANCE,
        max_sequence_length=MAX_SEQUENCE_LENGTH,
        generator=torch.Generator().manual_seed(seed),
        output_type="np",
    ).frames[0]
    return frames


@dataclass(frozen=True)
class Result:
    """Shares of prompts in which each attribute came out as asked, every miss, and the VAE's held-out PSNR in dB."""

    prompts: int
    shares: dict[str, float]
    misses: list[dict[str, object]]
    vae_psnr_db: float
    seconds_a_video: float

    def reached(self) -> bool:
        """Whether every goal is met."""
        return self.vae_psnr_db >= PSNR_GOAL and all(self.shares[name] >= goal for name, goal in GOALS.items())


def evaluate(weights: Path, count: int, device: str = "cpu") -> Result:
    """Generates `count` videos and measures them."""
    from tiny.train_vae import held_out_psnr

    pipeline = load(weights, device)
    hits = dict.fromkeys(GOALS, 0)
    misses: list[dict[str, object]] = []
    began = time.monotonic()
    for asked in prompts(count):
        seen = measure(generate(pipeline, asked.prompt, asked.seed))
        wrong = [name for name in GOALS if getattr(seen, name) != getattr(asked.wanted, name)]
        for name in GOALS:
            hits[name] += name not in wrong
        if wrong:
            misses.append({"prompt": asked.prompt, "seed": asked.seed, "wrong": wrong, "seen": asdict(seen)})
    seconds = (time.monotonic() - began) / count
    shares = {name: hit / count for name, hit in hits.items()}
    return Result(count, shares, misses, held_out_psnr(pipeline.vae, 64), seconds)


def main(arguments: list[str] | None = None) -> int:
    """Prints the table; exit status 1 if a goal is missed."""
    parser = argparse.ArgumentParser(prog="python -m tiny.evaluate", description=__doc__)
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--prompts", type=int, default=64, help="how many (default 64)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    result = evaluate(options.weights, options.prompts, options.device)
    for name, goal in GOALS.items():
        print(f"{name:<11} {result.shares[name]:6.1%}  goal {goal:.0%}")
    print(f"VAE PSNR    {result.vae_psnr_db:.2f} dB on 64 held-out videos, goal {PSNR_GOAL:.0f} dB")
    print(f"{result.prompts} prompts, {result.seconds_a_video:.2f} s a video")
    for miss in result.misses:
        print("missed", miss)
    if options.json:
        options.json.write_text(json.dumps(asdict(result), indent=2) + "\n")
    return int(not result.reached())


if __name__ == "__main__":
    raise SystemExit(main())
