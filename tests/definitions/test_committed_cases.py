"""The cases of this repository: what they must say, and that none of it was made up."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from harness.definitions.case import UNRESOLVED, Case
from harness.definitions.loading import load_cases
from harness.session.inspecting import deployed_to

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "cases").glob("*.yaml"))


@pytest.fixture(scope="module")
def cases() -> dict[str, Case]:
    return {one.case.id: one.case for one in load_cases(FILES, ROOT)}


BASE = ("Wan-AI/Wan2.2-T2V-A14B-Diffusers", "5be7df9619b54f4e2667b2755bc6a756675b5cd7")
"""The revision that MLPerf and others pin."""


def of(cases: dict[str, Case], prefix: str) -> list[Case]:
    found = [case for name, case in cases.items() if name.startswith(prefix)]
    assert found, prefix
    return found


def test_everything_is_collected(cases):
    assert {"bf16", "fp8", "nvfp4", "fp8_override", "nvfp4_override", "bf16_env"} <= set(cases)
    assert len(of(cases, "incident_")) == 16
    assert len(of(cases, "incident_sglang_")) == 9
    assert len(of(cases, "wan22_")) == 6
    assert len(of(cases, "wan22_sglang_")) == 2


def test_the_tiny_cases_ask_for_what_the_model_was_trained_for(cases):
    from tiny import spec

    colours = "|".join(spec.COLOURS)
    sentence = (
        rf"a ({colours}) ({'|'.join(spec.SHAPES)}) moving ({'|'.join(spec.DIRECTIONS)}) on a ({colours}) background"
    )
    for case in cases.values():
        if not case.model.path.startswith("./tiny/"):
            continue
        asked = case.sampling
        assert (asked.width, asked.height, asked.num_frames) == (spec.WIDTH, spec.HEIGHT, spec.FRAMES)
        if case.backend == "sglang":  # it computes with both of these, whatever a request says
            assert (asked.max_sequence_length, case.scheduler.flow_shift) == (512, 12.0)
        else:
            assert asked.max_sequence_length == spec.MAX_SEQUENCE_LENGTH
            assert case.scheduler.flow_shift == spec.FLOW_SHIFT
        assert case.scheduler.boundary_ratio == spec.BOUNDARY_RATIO
        found = re.fullmatch(sentence, asked.prompt)
        assert found, asked.prompt
        assert found[1] != found[4], "an object of its background's colour is no object"


def test_the_incident_is_told_in_pairs_that_differ_in_the_default_alone(cases):
    for kind in ("export", "preswapped"):
        new, old = cases[f"incident_{kind}_new_default"], cases[f"incident_{kind}_old_default"]
        right, wrong = (new, old) if kind == "export" else (old, new)
        assert (right.expect, right.golden_of) == ("pass", None)
        assert (wrong.expect, wrong.golden_of) == ("checkpoint_fault:nibble_order", right.id)
        frames = cases[f"{wrong.id}_frames"]
        assert (frames.expect, frames.inspection) == ("regression:ssim_below_limit", "report")
        named = {"id", "description", "expect", "inspection"}
        assert frames.model_dump(exclude=named) == wrong.model_dump(exclude=named)
        assert {new.loader.nibble_order, old.loader.nibble_order} == {"low_first", "high_first"}
        assert (new.loader.nibble_order, old.loader.nibble_order) == ("low_first", "high_first")
        same = {"id", "description", "loader", "contracts", "golden_of", "expect"}
        assert new.model_dump(exclude=same) == old.model_dump(exclude=same)


def test_the_incident_in_sglang_differs_in_the_version_alone(cases):
    for kind, right, wrong in (("export", "new", "old"), ("preswapped", "old", "new")):
        good, bad = cases[f"incident_sglang_{kind}_{right}"], cases[f"incident_sglang_{kind}_{wrong}"]
        assert (good.expect, bad.expect) == ("pass", "checkpoint_fault:nibble_order")
        assert {good.runtime, bad.runtime} == {"sglang==0.5.13", "sglang==0.5.12.post1"}
        same = {"id", "description", "runtime", "golden_of", "expect"}
        assert good.model_dump(exclude=same) == bad.model_dump(exclude=same)
        frames = cases[f"{bad.id}_frames"]
        assert (frames.expect, frames.inspection) == ("regression:ssim_below_limit", "report")
        assert frames.runtime == bad.runtime


def test_the_real_cases_carry_the_sampling_of_the_incident(cases):
    for case in of(cases, "wan22_"):
        asked = case.sampling
        assert (asked.prompt, asked.width, asked.height) == ("A curious raccoon", 640, 384)
        assert (asked.num_frames, asked.num_inference_steps, asked.seed) == (17, 12, 0)
        assert case.runners == ("b200",)
        assert deployed_to(case) == ("sglang==0.5.23",)


def test_no_revision_is_invented(cases):
    """The base is pinned. The exports are unresolved until the hub was asked; `quantgate resolve` writes a case's
    at once."""
    for case in of(cases, "wan22_"):
        refs = case.checkpoints().values()
        assert {ref.revision for ref in refs if ref.path == BASE[0]} == {BASE[1]}
        assert len({ref.revision == UNRESOLVED for ref in refs if ref.path != BASE[0]}) == 1


def test_collection_imports_neither_torch_nor_pytest_nor_the_hub():
    script = (
        "import sys; from pathlib import Path; from harness.definitions.loading import load_cases; "
        "load_cases(sorted(Path('cases').resolve().glob('*.yaml')), Path.cwd()); "
        "print(sorted({'torch', 'diffusers', 'transformers', 'numpy', 'pytest', 'huggingface_hub'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stdout) == (0, "[]\n"), run.stderr
