# mypy: disable-error-code="no-untyped-call"
"""Shows what each export does to the picture: `python -m tiny.show` prints the table and can save the frames.

Weight-only: quantized weights are dequantized to BF16 and run in the BF16 pipeline, so that nothing but the weights
differs. SSIM and PSNR are means over all frames (scikit-image, 7 x 7 window, colour channels, range 1).
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from tiny.dequantize import dequantize
from tiny.evaluate import WEIGHTS, Asked, generate, load, prompts
from tiny.export import EXPERTS, export
from tiny.modules import Pipeline
from tiny.quantize import NibbleOrder
from tiny.tensorfile import read

Frames = NDArray[np.float32]
_FILE = "diffusion_pytorch_model.safetensors"


@dataclass(frozen=True)
class Row:
    """One line of the table: what runs, and what its mean SSIM against BF16 has to be."""

    name: str
    export: str
    experts: tuple[str, ...]
    nibbles: NibbleOrder
    reached: Callable[[float], bool] | None
    goal: str


ROWS: Final = (
    Row("FP8", "fp8", EXPERTS, "low_first", lambda ssim: ssim >= 0.99, ">= .99"),
    Row("NVFP4", "nvfp4", EXPERTS, "low_first", lambda ssim: ssim >= 0.95, ">= .95"),
    Row("NVFP4, nibbles swapped", "nvfp4", EXPERTS, "high_first", lambda ssim: ssim <= 0.45, "<= .45"),
    Row("NVFP4, high expert only", "nvfp4", EXPERTS[:1], "low_first", None, ""),
    Row("swapped, high expert only", "nvfp4", EXPERTS[:1], "high_first", None, ""),
    Row("swapped, low expert only", "nvfp4", EXPERTS[1:], "high_first", None, ""),
)


@dataclass(frozen=True)
class Figures:
    """Means and extremes over videos, and how little the frames hang together in time.

    `temporal`: mean absolute difference of neighbouring frames, 0..1; a moving shape has a few hundredths at most,
    static several times as much.
    """

    ssim: float
    ssim_min: float
    ssim_max: float
    psnr: float
    temporal: float


@contextmanager
def weights_of(pipeline: Pipeline, row: Row, folder: Path) -> Iterator[None]:
    """The pipeline with that row's experts loaded from the export; the BF16 weights are put back afterwards."""
    kept = {expert: {k: v.clone() for k, v in getattr(pipeline, expert).state_dict().items()} for expert in row.experts}
    try:
        for expert in row.experts:
            tensors = dequantize(read(folder / row.export / expert / _FILE), row.nibbles)
            state = {name: torch.from_numpy(tensor.float32()) for name, tensor in tensors.items()}
            getattr(pipeline, expert).load_state_dict(state)
        yield
    finally:
        for expert, state in kept.items():
            getattr(pipeline, expert).load_state_dict(state)


def compare(reference: list[Frames], clips: list[Frames]) -> Figures:
    """Figures of `clips` against `reference`, both [F, H, W, 3] in 0..1, clip by clip and frame by frame."""
    ssim, psnr = [], []
    for clean, clip in zip(reference, clips, strict=True):
        pairs = list(zip(clean, clip, strict=True))
        ssim.append(np.mean([structural_similarity(a, b, channel_axis=-1, data_range=1.0) for a, b in pairs]))
        changed = [(a, b) for a, b in pairs if not np.array_equal(a, b)]
        psnr.append(np.mean([peak_signal_noise_ratio(a, b, data_range=1.0) for a, b in changed] or [np.inf]))
    temporal = float(np.mean([np.abs(np.diff(clip, axis=0)).mean() for clip in clips]))
    return Figures(float(np.mean(ssim)), float(min(ssim)), float(max(ssim)), float(np.mean(psnr)), temporal)


def table(count: int, folder: Path, weights: Path = WEIGHTS) -> tuple[dict[str, Figures], dict[str, list[Frames]]]:
    """Figures and clips of every row (and of "BF16" itself) over the first `count` evaluation prompts."""
    pipeline = load(weights)
    asked = prompts(count)
    clips = {"BF16": _generate_all(pipeline, asked)}
    for row in ROWS:
        export(row.export, folder, weights)
        with weights_of(pipeline, row, folder):
            clips[row.name] = _generate_all(pipeline, asked)
    return {name: compare(clips["BF16"], run) for name, run in clips.items()}, clips


def _generate_all(pipeline: Pipeline, asked: list[Asked]) -> list[Frames]:
    return [generate(pipeline, one.prompt, one.seed) for one in asked]


def picture(clips: dict[str, list[Frames]], names: list[str], index: int = 0) -> NDArray[np.uint8]:
    """Rows of frames 0, 4, 8, 12 and 16 of one prompt, a row a name: uint8 [H, W, 3]."""
    rows = [np.concatenate(list(clips[name][index][::4]), axis=1) for name in names]
    stacked: NDArray[np.uint8] = (np.concatenate(rows) * 255).round().clip(0, 255).astype(np.uint8)
    return stacked


def main(arguments: list[str] | None = None) -> int:
    """Prints the table; exit status 1 if a row misses its goal."""
    parser = argparse.ArgumentParser(prog="python -m tiny.show", description=__doc__)
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--picture", type=Path, help="save BF16, NVFP4 and swapped frames of one prompt as PNG")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        figures, clips = table(options.prompts, Path(folder))
    print(f"{options.prompts} prompts, against BF16: mean SSIM [min, max], PSNR, frame-to-frame difference")
    missed = False
    goals = {row.name: row for row in ROWS}
    for name, f in figures.items():
        row = goals.get(name)
        verdict = ""
        if row and row.reached:
            verdict = "reached" if row.reached(f.ssim) else "MISSED"
            missed |= verdict == "MISSED"
        goal = row.goal if row else ""
        print(
            f"{name:<26} {f.ssim:.4f} [{f.ssim_min:.4f}, {f.ssim_max:.4f}]  {f.psnr:5.1f} dB  {f.temporal:.4f}"
            f"  {goal} {verdict}".rstrip()
        )
    if options.picture:
        from PIL import Image

        Image.fromarray(picture(clips, ["BF16", "FP8", "NVFP4", "NVFP4, nibbles swapped"])).save(options.picture)
        print(f"wrote {options.picture}")
    return int(missed)


if __name__ == "__main__":
    raise SystemExit(main())
