"""Trains the embedded Wan2.2: `python -m tiny.train --stage vae|dit|all|robust --out DIR [--resume]`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from tiny.training.loop import log


def main(arguments: list[str] | None = None) -> None:
    """Entry point. `--stage all` gives the VAE `--vae-share` of the budget and the rest to text encoder and experts."""
    parser = argparse.ArgumentParser(prog="python -m tiny.train", description=__doc__)
    parser.add_argument("--stage", choices=["vae", "dit", "all", "robust"], default="all")
    parser.add_argument("--out", type=Path, required=True, help="folder for the pipeline and the resumable state")
    parser.add_argument("--budget-seconds", type=float, default=480.0, help="training time, all stages together")
    parser.add_argument("--vae-share", type=float, default=0.28)
    parser.add_argument("--resume", action="store_true", help="continue from the state files in --out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--smoke", action="store_true", help="a few small steps of each stage, under a minute of CPU")
    options = parser.parse_args(arguments)

    from tiny import train_dit, train_robust, train_vae

    device = torch.device(options.device)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
        torch.backends.cuda.matmul.allow_tf32 = True
    options.out.mkdir(parents=True, exist_ok=True)
    vae_share = {"vae": 1.0, "all": options.vae_share}.get(options.stage, 0.0)
    dit_share = {"dit": 1.0, "all": 1 - options.vae_share}.get(options.stage, 0.0)
    seconds = options.budget_seconds
    common: dict[str, Any] = {"seed": options.seed, "resume": options.resume}
    vae_size: dict[str, Any] = {"steps": 4, "batch": 1, "pool": 4} if options.smoke else {}
    dit_size: dict[str, Any] = {"steps": 8, "batch": 4, "count": 8} if options.smoke else {}
    if vae_share:
        report("vae", train_vae.train(options.out, device, seconds * vae_share, **common, **vae_size))
    common["compiled"] = device.type == "cuda"
    if dit_share:
        report("dit", train_dit.train(options.out, device, seconds * dit_share, **common, **dit_size))
    if options.stage == "robust":
        report("robust", train_robust.train(options.out, device, seconds, **common, **dit_size))


def report(stage: str, losses: list[float]) -> None:
    """Says in one line what a stage did to its loss."""
    log(f"{stage}: loss {losses[0]:.4f} -> {losses[-1]:.4f}" if losses else f"{stage}: its budget was spent already")


if __name__ == "__main__":
    main()
