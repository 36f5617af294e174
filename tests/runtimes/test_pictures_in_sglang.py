"""Pictures in the real SGLang, on a CPU: `make test-sglang` installs what these tests need."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from real_runtimes import python_of

from harness.definitions.case import Case
from harness.definitions.loading import load_cases
from harness.engine.environment import RUNTIME_PYTHON
from harness.engine.owner import EngineOwner
from harness.engine.resolve import resolve_case
from harness.errors import InvalidCaseError
from harness.frames.clip import read_clip
from harness.judge.condition_rule import judge_condition
from harness.judge.observation import read_observation
from harness.records.generation import Generation

ROOT = Path(__file__).parents[2]
FAULTY = ROOT / "tests" / "support" / "faulty_sglang.py"
pytestmark = pytest.mark.slow


class Faulty:
    """The I2V case in a real SGLang, whose conditioning is broken as ``fault`` says."""

    def __init__(self, owner: EngineOwner, case: Case, place: Path) -> None:
        self.owner, self.case, self._place = owner, case, place

    def generate(self, out: Path, fault: str = "") -> Generation:
        self._place.write_text(fault)
        try:
            return self.owner.generate(self.case, out)
        finally:
            self._place.write_text("")


@pytest.fixture(scope="module")
def sglang(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Faulty]:
    (case,) = [
        located.case
        for located in load_cases([ROOT / "cases" / "tiny_i2v_sglang.yaml"], ROOT)
        if located.case.id == "i2v_sglang_nvfp4"
    ]
    folder = tmp_path_factory.mktemp("sglang")
    place, interpreter = folder / "fault", folder / "python"
    place.write_text("")
    command = shlex.join([python_of(case.runtime), str(FAULTY), str(place)])
    interpreter.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
    interpreter.chmod(0o755)
    environment = {RUNTIME_PYTHON: str(interpreter)}
    with EngineOwner(case, folder / "engine", environment, resolve_case(case, ROOT), device="cpu") as owner:
        owner.start()
        yield Faulty(owner, case, place)


@pytest.fixture(scope="module")
def healthy(sglang: Faulty, tmp_path_factory: pytest.TempPathFactory) -> tuple[Generation, Path]:
    out = tmp_path_factory.mktemp("healthy")
    return sglang.generate(out), out


def test_the_video_begins_with_the_picture_and_both_experts_run(
    sglang: Faulty, healthy: tuple[Generation, Path]
) -> None:
    generation, out = healthy
    condition = generation.trace.condition
    assert condition is not None
    assert (condition.kind, condition.encoded, condition.pixels_error) == ("channels", True, {"image": 0.0})
    assert list(judge_condition(generation.trace, generation.trace)) == []
    assert [step.expert for step in generation.trace.steps] == ["transformer"] * 3 + ["transformer_2"] * 5
    assert generation.trace.scheduler["shift"] == 5.0
    first = read_clip(out / generation.clip).frames[0].astype(float)
    # the picture: a red circle on blue, in the first of the five places of `cases/images`
    assert first.mean(axis=(0, 1))[2] > 150
    assert (first[..., 0] > 150).mean() > 0.03
    assert sglang.owner.start_record.runtime["task"] == "I2V"


@pytest.mark.parametrize(
    ("fault", "place", "words"),
    [
        ("range", "pixels", "its values lie in 0..1 and not in -1..1"),
        ("mirrored", "pixels", "it is mirrored"),
        ("channels", "pixels", "red and blue are exchanged"),
        ("resized", "pixels", "it was resized or cropped otherwise"),
        ("mask", "mask", "it is inverted"),
        ("lost", "latents", "they are zero: the image is lost"),
        ("sign", "latents", "their sign is turned round"),
        ("exchanged", "mask", "mask and image latents are exchanged"),
    ],
)
def test_a_fault_of_the_conditioning_is_named(
    sglang: Faulty, healthy: tuple[Generation, Path], tmp_path: Path, fault: str, place: str, words: str
) -> None:
    generation = sglang.generate(tmp_path, fault)
    findings = list(judge_condition(generation.trace, healthy[0].trace))
    assert [(finding.code, finding.data["place"]) for finding in findings] == [("image_condition_differs", place)]
    assert words in findings[0].message


def test_probes_of_a_request_with_a_picture_are_answered(sglang: Faulty, tmp_path: Path) -> None:
    inputs, out = tmp_path / "probes.safetensors", tmp_path / "sketches.safetensors"
    sglang.owner.call("record_probes", {"case": sglang.case.model_dump(mode="json"), "out": str(inputs)}, 300)
    sglang.owner.call("probe", {"inputs": str(inputs), "out": str(out)}, 300)
    assert {probe.expert for probe in read_observation(inputs).index.probes} == {"transformer", "transformer_2"}
    assert read_observation(out).modules("transformer")
    assert not list(tmp_path.glob("*.png"))


def test_a_request_without_the_picture_is_refused(sglang: Faulty, tmp_path: Path) -> None:
    sampling = sglang.case.sampling.model_copy(update={"image": None})
    with pytest.raises(InvalidCaseError, match="begins with a picture, and the case states none"):
        sglang.owner.generate(sglang.case.model_copy(update={"sampling": sampling}), tmp_path)
    assert sglang.owner.alive
