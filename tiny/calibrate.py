"""Measures the largest input of every Linear that gets quantized: `python -m tiny.calibrate` writes calibration.json.

Done once, on one machine; the file is committed, so that exports are the same bytes everywhere.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from torch import nn

from tiny.evaluate import WEIGHTS, generate, load, prompts
from tiny.export import CALIBRATION, EXPERTS
from tiny.quantize import quantized_linears
from tiny.tensorfile import read

_PROMPTS = 16
#: Another seed than the evaluation's.
_SEED = 4711


def measure(weights: Path, count: int = _PROMPTS) -> dict[str, dict[str, float]]:
    """Activation amax a Linear and expert over `count` prompts, all steps, with and without the caption."""
    pipeline = load(weights)
    found: dict[str, dict[str, float]] = {}
    for expert in EXPERTS:
        names = quantized_linears(read(weights / expert / "diffusion_pytorch_model.safetensors"))
        found[expert] = dict.fromkeys(names, 0.0)
        for name in names:
            getattr(pipeline, expert).get_submodule(name).register_forward_hook(_recorder(found[expert], name))
    for asked in prompts(count, _SEED):
        generate(pipeline, asked.prompt, asked.seed)
    return found


def _recorder(into: dict[str, float], name: str) -> object:
    def hook(_module: nn.Module, inputs: tuple[torch.Tensor, ...], _output: torch.Tensor) -> None:
        into[name] = max(into[name], float(inputs[0].float().abs().max()))

    return hook


def main(arguments: list[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m tiny.calibrate", description=__doc__)
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--out", type=Path, default=CALIBRATION)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    document = {"method": "max", "prompts": _PROMPTS, "seed": _SEED, "activation_amax": measure(options.weights)}
    part = options.out.with_suffix(".part")
    part.write_text(json.dumps(document, indent=1, sort_keys=True) + "\n")
    part.replace(options.out)
    print(f"wrote {options.out}")


if __name__ == "__main__":
    main()
