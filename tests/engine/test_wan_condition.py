"""Pictures in a Wan pipeline: healthy conditioning is silent, and every mistake is named with its place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import make_case
from PIL import Image

from benchmarks.faults.conditioning import CONDITIONING
from harness.definitions.case import Case
from harness.definitions.checks import with_digests
from harness.engine.backends.diffusers_backend import DiffusersBackend
from harness.engine.backends.wan_loading import takes
from harness.errors import InvalidCaseError
from harness.judge.condition_rule import CODE, judge_condition
from harness.judge.model_input_rule import judge_received
from harness.judge.observation import hold_against_nearest, read_observation
from harness.records.generation import Trace
from tiny.export_variants import export

pytestmark = pytest.mark.filterwarnings("ignore")

Engine = tuple[DiffusersBackend, Case, Path]


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Engine]:
    """A loaded backend by model, with a case of two steps and its picture."""
    torch.set_num_threads(1)
    root = tmp_path_factory.mktemp("condition")
    loaded: dict[str, Engine] = {}

    def get(name: str) -> Engine:
        if name not in loaded:
            export(name, root)
            pixels = np.zeros((64, 96, 3), np.uint8)
            pixels[:], pixels[20:40, 30:60] = (30, 60, 220), (240, 40, 20)
            Image.fromarray(pixels).save(root / "image.png")
            sampling = {
                "prompt": "a red square moving right on a blue background", "image": {"path": "./image.png"},
                "num_frames": 9, "guidance_scale_2": 3.0, "max_sequence_length": 64,
            }  # fmt: skip
            scheduler = {"flow_shift": 5.0, "boundary_ratio": 0.9}
            case = with_digests(
                make_case(id=name, model={"path": f"./{name}"}, scheduler=scheduler, sampling=sampling), root
            )
            backend = DiffusersBackend()
            paths = {"model": root / name, "image": root / "image.png", "last_image": root / "image.png"}
            backend.load(case, paths, "cpu", lambda _: None)
            loaded[name] = backend, case, root
        return loaded[name]

    return get


def trace(engine: Engine, **changed: Any) -> Trace:
    backend, case, root = engine
    case = case.model_copy(update={"sampling": case.sampling.model_copy(update=changed)})
    return backend.generate(case, root, lambda _: None).trace


CHOSEN = [
    ("i2v", "resized otherwise"), ("i2v", "range 0..1"), ("i2v", "BGR"), ("i2v", "not normalised"),
    ("i2v", "lost after the VAE"), ("i2v", "inverted mask"), ("i2v", "mask behind the latents"),
    ("i2v", "forgotten between steps"), ("ti2v", "mirrored"), ("ti2v", "lost before the VAE"),
    ("ti2v", "first frame not normalised"), ("ti2v", "first frame not clean"),
]  # fmt: skip
"""Model and fault: each place and each mistake once; `benchmarks.attribution --model` has all of them."""


@pytest.fixture(scope="module")
def healthy(engines: Callable[[str], Engine]) -> Callable[[str], Trace]:
    traces: dict[str, Trace] = {}

    def get(name: str) -> Trace:
        return traces.get(name) or traces.setdefault(name, trace(engines(name)))

    return get


@pytest.mark.parametrize("name", ["i2v", "ti2v"])
def test_a_healthy_picture_raises_nothing(name: str, healthy: Callable[[str], Trace]) -> None:
    run = healthy(name)
    assert run.condition is not None
    assert run.condition.encoded
    assert run.condition.kind == ("channels" if name == "i2v" else "first_frame")
    assert not list(judge_condition(run, run))
    assert not list(judge_received(run, run))
    # the finding must not lean on the golden's own error: a golden without a record allows none
    assert not list(judge_received(run, Trace(steps=())))
    assert {step.expert for step in run.steps} <= {"transformer", "transformer_2"}


@pytest.mark.parametrize(("model", "name"), CHOSEN)
def test_a_mistake_with_the_picture_is_named(
    model: str, name: str, engines: Callable[[str], Engine], healthy: Callable[[str], Trace]
) -> None:
    fault = CONDITIONING[name]
    golden, engine = healthy(model), engines(model)
    with fault.patch(engine[0].pipe):
        run = trace(engine)
    findings = list(judge_condition(run, golden))
    assert findings
    assert {finding.code for finding in findings} == {CODE}
    assert findings[0].data["place"] == fault.place, findings
    assert fault.words in findings[0].message, findings[0].message


def test_a_last_picture_is_conditioned_on_too(engines: Callable[[str], Engine]) -> None:
    engine = engines("i2v")
    image = engine[1].sampling.image
    run = trace(engine, last_image=image)
    assert run.condition is not None
    assert set(run.condition.pixels_error) == {"image", "last_image"}
    assert not list(judge_condition(run, run))


def test_ti2v_runs_without_a_picture_in_the_same_engine(engines: Callable[[str], Engine]) -> None:
    engine = engines("ti2v")
    run = trace(engine, image=None)
    assert run.condition is None
    assert type(engine[0].pipe).__name__ == "WanPipeline"
    assert run.steps[0].calls[0].latents_error == pytest.approx(0, abs=0.008)
    assert trace(engine).condition is not None
    assert type(engine[0].pipe).__name__ == "WanImageToVideoPipeline"


@pytest.mark.parametrize("name", ["i2v", "ti2v"])
def test_probes_of_a_conditioned_model_repeat_exactly(
    name: str, engines: Callable[[str], Engine], tmp_path: Path
) -> None:
    backend, case, _ = engines(name)
    methods = backend.methods()
    recording, again = tmp_path / "probes.safetensors", tmp_path / "again.safetensors"
    request: Any = {"case": case.model_dump(mode="json"), "out": str(recording)}
    methods["record_probes"](request, lambda _: None)
    methods["probe"]({"inputs": str(recording), "out": str(again)}, lambda _: None)
    evidence = hold_against_nearest(read_observation(again), read_observation(recording), [])
    assert [step.base_error for step in evidence.steps] == [0.0] * len(evidence.steps)
    assert {step.timestep for step in evidence.steps} >= {999.0}
    assert len(evidence.steps) == 2


def test_a_request_that_the_model_cannot_serve_is_refused(engines: Callable[[str], Engine]) -> None:
    engine = engines("i2v")
    with pytest.raises(InvalidCaseError, match=r"has no sampling\.image"):
        trace(engine, image=None)
    other = engines("ti2v")
    with pytest.raises(InvalidCaseError, match="first frame only"):
        trace(other, last_image=other[1].sampling.image)
    assert takes({"_class_name": "WanPipeline"}) == "text"


def test_another_picture_than_the_cases_is_refused(engines: Callable[[str], Engine]) -> None:
    engine = engines("i2v")
    image = engine[1].sampling.image
    assert image is not None
    with pytest.raises(InvalidCaseError, match="has sha256"):
        trace(engine, image=image.model_copy(update={"sha256": "0" * 64}))
