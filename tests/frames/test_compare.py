"""Comparing: the shortcut for equal clips, results that could not be had, strict JSON, plugins."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from importlib.metadata import EntryPoint
from typing import Literal

import numpy as np
import pytest
from pydantic import ValidationError

from harness.frames import registry
from harness.frames.clip import Clip
from harness.frames.compare import compare
from harness.frames.errors import FramesError, MetricUnavailableError, UnknownMetricError
from harness.frames.metric import Measurement, Pair
from harness.frames.registry import gating_names
from harness.records.frames import ComparisonEvidence, MetricDirection, MetricResult


@dataclass(frozen=True)
class Plugin:
    """A third party's metric, of which the tests set the answer."""

    answer: Measurement | Exception = field(default_factory=lambda: Measurement(value=0.5))
    name: str = "plugin"
    gates: bool = False
    direction: MetricDirection = "two_sided"
    scope: Literal["frame", "clip"] = "clip"
    unit: str = ""
    ideal: float = 1.0
    valid_range: tuple[float, float] = (0.0, 2.0)
    setting: str = "none"
    blind_to: str = "everything"
    source: str = "this test"

    def measure(self, pair: Pair) -> Measurement:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def test_equal_clips_are_recognised_by_digest_and_nothing_runs(make_clip: object) -> None:
    clip = make_clip(3)  # type: ignore[operator]
    never = Plugin(AssertionError("measured"))
    evidence = compare(clip, Clip(np.array(clip.frames)), [*gating_names(), never])
    assert evidence.bit_exact
    assert {result.implementation for result in evidence.metrics} == {"digest"}
    assert all(result.worst == result.ideal for result in evidence.metrics)


def test_every_gating_metric_has_a_value_and_the_record_is_strict_json(make_clip: object) -> None:
    golden = make_clip(4)  # type: ignore[operator]
    frames = np.array(golden.frames)
    frames[2] = 255 - frames[2]  # the other frames are equal: their PSNR has no finite value
    evidence = compare(golden, Clip(frames))
    assert [result.name for result in evidence.metrics] == list(gating_names())
    assert evidence.not_computed() == ()
    assert json.loads(evidence.to_json(), parse_constant=pytest.fail)
    assert ComparisonEvidence.model_validate_json(evidence.to_json()) == evidence
    psnr = evidence.get("psnr")
    assert psnr is not None
    assert psnr.per_frame[0] == 100.0
    assert psnr.worst_frame == 2
    assert psnr.worst == min(psnr.per_frame)


def test_frames_smaller_than_the_window_have_no_ssim_and_say_so() -> None:
    one, two = (Clip(np.full((2, 6, 40, 3), level, np.uint8)) for level in (10, 20))
    evidence = compare(one, two)
    assert {result.name for result in evidence.not_computed()} == {"ssim", "tile_ssim"}
    assert "40x6" in evidence.not_computed()[0].why


def test_an_unknown_metric_is_refused_with_the_known_ones(make_clip: object) -> None:
    clip = make_clip(1)  # type: ignore[operator]
    with pytest.raises(UnknownMetricError, match=r"simm.*ssim"):
        compare(clip, clip, ["simm"])


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (MetricUnavailableError("no weights"), "no weights"),
        (KeyError("bug"), "KeyError"),
        (Measurement(value=float("nan")), "outside its valid range"),
        (Measurement(value=float("inf")), "outside its valid range"),
        (Measurement(value=2.5), "outside its valid range 0 to 2"),
        (Measurement(), "not computed|did not give|outside"),
    ],
)
def test_what_cannot_be_computed_never_passes_silently(make_clip: object, answer: Measurement, message: str) -> None:
    evidence = compare(make_clip(2), make_clip(2, noise=5), [Plugin(answer)])  # type: ignore[operator]
    (result,) = evidence.not_computed()
    assert result.worst is None
    import re

    assert re.search(message, result.why)


def test_one_value_a_frame_is_insisted_on(make_clip: object) -> None:
    short = Plugin(Measurement(per_frame=np.zeros(1)), scope="frame")
    evidence = compare(make_clip(2), make_clip(2, noise=5), [short])  # type: ignore[operator]
    assert "one value per frame" in evidence.metrics[0].why


