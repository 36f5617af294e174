"""What a generation cost comes back from both kinds of backend."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builders import make_case

from harness.definitions.case import Case
from harness.engine.backends.command_backend import CommandBackend
from harness.engine.backends.diffusers_backend import DiffusersBackend
from harness.engine.profile import profile
from harness.errors import InfraError

PROGRAM = """
import json, sys, numpy as np
from safetensors.numpy import save_file
save_file({"frames": np.zeros((1, 16, 16, 3), np.uint8)}, sys.argv[2])
if sys.argv[4]:
    open(sys.argv[3], "w").write(sys.argv[4])
"""


def test_the_diffusers_backend_measures_steps_and_stages(
    load: Callable[..., DiffusersBackend], make_wan_case: Callable[..., Case], tmp_path: Path
) -> None:
    case = make_wan_case()
    backend = load(case)
    first, second = (backend.generate(case, tmp_path, lambda _: None).usage for _ in range(2))
    assert first is not None
    assert second is not None
    assert len(first.steps) == case.sampling.num_inference_steps
    assert all(seconds > 0 for seconds in first.steps)
    assert first.experts == tuple(step.expert for step in backend.generate(case, tmp_path, lambda _: None).trace.steps)
    assert first.text_encoder
    assert first.vae
    assert sum(first.steps) + first.text_encoder + first.vae <= first.total
    assert (first.ordinal, second.ordinal) == (1, 2)
    found = profile(backend, case)
    assert {block.block for block in found.blocks} == {
        f"{role}.blocks.{place}" for role, model in backend.experts.items() for place in range(len(model.blocks))
    }
    assert found.kernels
    assert found.top


def command_case(text: str) -> Case:
    command = [sys.executable, "-c", PROGRAM, "{case_json}", "{out}", "{usage}", text]
    return make_case(backend="command", command=command, sampling={"height": 16, "width": 16, "num_frames": 1})


def generated(case: Case, folder: Path) -> Any:
    backend = CommandBackend()
    backend.load(case, {}, "cpu", lambda _: None)
    return backend.generate(case, folder, lambda _: None).usage


def test_a_program_may_say_what_it_cost(tmp_path: Path) -> None:
    usage = generated(command_case('{"clock": "device", "steps": [2.0, 1.0], "total": 4.5}'), tmp_path)
    assert (usage.clock, usage.steps, usage.total) == ("device", (2.0, 1.0), 4.5)


def test_of_a_program_that_says_nothing_the_duration_is_known(tmp_path: Path) -> None:
    usage = generated(command_case(""), tmp_path)
    assert usage.steps == ()
    assert usage.total > 0


def test_a_usage_that_is_none_is_a_broken_protocol(tmp_path: Path) -> None:
    with pytest.raises(InfraError, match="usage cannot be read"):
        generated(command_case('{"steps": "fast"}'), tmp_path)
