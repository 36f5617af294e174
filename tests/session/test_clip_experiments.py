"""The experiments on finished frames: an explanation from the clips, and a repeat that is judged."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from builders import bare_generation

from harness.frames.clip import Clip, write_clip
from harness.records.attribution import Experiment
from harness.records.generation import Generation
from harness.records.verdict import Outcome
from harness.session.experiments import Laboratory, is_explainable


def picture(seed: int, added: float = 0.0) -> Clip:
    y, x = np.mgrid[:48, :64]
    base = np.stack([np.sin(x / 9 + t / 3) + np.cos(y / 7) for t in range(5)])[..., None] * np.array([30, 25, 20])
    noise = np.random.default_rng(seed).normal(0, 0.5, base.shape)
    return Clip(np.rint(np.clip(120 + base + noise + added, 0, 255)).astype(np.uint8))


def generation(clip: Clip) -> Generation:
    return bare_generation(clip_sha256=clip.digest, shape=clip.shape)


class Engine:
    """An engine whose next clip is given."""

    def __init__(self, clip: Clip) -> None:
        self.clip = clip

    def generate(self, _: Any, folder: Path) -> Generation:
        write_clip(folder / "clip.safetensors", self.clip, "raw")
        return generation(self.clip)


def laboratory(folder: Path, repeat: Clip, limit: float = 3.0) -> tuple[Laboratory, Any]:
    golden, first = picture(0), picture(1, added=12)
    write_clip(folder / "golden.safetensors", golden, "raw")
    write_clip(folder / "clip.safetensors", first, "raw")
    timeouts = SimpleNamespace(load=9, generate=9, model_copy=lambda update: update)
    case: Any = SimpleNamespace(timeouts=timeouts, model_copy=lambda update: update)
    pool: Any = SimpleNamespace(get=lambda _: Engine(repeat), discard=lambda _: None)

    def passes(_: Generation, clip: Clip) -> bool:
        return bool(abs(clip.frames.mean() - golden.frames.mean()) < limit)

    return Laboratory(case, folder, pool, {}, None, 60.0, passes), SimpleNamespace(generation=generation(first))


def test_frames_are_explained_from_the_clips_in_the_folder(tmp_path: Path) -> None:
    lab, record = laboratory(tmp_path, picture(2))
    result = lab.carry_out(Experiment(kind="frames"), record, 60.0)
    assert result.done, result.why_not
    rows: Any = result.data["explanations"]
    assert rows[0]["code"] == "offset"
    assert rows[0]["share"] > 0.9


def test_a_repeat_that_fails_alike_says_so(tmp_path: Path) -> None:
    lab, record = laboratory(tmp_path, picture(2, added=12))
    result = lab.carry_out(Experiment(kind="rerun_same"), record, 60.0)
    assert (result.done, result.data["equal"], result.data["passes"]) == (True, False, False), result.why_not
    assert float(str(result.data["rms_between"])) < 1.0 < float(str(result.data["rms_first"]))


def test_a_repeat_that_passes_says_so(tmp_path: Path) -> None:
    lab, record = laboratory(tmp_path, picture(2))
    result = lab.carry_out(Experiment(kind="rerun_same"), record, 60.0)
    assert (result.data["passes"], result.data["repeat"]) == (True, "rerun_same/clip.safetensors")


@pytest.mark.parametrize(
    ("outcome", "cause", "explainable"),
    [
        (Outcome.INCONCLUSIVE, "limits_missing", False),
        (Outcome.INCONCLUSIVE, "limits_of_another_golden", False),
        (Outcome.INCONCLUSIVE, "base_missing", True),
        (Outcome.REGRESSION, "ssim_below_limit", True),
        (Outcome.GOLDEN_MISSING, "golden_missing", False),
    ],
)
def test_no_generation_is_spent_on_what_no_experiment_explains(outcome: Outcome, cause: str, explainable: bool) -> None:
    assert is_explainable(outcome, cause) is explainable