def test_two_sided_gates_on_the_distance_from_the_ideal(make_clip: object) -> None:
    low = Plugin(Measurement(per_frame=np.array([1.2, 0.5])), scope="frame")
    evidence = compare(make_clip(2), make_clip(2, noise=5), [low])  # type: ignore[operator]
    result = evidence.metrics[0]
    assert (result.worst, result.worst_frame) == (0.5, 1)
    assert (result.gating_value, result.gating_direction) == (0.5, "lower_is_better")


def test_a_result_needs_a_value_or_a_reason() -> None:
    with pytest.raises(ValidationError, match="has a value"):
        MetricResult(name="x", direction="two_sided", unit="", ideal=0.0)
    with pytest.raises(ValidationError, match="a reason"):
        MetricResult(name="x", direction="two_sided", unit="", ideal=0.0, status="not_computed")


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> object:
    def install(loaded: object, name: str = "plugin") -> None:
        class Point:
            dist = None
            value = "somewhere:Plugin"

            def load(self) -> object:
                if isinstance(loaded, Exception):
                    raise loaded
                return lambda: loaded

        point = Point()
        point.name = name  # type: ignore[attr-defined]
        monkeypatch.setattr(registry, "entry_points", lambda group: [point] if group == "quantgate.metrics" else [])
        clear()

    def clear() -> None:
        for cached in (registry._points, registry.metric_names, registry.metrics):
            cached.cache_clear()

    yield install
    monkeypatch.undo()
    clear()


def test_a_plugin_is_found_by_name(make_clip: object, installed: object) -> None:
    installed(Plugin())  # type: ignore[operator]
    evidence = compare(make_clip(2), make_clip(2, noise=5), ["plugin"])  # type: ignore[operator]
    assert evidence.metrics[0].worst == 0.5
    assert "plugin" not in gating_names()
    assert "plugin" not in {result.name for result in compare(make_clip(2), make_clip(2, noise=5)).metrics}  # type: ignore[operator]


def test_a_plugin_can_gate(make_clip: object, installed: object) -> None:
    """A metric of another package with ``gates = True`` is measured by default, and fails a case without a limit."""
    from harness.definitions.causes import check_cause

    installed(Plugin(gates=True))  # type: ignore[operator]
    assert gating_names()[-1] == "plugin"
    evidence = compare(make_clip(2), make_clip(2, noise=5))  # type: ignore[operator]
    assert evidence.metrics[-1].worst == 0.5
    assert check_cause("plugin_above_limit", registry.metric_names()) is None
    assert check_cause("another_above_limit", registry.metric_names()) is not None


@pytest.mark.parametrize(
    ("loaded", "name", "message"),
    [
        (ImportError("gone"), "plugin", "cannot be loaded"),
        (object(), "plugin", "lacks name, gates, direction"),
        (replace(Plugin(), name="ssim"), "ssim", "taken"),
        (Plugin(), "other", "calls itself 'plugin'"),
    ],
)
def test_a_bad_plugin_is_named(installed: object, loaded: object, name: str, message: str) -> None:
    installed(loaded, name)  # type: ignore[operator]
    with pytest.raises(FramesError, match=message):
        registry.metrics()


def test_entry_points_of_the_group_load() -> None:
    point = EntryPoint("plugin", "harness.frames.metrics:Ssim", registry.GROUP)
    assert point.load()().name == "ssim"


def test_threads_follow_the_xdist_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    from harness.frames.statistics import usable_threads

    monkeypatch.delenv("QUANTGATE_THREADS", raising=False)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    found = []
    for workers in ("1", "2", "3", "64"):
        monkeypatch.setenv("PYTEST_XDIST_WORKER_COUNT", workers)
        found.append(usable_threads())
    assert found == [8, 4, 2, 1]
    monkeypatch.setenv("QUANTGATE_THREADS", "5")
    assert usable_threads() == 5
    monkeypatch.setenv("QUANTGATE_THREADS", "many")
    with pytest.raises(FramesError, match="QUANTGATE_THREADS is 'many'"):
        usable_threads()
