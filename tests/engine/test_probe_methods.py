"""Probes through a backend: recorded from a generation of the base, fed into another engine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.definitions.case import Case
from harness.judge.observation import hold_against, read_observation
from harness.records.base import Json

Make = Callable[..., Case]


def _ignore(_: dict[str, Json]) -> None:
    """No progress is shown."""


@torch.no_grad()
def test_a_recording_is_what_the_base_sees_and_an_override_is_nvfp4_away(
    load: Any, make_wan_case: Make, random_wan: Path, tmp_path: Path
) -> None:
    case = make_wan_case()
    base = load(case)
    recording, again, other = (tmp_path / name for name in ("recording", "again", "other"))
    message = base.methods()["record_probes"]({"case": case.model_dump(mode="json"), "out": str(recording)}, _ignore)
    index = read_observation(recording).index
    trace = base.generate(case, tmp_path, _ignore).trace
    assert message["probes"] == len(index.probes)
    for probe in index.probes:
        step = trace.steps[probe.step]
        assert (step.expert, step.timestep) == (probe.expert, pytest.approx(probe.timestep))
    assert {probe.expert for probe in index.probes} == {"transformer", "transformer_2"}
    base.methods()["probe"]({"inputs": str(recording), "out": str(again)}, _ignore)
    anchor = read_observation(recording)
    same = hold_against(read_observation(again), anchor, anchor)
    assert all(step.base_error == 0.0 for step in same.steps)
    assert all(module.base_error == 0.0 for module in same.modules)
    assert not same.missing
    quantized = load(make_wan_case(transformer={"path": "./nvfp4"}), transformer=random_wan / "nvfp4")
    quantized.methods()["probe"]({"inputs": str(recording), "out": str(other)}, _ignore)
    found = hold_against(read_observation(other), anchor, None)
    for step in found.steps:
        assert (step.base_error > 0.0) is (step.expert == "transformer")
    packed = [module for module in found.modules if module.format == "nvfp4"]
    assert packed
    assert {module.expert for module in packed} == {"transformer"}
    assert all(module.base_error is not None and 0.04 < module.base_error < 0.2 for module in packed)
    assert all(module.base_error == 0.0 for module in found.modules if module.format not in ("nvfp4", "activation"))


def test_the_trace_tells_what_the_prompt_became(load: Any, make_wan_case: Make, tmp_path: Path) -> None:
    backend = load(make_wan_case())
    text = backend.generate(make_wan_case(), tmp_path, _ignore).trace.text
    assert (text["length"], text["dtype"]) == (16, "bfloat16")
    longer = backend.generate(make_wan_case(sampling={"max_sequence_length": 24}), tmp_path, _ignore).trace.text
    assert longer["length"] == 24
    assert (longer["tokens"], longer["mask"]) == (text["tokens"], text["mask"])
    other = backend.generate(make_wan_case(sampling={"prompt": "bc a"}), tmp_path, _ignore).trace.text
    assert other["tokens"] != text["tokens"]
