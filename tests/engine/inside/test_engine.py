"""Requests for SGLang: what is handed on, and what is refused. Stand-ins take the place of SGLang's classes."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from harness.engine.inside.engine import Engine, RefusedError

CASE: dict[str, Any] = {
    "sampling": {
        "prompt": "a", "negative_prompt": "b", "width": 96, "height": 64, "num_frames": 5, "num_inference_steps": 3,
        "guidance_scale": 3.0, "guidance_scale_2": None, "seed": 0, "fps": 16, "max_sequence_length": 512,
        "image": {"path": "./a.png"}, "last_image": None,
    },
    "scheduler": {"name": "UniPCMultistepScheduler", "flow_shift": 5.0, "boundary_ratio": 0.9},
}  # fmt: skip


class InputValidation:
    """Takes the size of the picture's request as SGLang's stage does: ``size`` replaces the case's."""

    def __init__(self, size: tuple[int, int]) -> None:
        self._size = size

    def forward(self, batch: Any, _server_args: Any) -> Any:
        batch.width, batch.height = self._size
        return batch


class Worker:
    def __init__(self, size: tuple[int, int]) -> None:
        arch = SimpleNamespace(z_dim=2, latents_mean=[0.0], latents_std=[1.0], scale_factor_temporal=4)
        vae = SimpleNamespace(config=SimpleNamespace(arch_config=arch))
        modules = {"vae": vae, "transformer": object(), "transformer_2": object()}
        self.pipeline = SimpleNamespace(stages=[InputValidation(size)], modules=modules)
        self.batches: list[Any] = []

    def execute_forward(self, batches: list[Any]) -> Any:
        """Run the only stage. As in SGLang, an exception of a stage becomes text."""
        self.batches = batches
        try:
            self.pipeline.stages[0].forward(batches[0], None)
        except Exception as error:
            return SimpleNamespace(error=str(error), output=None)
        return SimpleNamespace(error=None, output="frames")


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that makes an engine of a task, whose SGLang makes videos of ``size``."""
    entry = ModuleType("sglang.multimodal_gen.runtime.entrypoints.utils")
    entry.prepare_request = lambda server_args, sampling_params: sampling_params  # type: ignore[attr-defined]
    sampling = ModuleType("sglang.multimodal_gen.configs.sample.sampling_params")
    sampling.SamplingParams = SimpleNamespace(  # type: ignore[attr-defined]
        from_user_sampling_params_args=lambda _path, server_args, **fields: SimpleNamespace(**fields)
    )
    for module in (entry, sampling):
        monkeypatch.setitem(sys.modules, module.__name__, module)

    def engine(task: str, size: tuple[int, int] = (96, 64), shift: float = 5.0) -> Any:
        made: Any = Engine(None)
        config = SimpleNamespace(
            task_type=SimpleNamespace(name=task), flow_shift=shift, dit_config=SimpleNamespace(boundary_ratio=0.9)
        )
        made._arguments = SimpleNamespace(pipeline_config=config, model_path="model")
        made._worker, made._version = Worker(size), "0.5.13"
        return made

    return engine


def _changed(**sampling: Any) -> dict[str, Any]:
    return {**CASE, "sampling": {**CASE["sampling"], **sampling}}


def test_the_picture_is_part_of_the_request(make: Any) -> None:
    engine = make("I2V")
    assert engine._run(CASE, None, {"pictures": {"image": "/a.png"}}) == "frames"
    assert engine._worker.batches[0].image_path == "/a.png"
    assert "forward" not in vars(engine._worker.pipeline.stages[0])  # the check of the size is gone


def test_a_request_without_a_picture_names_none(make: Any) -> None:
    engine = make("T2V", size=(1, 1))  # without a picture the stage is not watched
    assert engine._run(_changed(image=None), None, {}) == "frames"
    assert not hasattr(engine._worker.batches[0], "image_path")


def test_a_size_that_the_runtime_chose_by_the_picture_is_refused(make: Any) -> None:
    with pytest.raises(RefusedError, match=r"video of 1344x640 for this picture, and the case states 96x64") as refusal:
        make("TI2V", size=(1344, 640))._run(CASE, None, {"pictures": {"image": "/a.png"}})
    assert refusal.value.remedy == "sampling: {width: 1344, height: 640}"


def test_a_refusal_does_not_outlive_its_request(make: Any) -> None:
    engine = make("I2V", size=(32, 32))
    with pytest.raises(RefusedError):
        engine._run(CASE, None, {"pictures": {"image": "/a.png"}})
    assert engine._run(_changed(width=32, height=32), None, {"pictures": {"image": "/a.png"}}) == "frames"


@pytest.mark.parametrize(
    ("task", "sampling", "words"),
    [
        ("T2V", {}, "would ignore sampling.image"),
        ("I2V", {"image": None}, "begins with a picture, and the case states none"),
        ("I2V", {"last_image": {"path": "./b.png"}}, "takes a first frame only"),
    ],
)
def test_a_picture_that_the_runtime_would_not_read_is_refused(
    make: Any, task: str, sampling: dict[str, Any], words: str
) -> None:
    with pytest.raises(RefusedError, match=words):
        make(task)._check_request_of(_changed(**sampling))


@pytest.mark.parametrize(("task", "image"), [("T2V", None), ("I2V", {}), ("TI2V", None), ("TI2V", {})])
def test_a_request_that_fits_the_pipeline_passes(make: Any, task: str, image: Any) -> None:
    make(task)._check_request_of(_changed(image=image))


def test_the_condition_is_compared_with_the_picture_of_the_request(make: Any, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((64, 96, 3), dtype=np.uint8)).save(tmp_path / "a.png")
    watch = make("I2V")._condition(CASE, {"pictures": {"image": str(tmp_path / "a.png")}})
    assert watch.active
    assert watch.facts()["kind"] == "channels"
    assert not make("T2V")._condition(CASE, {}).active
