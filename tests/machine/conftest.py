"""GPUs for the tests of leases."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from fake_gpus import fake_gpus

from harness.records.identity import Device


@pytest.fixture
def gpus() -> Callable[[int], tuple[Device, ...]]:
    """Fake GPUs by count."""
    return fake_gpus
