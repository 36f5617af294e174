"""Runs made up of seconds and bytes, for tests of the time gate."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


def _factories() -> ModuleType:
    path = Path(__file__).parents[1] / "support" / "perf_runs.py"
    spec = importlib.util.spec_from_file_location("perf_runs", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["perf_runs"] = module
    spec.loader.exec_module(module)
    return module


runs: Any = _factories()


@pytest.fixture
def machine() -> Any:
    """One quiet H200."""
    return runs.Machine()
