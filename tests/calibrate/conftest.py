"""The small random Wan2.2 of the pipeline's tests, in this process."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

PIPELINE = Path(__file__).parents[1] / "engine"


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, PIPELINE / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def random_wan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``bf16``, a small random Wan2.2 repository."""
    helpers = _load("random_wan")
    root = tmp_path_factory.mktemp("random_wan")
    helpers.make_pipeline(root / "bf16")
    return root


@pytest.fixture
def wan_case() -> Any:
    """A case of it: 5 frames of 32 x 32 in 4 steps."""
    from harness.definitions.case import Case

    sampling = {
        "prompt": "a bc", "width": 32, "height": 32, "num_frames": 5, "num_inference_steps": 4, "guidance_scale": 3.0,
        "guidance_scale_2": 2.0, "max_sequence_length": 16,
    }  # fmt: skip
    return Case.model_validate({"id": "wan", "runners": ["cpu"], "model": {"path": "./bf16"}, "sampling": sampling})
