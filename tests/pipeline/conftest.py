"""Cases and owners for the tests of the pipeline."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.definitions.case import Case
from harness.pipeline.owner import EngineOwner

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


@pytest.fixture
def start_owner(tmp_path: Path) -> Iterator[Callable[..., EngineOwner]]:
    """Starts engines of the fault backend and ends them after the test."""
    owners: list[EngineOwner] = []

    def start(case: Case, **options: Any) -> EngineOwner:
        owner = EngineOwner(case, tmp_path, {}, {"model": tmp_path}, allow_python_backend=True, **options)
        owners.append(owner)
        owner.start()
        return owner

    yield start
    for owner in owners:
        owner.close()


@pytest.fixture
def make_case() -> Callable[..., Case]:
    """Makes cases for the fault-injecting backend."""
    return fault_case
