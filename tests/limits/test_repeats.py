"""The rule ``repeats``."""

from __future__ import annotations

import pytest
from builders import make_metric
from hypothesis import given
from hypothesis import strategies as st

from harness.limits.file import place
from harness.records.frames import MetricResult
from harness.records.limits import Sample


def samples(*values: float, side: str = "benign") -> list[Sample]:
    return [Sample(value=value, run=f"r{index}", side=side) for index, value in enumerate(values)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("direction", "unit", "ideal", "values", "limit"),
    [
        ("higher_is_better", "", 1.0, (0.99, 0.97), 0.94),
        ("higher_is_better", "", 1.0, (1.0, 1.0), 0.99),
        ("higher_is_better", "dB", 100.0, (49.0, 51.0), 43.0),
        ("lower_is_better", "levels of 255", 0.0, (0.5, 1.5), 3.0),
        ("lower_is_better", "frames", 0.0, (0.0,), 0.0),
    ],
)
def test_by_hand(direction: str, unit: str, ideal: float, values: tuple[float, ...], limit: float) -> None:
    metric = make_metric(worst=ideal, direction=direction, unit=unit, ideal=ideal)
    assert place(metric, samples(*values)).limit == pytest.approx(limit)


def test_no_sample_no_limit() -> None:
    with pytest.raises(ValueError, match="at least one healthy sample"):
        place(make_metric(), samples(0.3, side="faulty"))


def test_margins_to_both_sides() -> None:
    limit = place(make_metric(), [*samples(0.98), *samples(0.3, side="faulty")])
    assert limit.limit == pytest.approx(0.96)
    assert limit.margin_benign == pytest.approx(0.02)
    assert limit.margin_faulty == pytest.approx(0.66)


@given(st.lists(st.floats(0.0, 1.0), min_size=1), st.sampled_from(["higher_is_better", "lower_is_better"]))
def test_every_sample_that_placed_a_limit_passes_it(values: list[float], direction: str) -> None:
    higher = direction == "higher_is_better"
    metric = MetricResult(
        name="m",
        direction=direction,
        unit="",
        ideal=1.0 if higher else 0.0,
        worst=0.5,
        mean=0.5,  # type: ignore[arg-type]
    )
    limit = place(metric, samples(*values))
    assert all(limit.admits(value) for value in values)
