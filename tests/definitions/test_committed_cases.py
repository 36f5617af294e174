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


BASES = {
    "Wan-AI/Wan2.2-T2V-A14B-Diffusers": "5be7df9619b54f4e2667b2755bc6a756675b5cd7",
    "Wan-AI/Wan2.2-I2V-A14B-Diffusers": "596658fd9ca6b7b71d5057529bbf319ecbc61d74",
    "Wan-AI/Wan2.2-TI2V-5B-Diffusers": "b8fff7315c768468a5333511427288870b2e9635",
}
"""The revisions that others pin; T2V's is MLPerf's."""


def of(cases: dict[str, Case], prefix: str) -> list[Case]:
    found = [case for name, case in cases.items() if name.startswith(prefix)]
    assert found, prefix
    return found


def test_everything_is_collected(cases):
    assert {"bf16", "fp8", "nvfp4", "fp8_override", "nvfp4_override", "bf16_env"} <= set(cases)
    assert len(of(cases, "incident_")) == 16
    assert len(of(cases, "incident_sglang_")) == 9
    assert len(of(cases, "wan22_modelopt_")) == 4
    assert len(of(cases, "wan22_sglang_")) == 4
    assert len(of(cases, "wan22_i2v_")) == 2
    assert len(of(cases, "i2v_sglang_")) == 2
    assert (len(of(cases, "i2v_")), len(of(cases, "ti2v_"))) == (5, 3)


def test_the_tiny_cases_ask_for_what_the_model_was_trained_for(cases):
    from tiny import spec
    from tiny.variants import VARIANTS

    colours = "|".join(spec.COLOURS)
    sentence = (
        rf"a ({colours}) ({'|'.join(spec.SHAPES)}) moving ({'|'.join(spec.DIRECTIONS)}) on a ({colours}) background"
    )
    for case in cases.values():
        if not case.model.path.startswith("./tiny/"):
            continue
        asked = case.sampling
        assert (asked.width, asked.height, asked.num_frames) == (spec.WIDTH, spec.HEIGHT, spec.FRAMES)
        variant = VARIANTS.get(Path(case.model.path).name.partition("-")[0])
        shift, boundary = spec.FLOW_SHIFT, spec.BOUNDARY_RATIO
        if variant is not None:
            shift, boundary = variant.flow_shift, variant.boundary_ratio or case.scheduler.boundary_ratio
            assert set(asked.images()) <= {"image"}
            assert asked.image is not None or variant.expand_timesteps
        if case.backend == "sglang":  # it computes with both of these, whatever a request says
            shift = 12.0 if variant is None else shift
            assert asked.max_sequence_length == 512
        else:
            assert asked.max_sequence_length == spec.MAX_SEQUENCE_LENGTH
        assert case.scheduler.flow_shift == shift
        assert case.scheduler.boundary_ratio == boundary
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
    for case in of(cases, "wan22_modelopt_"):
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
        assert all(ref.revision == BASES[ref.path] for ref in refs if ref.path in BASES)
        assert len({ref.revision == UNRESOLVED for ref in refs if ref.path not in BASES}) <= 1
        assert case.base is not None
        assert case.base.path in BASES


def test_the_real_cases_of_pictures_are_those_that_were_published(cases):
    for case in of(cases, "wan22_i2v_"):
        assert (case.scheduler.flow_shift, case.scheduler.boundary_ratio) == (5.0, 0.9)
        assert case.sampling.image is not None
    for case in of(cases, "wan22_ti2v_"):
        assert case.sampling.width % 32 == case.sampling.height % 32 == 0, "latents of 16 pixels, patches of 2"


def test_collection_imports_neither_torch_nor_pytest_nor_the_hub():
    script = (
        "import sys; from pathlib import Path; from harness.definitions.loading import load_cases; "
        "load_cases(sorted(Path('cases').resolve().glob('*.yaml')), Path.cwd()); "
        "print(sorted({'torch', 'diffusers', 'transformers', 'numpy', 'pytest', 'huggingface_hub'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stdout) == (0, "[]\n"), run.stderr
