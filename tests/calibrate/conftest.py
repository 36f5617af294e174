"""The small random Wan2.2 of the pipeline's tests, in this process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from random_wan import make_pipeline


@pytest.fixture(scope="session")
def random_wan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``bf16``, a small random Wan2.2 repository."""
    root = tmp_path_factory.mktemp("random_wan")
    make_pipeline(root / "bf16")
    return root


@pytest.fixture
def wan_case() -> Any:
    """A case of it: 5 frames of 32 x 32 in 4 steps."""
    from fault_cases import wan_case

    return wan_case()
