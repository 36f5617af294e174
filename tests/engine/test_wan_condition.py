"""Pictures in a Wan pipeline: healthy conditioning is silent, and every mistake is named with its place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

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
Patch = Callable[[Any], Any]


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
                "width": 96, "height": 64, "num_frames": 9, "num_inference_steps": 2, "guidance_scale": 3.0,
                "guidance_scale_2": 3.0, "max_sequence_length": 64,
            }  # fmt: skip
            fields = {
                "id": name, "runners": ["cpu"], "model": {"path": f"./{name}"}, "sampling": sampling,
                "scheduler": {"flow_shift": 5.0, "boundary_ratio": 0.9},
            }  # fmt: skip
            case = with_digests(Case.model_validate(fields), root)
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


@contextmanager
def replaced(holder: Any, name: str, make: Callable[[Any], Any]) -> Iterator[None]:
    setattr(holder, name, make(getattr(holder, name)))
    try:
        yield
    finally:
        delattr(holder, name)


def pixels(change: Callable[[torch.Tensor], torch.Tensor]) -> Patch:
    """Change what the pipeline makes of the picture."""

    def patch(pipe: Any) -> Any:
        return replaced(pipe.video_processor, "preprocess", lambda old: lambda *a, **k: change(old(*a, **k)))

    return patch


def prepared(change: Callable[[Any, tuple[torch.Tensor, ...]], tuple[torch.Tensor, ...]]) -> Patch:
    """Change noise, condition and mask as the pipeline prepares them."""

    def patch(pipe: Any) -> Any:
        return replaced(pipe, "prepare_latents", lambda old: lambda *a, **k: change(pipe, old(*a, **k)))

    return patch


def unnormalised(pipe: Any, latents: torch.Tensor) -> torch.Tensor:
    mean, std = (torch.tensor(getattr(pipe.vae.config, name)).view(1, -1, 1, 1, 1) for name in NAMES)
    return latents * std + mean


NAMES = ("latents_mean", "latents_std")
SMALLER = (32, 48)


def coarse(image: torch.Tensor) -> torch.Tensor:
    small = torch.nn.functional.interpolate(image, size=SMALLER, mode="nearest")
    return torch.nn.functional.interpolate(small.roll(1, 3), size=image.shape[-2:], mode="bilinear")


def forgotten(pipe: Any) -> Any:
    """The condition is lost from the second step on, which the low-noise expert makes."""

    def make(old: Any) -> Any:
        def call(**options: Any) -> Any:
            noise, condition = options["hidden_states"][:, :16], options["hidden_states"][:, 16:]
            return old(**{**options, "hidden_states": torch.cat([noise, condition * 0], 1)})

        return call

    return replaced(pipe.transformer_2, "forward", make)


FAULTS: dict[str, tuple[str, Patch, str, str]] = {
    "resized otherwise": ("i2v", pixels(coarse), "pixels", "resized or cropped otherwise"),
    "range 0..1": ("i2v", pixels(lambda x: (x + 1) / 2), "pixels", "0..1"),
    "BGR": ("i2v", pixels(lambda x: x.flip(1)), "pixels", "red and blue"),
    "mirrored": ("ti2v", pixels(lambda x: x.flip(3)), "pixels", "mirrored"),
    "lost before the VAE": ("ti2v", pixels(torch.zeros_like), "pixels", "the image is lost"),
    "not normalised": (
        "i2v",
        prepared(lambda pipe, out: (out[0], torch.cat([out[1][:, :4], unnormalised(pipe, out[1][:, 4:])], 1))),
        "latents",
        "mean and standard deviation are left out",
    ),
    "first frame not normalised": (
        "ti2v",
        prepared(lambda pipe, out: (out[0], unnormalised(pipe, out[1]), out[2])),
        "latents",
        "mean and standard deviation are left out",
    ),
    "lost after the VAE": (
        "i2v",
        prepared(lambda _, out: (out[0], torch.cat([out[1][:, :4], out[1][:, 4:] * 0], 1))),
        "latents",
        "the image is lost",
    ),
    "inverted mask": (
        "i2v",
        prepared(lambda _, out: (out[0], torch.cat([1 - out[1][:, :4], out[1][:, 4:]], 1))),
        "mask",
        "inverted",
    ),
    "mask behind the latents": (
        "i2v",
        prepared(lambda _, out: (out[0], torch.cat([out[1][:, 4:], out[1][:, :4]], 1))),
        "mask",
        "exchanged",
    ),
    "first frame not clean": (
        "ti2v",
        prepared(lambda _, out: (out[0], out[1], torch.ones_like(out[2]))),
        "mask",
        "no frame is marked as clean",
    ),
    "forgotten between steps": ("i2v", forgotten, "between steps", "changes between steps"),
}


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


@pytest.mark.parametrize("name", FAULTS)
def test_a_mistake_with_the_picture_is_named(
    name: str, engines: Callable[[str], Engine], healthy: Callable[[str], Trace]
) -> None:
    model, patch, place, words = FAULTS[name]
    golden, engine = healthy(model), engines(model)
    with patch(engine[0].pipe):
        run = trace(engine)
    findings = list(judge_condition(run, golden))
    assert findings
    assert {finding.code for finding in findings} == {CODE}
    assert findings[0].data["place"] == place, findings
    assert words in findings[0].message, findings[0].message


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
