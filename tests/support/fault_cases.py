"""Cases that run in tests: of a backend that fails as its prompt says, and of the small random Wan2.2."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from builders import make_case

from harness.definitions.case import Case

FAULTS = f"{Path(__file__).with_name('fault_backend.py')}:FaultBackend"


def fault_case(prompt: str = "fine", **changes: Any) -> Case:
    """Return a case for the fault-injecting backend: ``prompt`` is the fault."""
    usual = {"id": "fault", "backend": FAULTS, "timeouts": {"load": 60, "generate": 60}}
    sampling = {"prompt": prompt, "width": 16, "height": 16, "num_frames": 1, "guidance_scale": 1.0}
    return make_case(**{**usual, **changes, "sampling": sampling | changes.get("sampling", {})})


def wan_case(**changes: Any) -> Case:
    """Return a case for the random Wan2.2 of ``random_wan``: 5 frames of 32 x 32 in 4 steps."""
    sampling = {
        "prompt": "a bc",
        "negative_prompt": "",
        "width": 32,
        "height": 32,
        "num_frames": 5,
        "num_inference_steps": 4,
        "guidance_scale_2": 2.0,
        "max_sequence_length": 16,
    }
    usual = {"id": "wan", "model": {"path": "./bf16"}}
    return make_case(**{**usual, **changes, "sampling": sampling | changes.get("sampling", {})})
