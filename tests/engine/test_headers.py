"""What a configuration says of activation scales."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.engine.quantized.headers import declared
from harness.errors import CheckpointFaultError


@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ({}, True),
        ({"quant_algo": "FP8"}, True),
        ({"quant_algo": "NVFP4"}, True),
        ({"quant_algo": "FP8_PER_CHANNEL_PER_TOKEN"}, False),
        ({"config_groups": {"group_0": {"input_activations": {"dynamic": False}}}}, True),
        ({"config_groups": {"group_0": {"input_activations": {"dynamic": True}}}}, False),
        ({"config_groups": {"group_0": {"input_activations": None}}}, False),
    ],
)
def test_whether_an_input_scale_must_be_stored(message: dict[str, Any], expected: bool) -> None:
    assert (declared({"quantization_config": message}, Path("x")).static_inputs("a.b") is not False) is expected


def test_each_linear_of_a_mixed_export_is_asked_for_itself() -> None:
    layers = {"a": {"quant_algo": "FP8"}, "b": {"quant_algo": "W4A16_NVFP4"}}
    groups = {
        "group_0": {"input_activations": {"dynamic": False}, "targets": ["a"]},
        "group_1": {"weights": {"num_bits": 4}, "targets": ["b"]},
    }
    message = {"quant_algo": "MIXED_PRECISION", "quantized_layers": layers, "config_groups": groups}
    found = declared({"quantization_config": message}, Path("x"))
    assert [found.static_inputs(name) for name in ("a", "b")] == [True, False]


@pytest.mark.parametrize("message", [3, {"ignore": 3}, {"quant_algo": 3}])
def test_a_section_that_says_nothing_is_a_fault_of_the_checkpoint(message: Any) -> None:
    with pytest.raises(CheckpointFaultError, match="quantization_config"):
        declared({"quantization_config": message}, Path("x"))


def test_no_section_is_no_fault() -> None:
    assert declared({"quantization_config": None}, Path("x")).static_inputs("a") is None
