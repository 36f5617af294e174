"""Environments with a real runtime, for the slow tests that need one."""

from __future__ import annotations

import os

import pytest

from harness.errors import InfraError
from harness.runtimes.environments import find, parse_runtime


def python_of(runtime: str) -> str:
    """The interpreter of ``runtime``. Without its environment the test is skipped, or fails if one is required."""
    try:
        return str(find(parse_runtime(runtime)).python)
    except InfraError as error:
        if os.environ.get("QUANTGATE_REQUIRE_RUNTIMES"):
            raise
        pytest.skip(f"{error.message}: make test-sglang")
