"""``sglang==0.5.23``."""

from __future__ import annotations

import pytest
from packaging.version import Version

from harness.definitions.contract import parse_contract


def test_a_runtime_at_a_version():
    contract = parse_contract("sglang==0.5.23")
    assert contract == ("sglang", Version("0.5.23"))
    assert str(contract) == "sglang==0.5.23"
    assert parse_contract("vllm-omni==0.2.0rc1").version < Version("0.2.0")


@pytest.mark.parametrize(
    "text", ["sglang", "sglang>=0.5", "sglang==", "sglang==x", "==1", "SGLang==1", "a b==1", "sglang==1,==2"]
)
def test_anything_else_is_refused(text):
    with pytest.raises(ValueError, match="such as"):
        parse_contract(text)
