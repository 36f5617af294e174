"""Writes the committed files of the models that take an image: `python -m tiny.finish_variants --trained DIR`.

Mixes the two stages of their training weight by weight (`tiny.blend` says why) and writes `weights_i2v/` and
`weights_ti2v/`: the transformers in BF16, `model_index.json` and the scheduler. `repository` adds the VAE, the text
encoder and the tokenizer of `weights/` to make the Diffusers repository that pipelines load.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
from pathlib import Path
from typing import Any, Final

from tiny.blend import blend
from tiny.tensorfile import Tensor, read, write
from tiny.variants import TEXT_TO_VIDEO, VARIANTS, Variant

_FILE: Final = "diffusion_pytorch_model.safetensors"
#: Components of the text-to-video model that every model of ours uses as they are.
SHARED: Final = ("vae", "text_encoder", "tokenizer")


def repository(variant: Variant, out: Path, weights: Path | None = None) -> Path:
    """The whole Diffusers repository of `variant` at `out`, replacing it; it appears whole or not at all."""
    part = out.with_name(f".{out.name}.{os.getpid()}.part")
    shutil.rmtree(part, ignore_errors=True)
    source = weights or variant.weights
    shutil.copytree(source, part, ignore=shutil.ignore_patterns("manifest.json", "calibration.json"))
    for component in SHARED:
        shutil.copytree(TEXT_TO_VIDEO / component, part / component)
    shutil.rmtree(out, ignore_errors=True)
    part.replace(out)
    return out


def finish(variant: Variant, trained: Path, share: float, out: Path) -> None:
    """Writes the mixed transformers and the configuration to `out`. FileNotFoundError if a stage's file is missing."""
    stages = [by_expert(read(trained / f"{variant.name}-{stage}.safetensors")) for stage in ("base", "robust")]
    base_config = json.loads((TEXT_TO_VIDEO / "transformer" / "config.json").read_text())
    for expert in variant.experts:
        folder = out / expert
        folder.mkdir(parents=True, exist_ok=True)
        write(folder / _FILE, blend(stages[0][expert], stages[1][expert], share))
        _write_json(folder / "config.json", variant.transformer_config(base_config))
    _write_json(out / "model_index.json", model_index(variant))
    scheduler = json.loads((TEXT_TO_VIDEO / "scheduler" / "scheduler_config.json").read_text())
    (out / "scheduler").mkdir(exist_ok=True)
    _write_json(out / "scheduler" / "scheduler_config.json", {**scheduler, "flow_shift": variant.flow_shift})


def model_index(variant: Variant) -> dict[str, Any]:
    """`model_index.json` as diffusers writes it for this pipeline; components that it may do without are null."""
    index: dict[str, Any] = json.loads((TEXT_TO_VIDEO / "model_index.json").read_text())
    index["_class_name"] = variant.pipeline
    index["boundary_ratio"] = variant.boundary_ratio
    index["expand_timesteps"] = variant.expand_timesteps
    if len(variant.experts) == 1:
        index["transformer_2"] = [None, None]
    if variant.pipeline == "WanImageToVideoPipeline":
        index["image_encoder"] = index["image_processor"] = [None, None]
    return dict(sorted(index.items()))


def by_expert(tensors: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Tensors named `EXPERT.NAME` as one dict per expert."""
    experts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        expert, _, rest = name.partition(".")
        experts.setdefault(expert, {})[rest] = tensor
    return experts


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")


def main(arguments: list[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m tiny.finish_variants", description=__doc__)
    parser.add_argument("--trained", type=Path, required=True, help="folder that `tiny.train_variants` wrote")
    parser.add_argument("--share", type=float, help="share of the robust stage, 0..1 (default: the model's)")
    parser.add_argument("--out", type=Path, help="write to OUT/NAME instead of the committed folders")
    parser.add_argument("names", nargs="*", choices=[*VARIANTS, []], help="which models (default both)")
    options = parser.parse_args(arguments)
    for name in options.names or VARIANTS:
        variant = VARIANTS[name]
        share = variant.robust_share if options.share is None else options.share
        finish(variant, options.trained, share, options.out / name if options.out else variant.weights)


if __name__ == "__main__":
    main()
