"""Trains the embedded Wan2.2: `python -m tiny.train --stage vae|dit|all --out DIR --budget-seconds N [--resume]`."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from tiny.training.loop import log


def main(arguments: list[str] | None = None) -> None:
    """Entry point. `--stage all` gives the VAE `--vae-share` of the budget and the rest to text encoder and experts."""
    parser = argparse.ArgumentParser(prog="python -m tiny.train", description=__doc__)
    parser.add_argument("--stage", choices=["vae", "dit", "all"], default="all")
    parser.add_argument("--out", type=Path, required=True, help="folder for the pipeline and the resumable state")
    parser.add_argument("--budget-seconds", type=float, default=480.0, help="training time, all stages together")
    parser.add_argument("--vae-share", type=float, default=0.28)
    parser.add_argument("--resume", action="store_true", help="continue from the state files in --out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--smoke", action="store_true", help="a few small steps of everything, under a minute of CPU")
    options = parser.parse_args(arguments)

    from tiny import train_dit, train_vae

    device = torch.device(options.device)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.backends.cuda.matmul.allow_tf32 = True
    options.out.mkdir(parents=True, exist_ok=True)
    share = {"vae": (1.0, 0.0), "dit": (0.0, 1.0), "all": (options.vae_share, 1 - options.vae_share)}[options.stage]
    common = {"seed": options.seed, "resume": options.resume}
    vae_size = {"steps": 6, "batch": 1, "pool": 8} if options.smoke else {}
    dit_size = {"steps": 12, "batch": 16, "count": 64} if options.smoke else {}
    if share[0]:
        losses = train_vae.train(options.out, device, options.budget_seconds * share[0], **common, **vae_size)
        log(f"vae: loss {losses[0]:.4f} -> {losses[-1]:.4f}")
    if share[1]:
        compiled = device.type == "cuda"
        losses = train_dit.train(
            options.out, device, options.budget_seconds * share[1], compile_blocks=compiled, **common, **dit_size
        )
        log(f"dit: loss {losses[0]:.4f} -> {losses[-1]:.4f}")


if __name__ == "__main__":
    main()
