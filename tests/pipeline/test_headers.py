"""What a configuration says of activation scales."""

from __future__ import annotations

from typing import Any

import pytest

from harness.pipeline.quantized.headers import expects_input_scale


@pytest.mark.parametrize(
    ("said", "expected"),
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
def test_whether_an_input_scale_must_be_stored(said: dict[str, Any], expected: bool) -> None:
    assert expects_input_scale({"quantization_config": said}) is expected
