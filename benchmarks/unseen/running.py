"""Every injection into the running pipeline, by name."""

from __future__ import annotations

import gc
import os
import time
from typing import Final

import torch

from benchmarks.unseen import running_loop, running_model, running_precision, running_vae
from benchmarks.unseen.injections import Injection
from benchmarks.unseen.patch import Patch


def _other_seed(_patch: Patch) -> None:
    torch.manual_seed(12345)
    torch.rand(1000)


def _two_threads(patch: Patch) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    patch.later(lambda: torch.set_num_threads(before))


def _slower(patch: Patch) -> None:
    from benchmarks.unseen.loop import Loop

    def wait(latents: torch.Tensor, _index: int) -> torch.Tensor:
        time.sleep(0.05)
        return latents

    Loop(after=wait).install(patch)


def _collected(_patch: Patch) -> None:
    gc.collect()
    os.environ["UNSEEN_NOBODY_READS_THIS"] = "1"


INJECTIONS: Final[dict[str, Injection]] = {
    **running_loop.INJECTIONS,
    **running_model.INJECTIONS,
    **running_precision.INJECTIONS,
    **running_vae.INJECTIONS,
    "other_seed_elsewhere": _other_seed,
    "two_threads": _two_threads,
    "slower_steps": _slower,
    "garbage_collected": _collected,
    "nothing": lambda _patch: None,
}
