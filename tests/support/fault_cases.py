"""Cases of a backend that fails as it is asked to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from harness.definitions.case import Case

FAULTS = f"{Path(__file__).with_name('fault_backend.py')}:FaultBackend"


def fault_case(prompt: str = "fine", **changes: Any) -> Case:
    """A case for the fault-injecting backend: ``prompt`` is the fault."""
    data: dict[str, Any] = {
        "id": "fault",
        "runners": ["cpu"],
        "backend": FAULTS,
        "model": {"path": "./nothing"},
        "sampling": {
            "prompt": prompt,
            "width": 16,
            "height": 16,
            "num_frames": 1,
            "num_inference_steps": 2,
            "guidance_scale": 1.0,
        },
        "timeouts": {"load": 60, "generate": 60},
    }
    return Case.model_validate(data | changes)
