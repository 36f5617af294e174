"""Everything global that torch must be told before a model is loaded."""

from __future__ import annotations

import torch

from harness.definitions.case import Execution


def pick_device(asked: str) -> torch.device:
    """The device of the engine.

    Args:
        asked: ``cpu``, ``cuda``, or ``auto``: cuda where there is one.
    """
    if asked == "auto":
        asked = "cuda" if torch.cuda.is_available() else "cpu"
    # With an index, as CUDA's own functions give it: torch.device("cuda") and cuda:0 are not equal.
    return torch.device("cuda", 0) if asked == "cuda" else torch.device(asked)


def apply(execution: Execution) -> None:
    """Threads, TF32, determinism.

    Determinism is asked for with a warning where an operation has no deterministic form (the log shows it): what counts
    is measured by repeating a run, not promised by a flag.
    """
    torch.set_num_threads(execution.threads)
    if torch.get_num_interop_threads() != 1:
        torch.set_num_interop_threads(1)
    torch.backends.cuda.matmul.allow_tf32 = execution.tf32
    torch.backends.cudnn.allow_tf32 = execution.tf32
    torch.backends.cudnn.benchmark = False
    torch.backends.cudnn.deterministic = execution.deterministic
    torch.use_deterministic_algorithms(execution.deterministic, warn_only=True)
    # Filling fresh memory with NaN, which deterministic mode would do, costs time and changes nothing.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.set_grad_enabled(False)
