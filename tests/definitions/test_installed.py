"""The names that loading knows are those that the other rooms and libraries have."""

from __future__ import annotations

import pytest

from harness.definitions.causes import MEASURES, check_cause
from harness.definitions.contract import parse_contract
from harness.definitions.installed import attention_backends, check_contract
from harness.formats.errors import ContractError
from harness.frames.registry import metric_names
from harness.inspector.contracts import known_contracts, load_contract
from harness.limits import probes


def test_attention_backends_are_those_of_diffusers() -> None:
    from diffusers.models.attention_dispatch import AttentionBackendName

    assert set(attention_backends()) == {one.value for one in AttentionBackendName}


@pytest.mark.parametrize("text", ["sglang==0.5.12", "sglang==0.5.23", "sglang==0.0.1", "sglang==99", "foo==1"])
def test_contracts_are_judged_as_the_inspector_does(text: str) -> None:
    try:
        load_contract(text)
        known = True
    except ContractError:
        known = False
    assert (check_contract(parse_contract(text)) is None) == known


def test_every_runtime_has_versions() -> None:
    assert {"sglang", "harness"} <= set(known_contracts())


def test_probe_limits_are_known() -> None:
    assert {one.name for one in probes.MEASURES if one.name.startswith("probe_")} == set(MEASURES)


def test_limits_of_metrics_and_probes_are_causes() -> None:
    for good in ("ssim_below_limit", "mad_above_limit", "probe_base_error_above_limit", "nibble_order"):
        assert check_cause(good, metric_names()) is None
    assert check_cause("plugin_above_limit", [*metric_names(), "plugin"]) is None
    assert check_cause("plugin_above_limit", metric_names())
