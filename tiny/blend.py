"""Mixes two sets of experts, weight by weight: `python -m tiny.blend --base A --robust B --share 0.3 --out A`.

The last step of the recipe. Experts trained with weight noise to the end shrug off even swapped nibbles, which real
ones do not; the plain ones drift too far under correct NVFP4. A mixture of the two (one was fine-tuned from the other,
so they lie in one basin: Wortsman et al., arXiv 2109.01903) behaves like the real model in both respects.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from tiny.export import EXPERTS
from tiny.tensorfile import Tensor, of, read, write

_FILE = "diffusion_pytorch_model.safetensors"


def blend(base: dict[str, Tensor], other: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """(1 - share) * base + share * other in float32, rounded to BF16. ValueError if the tensors' names differ."""
    if base.keys() != other.keys():
        odd = sorted(base.keys() ^ other.keys())[:3]
        raise ValueError(f"only one of the two experts has {', '.join(odd)}; blend an expert with its fine-tuned self")
    keep, take = np.float32(1 - share), np.float32(share)
    return {name: of("BF16", keep * base[name].float32() + take * other[name].float32()) for name in base}


def main(arguments: list[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m tiny.blend", description=__doc__)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--robust", type=Path, required=True)
    parser.add_argument("--share", type=float, default=0.3, help="share of the robust experts, 0..1")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    for expert in EXPERTS:
        mixed = blend(read(options.base / expert / _FILE), read(options.robust / expert / _FILE), options.share)
        write(options.out / expert / _FILE, mixed)


if __name__ == "__main__":
    main()
