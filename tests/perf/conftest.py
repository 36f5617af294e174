"""Runs made up of seconds and bytes, for tests of the time gate."""

from __future__ import annotations

from typing import Any

import perf_runs
import pytest

runs: Any = perf_runs


@pytest.fixture
def machine() -> Any:
    """One quiet H200."""
    return runs.Machine()
