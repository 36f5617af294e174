"""A change of the frames is a cause; a repeat is judged by limits and distance, not by equality."""

from __future__ import annotations

import pytest
from builders import GOLDEN, make_comparison, make_evidence, make_limits, make_metric, make_trace

from harness.judge.attribution import rules
from harness.judge.attribution.rules import explained
from harness.judge.limits_rule import check_limits
from harness.records.attribution import Experiment, ExperimentResult
from harness.records.base import Json
from harness.records.limits import Limit, Sample


def repeat(**data: Json) -> ExperimentResult:
    return ExperimentResult(experiment=Experiment(kind="rerun_same"), done=True, data=data)


def test_a_repeat_that_fails_like_the_first_rules_noise_out() -> None:
    same = repeat(equal=False, passes=False, rms_first=12.0, rms_repeat=12.1, rms_between=0.7)
    assert rules.ruled_out(same)
    assert not rules.differs(same)
    assert not list(rules.unstable([same]))


def test_a_repeat_that_fails_elsewhere_is_noise() -> None:
    other = repeat(equal=False, passes=False, rms_first=12.0, rms_repeat=12.1, rms_between=17.0)
    assert rules.differs(other)
    assert not rules.ruled_out(other)


def test_a_repeat_that_passes_makes_the_run_unstable() -> None:
    good = repeat(equal=False, passes=True, rms_first=12.0, rms_repeat=0.5, rms_between=12.0, repeat="rerun_same/clip")
    (cause,) = rules.unstable([good])
    assert cause.code == "unstable"
    assert "12.00 and 0.50 levels" in cause.sentence
    assert not rules.ruled_out(good)


def test_the_best_explanation_is_named_with_its_share_and_the_runner_up() -> None:
    rows: list[Json] = [
        {"code": "gamma", "share": 0.98, "parameters": 1, "sentence": "gamma: power 1.20", "frames": []},
        {"code": "contrast", "share": 0.91, "parameters": 2, "sentence": "contrast", "frames": []},
    ]
    result = ExperimentResult(experiment=Experiment(kind="frames"), done=True, data={"explanations": rows})
    (cause,) = explained([result], decoder=True)
    assert (cause.code, "98% of the error" in cause.sentence) == ("gamma", True)
    assert "next: contrast, 91%" in cause.sentence
    assert "VAE or after it" in cause.sentence
    nothing = result.model_copy(update={"data": {"explanations": []}})
    assert not list(explained([nothing]))


def test_the_margin_of_decibels_is_linear_in_the_error() -> None:
    """45 dB is an rms error of 10 ** -(45 - 29) / 20 = 0.158 of that at 29 dB."""
    psnr = make_metric("psnr", 45.0).model_copy(update={"unit": "dB", "ideal": 100.0, "direction": "higher_is_better"})
    limit = Limit(
        metric="psnr", direction="higher_is_better", gates=True, limit=29.0, unit="dB", method="repeats",
        samples=(Sample(value=45.0, run="r", side="benign"),),
    )  # fmt: skip
    evidence = make_evidence(comparison=make_comparison(psnr))
    limits = make_limits().model_copy(update={"limits": (limit,)})
    golden = evidence.golden.__class__(GOLDEN, (), make_trace(), limits)
    (check,) = check_limits(evidence.plus(golden=golden))
    assert check.margin_consumed == pytest.approx(0.158, abs=0.001)
