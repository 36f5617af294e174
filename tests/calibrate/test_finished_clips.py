"""Faults of finished videos that users of other runtimes reported, on the golden of an embedded case.

A program behind ``backend: command`` gives the golden's frames with noise below a level. Its limits are placed as
``quantgate regenerate --controls frames`` places them; a clip is red if a check of sanity or a limit fails.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from harness.calibrate.faults.spoiling import SPOILS, STRENGTHS, spoiled
from harness.calibrate.samples import rounding_samples
from harness.engine.backends.delivery import round_video, stats_of
from harness.frames.clip import Clip, read_clip
from harness.frames.compare import compare
from harness.frames.hypotheses import explain
from harness.frames.sanity import check_clip
from harness.limits.file import place_limits
from harness.records.frames import ComparisonEvidence
from harness.records.limits import Limit, Sample

GOLDENS = Path(__file__).parents[2] / "goldens" / "cpu"
Frames = npt.NDArray[np.floating[Any]]


@cache
def golden(case: str) -> Clip:
    return read_clip(next((GOLDENS / case).glob("*/clip.safetensors")))


def delivered(video: Frames, seed: int) -> Frames:
    """What the program writes: float32 in [0, 1] with noise, as the runs of a GPU have it."""
    return (video + np.random.default_rng(seed).normal(0, 0.002, video.shape)).astype(np.float32)


@cache
def limits() -> tuple[Limit, ...]:
    """Limits of twelve healthy runs, of the smallest changes, and of the faults that are injected into frames."""
    base = golden("bf16")
    rows: list[tuple[Sample, ComparisonEvidence]] = []

    def add(clip: Clip, label: str, **more: Any) -> None:
        evidence = compare(base, clip)
        rows.append((Sample(value=0.0, run=label, clip=clip.digest, **more), evidence))

    for seed in range(12):
        add(round_video(delivered(base.frames / 255, seed)), f"repeat-{seed}", side="benign")
    for label, frames in rounding_samples(base.frames).items():
        add(Clip(frames), label, side="benign", drawn=True)
    for name, spoil in SPOILS.items():
        for strength in STRENGTHS[1::2]:
            clip = Clip(spoiled(spoil, base.frames, strength))
            add(clip, f"{name}@{strength:g}", side="faulty", fault=name, strength=strength)
    metrics = rows[0][1].metrics
    samples = {
        metric.name: [
            sample.model_copy(update={"value": value, "clip": "" if sample.drawn else sample.clip})
            for sample, evidence in rows
            if (found := evidence.get(metric.name)) is not None and (value := found.gating_value) is not None
        ]
        for metric in metrics
    }
    return place_limits(metrics, samples)


def failures(video: Frames) -> set[str]:
    """Names of the sanity checks and metrics that fail."""
    clip = round_video(np.nan_to_num(video))  # as every backend rounds, with NaN counted beside
    sick = {check.name for check in check_clip(clip, float_stats=stats_of(video)).checks if not check.ok}
    evidence = compare(golden("bf16"), clip)
    far = set()
    for limit in limits():
        found = evidence.get(limit.metric)
        value = None if found is None else found.gating_value
        if limit.gates and (value is None or not limit.admits(value)):
            far.add(limit.metric)
    return sick | far


def only_the_first(f: Frames) -> Frames:
    out = 0.5 + 0.2 * np.random.default_rng(0).standard_normal(f.shape)
    out[0] = f[0]
    return out


def changed(frames: Any, by: Any) -> Callable[[Frames], Frames]:
    def change(f: Frames) -> Frames:
        out = f.copy()
        out[frames] += by
        return out

    return change


def mesh(f: Frames) -> Frames:
    y, x = np.mgrid[: f.shape[1], : f.shape[2]]
    lines = np.where(((x + y) % 4 == 0) | ((x - y) % 4 == 0), 1, -1)
    return f + 0.06 * lines[None, :, :, None]


FAULTS: dict[str, tuple[Callable[[Frames], Frames], str]] = {
    "first_frame_only": (only_the_first, "frames_overwritten"),
    "last_frames_blink": (
        changed(slice(-4, None), np.array([0.04, -0.04, 0.04, -0.04])[:, None, None, None]),
        "flicker",
    ),
    "mesh": (mesh, "mesh"),
    "first_frame_tint": (changed(0, np.array([0.06, 0.0, -0.06])), "tint"),
    "flash": (changed(8, 0.08), "flash"),
    "white": (np.ones_like, ""),
    "all_nan": (lambda f: np.full_like(f, np.nan), ""),
    "other_request": (lambda _f: golden("fp8").frames / 255, ""),
}
SANITY = {"white": "flat", "all_nan": "nan", "first_frame_only": "noise"}


@pytest.mark.parametrize("name", FAULTS)
def test_a_reported_fault_is_red_and_named(name: str) -> None:
    change, code = FAULTS[name]
    video = delivered(change(golden("bf16").frames / 255), seed=99)
    failed = failures(video)
    assert failed
    assert name not in SANITY or SANITY[name] in failed
    if code:
        named = [row.code for row in explain(golden("bf16").frames, round_video(video).frames)]
        assert code in named[:2], named


def test_runs_that_differ_by_less_than_a_level_pass() -> None:
    for seed in range(100, 106):
        assert failures(delivered(golden("bf16").frames / 255, seed)) == set()
