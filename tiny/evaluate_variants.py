# mypy: disable-error-code="no-untyped-call"
"""Measures the models that take an image: `python -m tiny.evaluate_variants [i2v|ti2v] [--quantized N]`.

Every prompt comes with a first frame that fits it and does not tell the direction. Asked are: is the first frame kept
(PSNR of frame 0 against the image, scikit-image), and does the object look and move as asked (`tiny.measure`, which
knows nothing of how videos are drawn or generated). TI2V is asked once with the image and once with the text alone.
`--quantized N` compares FP8, NVFP4 and swapped nibbles with BF16 over N prompts, weight-only as in `tiny.show`.
`--calibrate` writes `calibration.json` beside the weights instead (see `tiny.calibrate`).
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio
from torch import nn

from tiny.build import component_dtypes
from tiny.draw import Labels, draw_from_centre
from tiny.evaluate import Asked, prompts
from tiny.export_variants import export
from tiny.finish_variants import repository
from tiny.measure import measure
from tiny.modules import Pipeline
from tiny.quantize import quantized_linears
from tiny.show import Frames, Row, compare, weights_of
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
)
from tiny.tensorfile import read
from tiny.variants import I2V, VARIANTS, Variant

#: What each attribute has to reach, as a share of prompts; and the mean PSNR of the first frame in dB.
GOALS: Final = {"colour": 0.95, "background": 0.95, "direction": 0.95, "shape": 0.90}
FIRST_FRAME_GOAL: Final = 30.0
#: SSIM against BF16 that each row of `--quantized` has to reach, or must not. TI2V's first frame is given and stays.
QUANTIZED: Final = {
    "FP8": {"i2v": 0.99, "ti2v": 0.99},
    "NVFP4": {"i2v": 0.95, "ti2v": 0.95},
    "NVFP4, nibbles swapped": {"i2v": 0.45, "ti2v": 0.55},
}
_CALIBRATION_PROMPTS, _CALIBRATION_SEED = 16, 4711


def first_frame(asked: Asked) -> Image.Image:
    """The image that goes with a prompt: its object where it could move in any direction, 96x64 RGB."""
    w = asked.wanted
    names = (list(COLOURS).index(w.colour), SHAPES.index(w.shape), list(DIRECTIONS).index(w.direction))
    index = [torch.tensor([number]) for number in (*names, list(COLOURS).index(w.background))]
    video = draw_from_centre(Labels(*index), torch.Generator().manual_seed(10_000 + asked.seed))
    pixels = ((video[0, :, 0].permute(1, 2, 0) + 1) * 127.5).round().to(torch.uint8)
    return Image.fromarray(pixels.numpy())


def load(variant: Variant, weights: Path | None = None, image: bool = True) -> Pipeline:
    """The pipeline of `variant` from a folder that `finish_variants` wrote; `image` False: TI2V with text alone."""
    import diffusers

    with tempfile.TemporaryDirectory() as folder:
        whole = repository(variant, Path(folder) / variant.name, weights)
        source: Any = getattr(diffusers, variant.pipeline)
        pipeline = source.from_pretrained(whole, dtype=component_dtypes(), local_files_only=True)
    if image and variant is not I2V:
        kind: Any = diffusers.WanImageToVideoPipeline
        pipeline = kind(**pipeline.components, expand_timesteps=variant.expand_timesteps)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def generate(pipeline: Pipeline, asked: Asked, image: Image.Image | None) -> Frames:
    """Frames [F, H, W, 3] in 0..1 at the model's own settings; the noise is drawn on the CPU in fp32."""
    given = {} if image is None else {"image": image}
    frames: Frames = pipeline(
        prompt=asked.prompt, negative_prompt=NEGATIVE_PROMPT, height=HEIGHT, width=WIDTH, num_frames=FRAMES,
        num_inference_steps=STEPS, guidance_scale=GUIDANCE, max_sequence_length=MAX_SEQUENCE_LENGTH,
        generator=torch.Generator().manual_seed(asked.seed), output_type="np", **given,
    ).frames[0]  # fmt: skip
    return frames


@dataclass(frozen=True)
class Result:
    """Shares of prompts in which each attribute came out as asked, misses, and the first frame's PSNR in dB.

    `first_frame_psnr` and `first_frame_worst` are None without an image.
    """

    prompts: int
    shares: dict[str, float]
    misses: list[dict[str, object]]
    first_frame_psnr: float | None
    first_frame_worst: float | None

    def reached(self) -> bool:
        """Whether every goal is met."""
        kept = self.first_frame_psnr is None or self.first_frame_psnr >= FIRST_FRAME_GOAL
        return kept and all(self.shares[name] >= goal for name, goal in GOALS.items())


def evaluate(pipeline: Pipeline, count: int, image: bool) -> Result:
    """Generates `count` videos and measures them."""
    hits = dict.fromkeys(GOALS, 0)
    misses: list[dict[str, object]] = []
    kept: list[float] = []
    for asked in prompts(count):
        given = first_frame(asked) if image else None
        frames = generate(pipeline, asked, given)
        if given is not None:
            wanted = np.asarray(given, dtype=np.float32) / 255
            kept.append(float(peak_signal_noise_ratio(wanted, frames[0], data_range=1.0)))
        seen = measure(frames)
        wrong = [name for name in GOALS if getattr(seen, name) != getattr(asked.wanted, name)]
        for name in GOALS:
            hits[name] += name not in wrong
        if wrong:
            misses.append({"prompt": asked.prompt, "seed": asked.seed, "wrong": wrong, "seen": asdict(seen)})
    shares = {name: hit / count for name, hit in hits.items()}
    return Result(count, shares, misses, float(np.mean(kept)) if kept else None, min(kept) if kept else None)


