"""A test that sets the modes of torch for its whole process does not change the next test."""

from __future__ import annotations

import pytest
import torch

from harness.definitions.case import Execution
from harness.engine.backends.wan_loading import apply


@pytest.mark.parametrize("turn", ["first", "second"])
def test_modes_hold_for_one_test(turn: str) -> None:
    assert torch.is_grad_enabled()
    apply(Execution())
    assert not torch.is_grad_enabled()