def quantized(variant: Variant, pipeline: Pipeline, count: int, weights: Path | None = None) -> dict[str, Any]:
    """Figures (`tiny.show.Figures`) of FP8, NVFP4 and swapped nibbles against BF16 over the first `count` prompts."""
    rows = (
        Row("FP8", f"{variant.name}-fp8", variant.experts, "low_first", None, ""),
        Row("NVFP4", f"{variant.name}-nvfp4", variant.experts, "low_first", None, ""),
        Row("NVFP4, nibbles swapped", f"{variant.name}-nvfp4", variant.experts, "high_first", None, ""),
    )
    every = [(asked, first_frame(asked)) for asked in prompts(count)]
    reference = [generate(pipeline, asked, image) for asked, image in every]
    figures = {}
    with tempfile.TemporaryDirectory() as folder:
        for row in rows:
            export(row.export, Path(folder), weights)
            with weights_of(pipeline, row, Path(folder)):
                figures[row.name] = compare(reference, [generate(pipeline, asked, image) for asked, image in every])
    return figures


def calibrate(variant: Variant, weights: Path) -> None:
    """Measures the largest input of every Linear that gets quantized and writes `weights/calibration.json`."""
    modes = (True,) if variant is I2V else (True, False)
    largest: dict[str, dict[str, float]] = {expert: {} for expert in variant.experts}
    for image in modes:
        pipeline = load(variant, weights, image)
        for expert in variant.experts:
            for name in quantized_linears(read(weights / expert / "diffusion_pytorch_model.safetensors")):
                module: nn.Module = getattr(pipeline, expert).get_submodule(name)
                module.register_forward_hook(_recorder(largest[expert], name))
        for asked in prompts(_CALIBRATION_PROMPTS, _CALIBRATION_SEED):
            generate(pipeline, asked, first_frame(asked) if image else None)
    document = {
        "method": "max", "prompts": _CALIBRATION_PROMPTS, "seed": _CALIBRATION_SEED, "activation_amax": largest,
    }  # fmt: skip
    (weights / "calibration.json").write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")


def _recorder(into: dict[str, float], name: str) -> Any:
    def hook(_module: nn.Module, inputs: tuple[torch.Tensor, ...], _output: torch.Tensor) -> None:
        into[name] = max(into.get(name, 0.0), float(inputs[0].float().abs().max()))

    return hook


def sheet(clips: list[NDArray[np.float32]]) -> Image.Image:
    """Frames 0, 4, 8, 12 and 16 of each clip [F, H, W, 3] in 0..1, a row a clip."""
    rows = [np.concatenate(list(clip[::4]), axis=1) for clip in clips]
    return Image.fromarray((np.concatenate(rows) * 255).round().clip(0, 255).astype(np.uint8))


def main(arguments: list[str] | None = None) -> int:
    """Prints the tables; exit status 1 if a goal is missed."""
    parser = argparse.ArgumentParser(prog="python -m tiny.evaluate_variants", description=__doc__)
    parser.add_argument("names", nargs="*", choices=[*VARIANTS, []], help="which models (default both)")
    parser.add_argument("--weights", type=Path, help="folder that holds NAME/ as finish_variants wrote it")
    parser.add_argument("--prompts", type=int, default=64, help="how many (default 64); 0: none")
    parser.add_argument(
        "--quantized", type=int, default=0, metavar="N", help="compare quantized weights over N prompts"
    )
    parser.add_argument("--calibrate", action="store_true", help="measure activations, write calibration.json, and end")
    parser.add_argument("--picture", type=Path, help="save frames of the first prompts here (NAME is put before it)")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    missed = False
    for name in options.names or VARIANTS:
        variant = VARIANTS[name]
        weights = options.weights / name if options.weights else variant.weights
        if options.calibrate:
            calibrate(variant, weights)
            print(f"wrote {weights / 'calibration.json'}")
            continue
        missed |= _report(variant, weights, options.prompts, options.quantized, options.picture)
    return int(missed)


def _report(variant: Variant, weights: Path, count: int, compared: int, picture: Path | None) -> bool:
    missed = False
    for image in ((True,) if variant is I2V else (True, False)) if count else ():
        result = evaluate(load(variant, weights, image), count, image)
        missed |= not result.reached()
        print(f"{variant.name}, {'with the first frame' if image else 'text alone'}: {count} prompts")
        for name, goal in GOALS.items():
            print(f"  {name:<11} {result.shares[name]:6.1%}  goal {goal:.0%}")
        if result.first_frame_psnr is not None:
            line = f"{result.first_frame_psnr:.2f} dB, worst {result.first_frame_worst:.2f} dB"
            print(f"  first frame {line}, goal {FIRST_FRAME_GOAL:.0f} dB")
        for miss in result.misses:
            print("  missed", miss)
    pipeline = load(variant, weights) if compared or picture else None
    for name, f in (quantized(variant, pipeline, compared, weights) if compared else {}).items():
        sign, goal = "<=" if "swapped" in name else ">=", QUANTIZED[name][variant.name]
        reached = f.ssim >= goal if sign == ">=" else f.ssim <= goal
        missed |= not reached
        verdict = f"{sign} {goal:.2f} {'reached' if reached else 'MISSED'}"
        print(f"  {name:<24} {f.ssim:.4f} [{f.ssim_min:.4f}, {f.ssim_max:.4f}]  {f.psnr:5.1f} dB  {verdict}")
    if picture:
        clips = [generate(pipeline, asked, first_frame(asked)) for asked in prompts(6)]
        sheet(clips).save(picture.with_name(f"{variant.name}-{picture.name}"))
    return missed


if __name__ == "__main__":
    raise SystemExit(main())
