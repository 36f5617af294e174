"""The rule ``tolerance_bound``: between both sides, or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.judge.limits_rule import undetectable
from harness.limits.distance import distance, value_at
from harness.limits.file import control_results, detection, notes, place_limits
from harness.limits.placing import Rule, distinct, place_together, promise
from harness.records.frames import MetricResult
from harness.records.limits import Limit, Sample


def metric(
    name: str = "mad", direction: str = "lower_is_better", unit: str = "levels of 255", ideal: float = 0.0
) -> Any:
    return MetricResult.model_validate(
        {"name": name, "direction": direction, "unit": unit, "ideal": ideal, "worst": ideal, "mean": ideal}
    )


def benign(*values: float) -> list[Sample]:
    return [Sample(value=value, run=f"r{i}", side="benign", clip=f"{i:064d}") for i, value in enumerate(values)]


def faulty(fault: str, *rows: tuple[float, float]) -> list[Sample]:
    return [
        Sample(value=value, run=f"{fault}@{strength}", side="faulty", fault=fault, strength=strength)
        for strength, value in rows
    ]


def place_between(one: MetricResult, samples: Sequence[Sample], rule: Rule | None = None) -> Limit:
    """The limit of a case's only metric."""
    return place_together([(one, samples)], rule)[0]


SIX = benign(0.9, 1.0, 1.1, 1.0, 0.95, 1.05)
RULE = Rule(0.95, 0.95, 2.0)


@pytest.mark.parametrize(
    ("direction", "unit", "ideal", "values"),
    [
        ("higher_is_better", "", 1.0, (1.0, 0.9, -0.5)),
        ("higher_is_better", "dB", 100.0, (100.0, 48.1, 10.0)),
        ("lower_is_better", "levels of 255", 0.0, (0.0, 3.0)),
        ("two_sided", "", 1.0, (0.0, 0.25)),
    ],
)
def test_distance_and_back(direction: str, unit: str, ideal: float, values: tuple[float, ...]) -> None:
    one = metric(direction=direction, unit=unit, ideal=ideal)
    assert distance(one, values[0]) == pytest.approx(0.0)
    rows = [distance(one, value) for value in values]
    assert rows == sorted(rows)
    assert [value_at(one, row) for row in rows] == pytest.approx(list(values))


def test_a_decibel_is_an_amplitude() -> None:
    """40 dB are 2.55 levels of 255, root mean squared."""
    assert distance(metric(direction="higher_is_better", unit="dB", ideal=200.0), 40.0) == pytest.approx(2.55)


def test_room_beyond_the_bound_ends_half_way_to_the_fault() -> None:
    free = place_between(metric(), SIX, RULE)
    bound = free.parameters["bound"]
    assert isinstance(bound, float)
    assert bound == pytest.approx(1.0 + 3.7077 * 0.070711, abs=1e-3)  # mean + k s, k of n = 6 from published tables
    assert free.limit == pytest.approx(2 * bound)
    near = place_between(metric(), [*SIX, *faulty("gain", (1.0, 2.0))], RULE)
    assert near.limit == pytest.approx((bound * 2.0) ** 0.5)
    assert near.margin_benign == pytest.approx(near.limit - 1.1)
    assert near.margin_faulty == pytest.approx(2.0 - near.limit)


def test_room_is_given_up_only_for_what_no_metric_finds() -> None:
    """`mad` barely tells the fault. Where `tile` finds it with all its room, `mad` keeps its own; alone it does not."""
    mad, tile = metric(), metric("tile")
    samples = {
        "mad": [*SIX, *faulty("gain", (1.0, 2.0)), *faulty("swap", (1.0, 90.0))],
        "tile": [*SIX, *faulty("gain", (1.0, 50.0)), *faulty("swap", (1.0, 0.1))],
    }
    alone, (together, _) = place_limits([mad], samples, RULE)[0], place_limits([mad, tile], samples, RULE)
    assert alone.limit == pytest.approx((float(str(alone.parameters["bound"])) * 2.0) ** 0.5)
    assert together.limit == pytest.approx(2 * float(str(together.parameters["bound"])))
    assert all(one.strength_95 == 1.0 for one in control_results(place_limits([mad, tile], samples, RULE)))


def test_the_promise_is_the_cases() -> None:
    """Five metrics: each covers 99 % so that all of them together cover 95 %."""
    rows = {str(number): SIX for number in range(5)}
    limits = place_limits([metric(name) for name in rows], rows, RULE)
    assert {limit.parameters["share"] for limit in limits} == {0.99}
    assert {limit.parameters["k"] for limit in limits} == {5.0620}  # 99 % / 95 %, n = 6, from published tables
    assert all("99.00% of healthy runs" in promise(limit) for limit in limits)


def test_overlapping_sides_do_not_gate_and_say_what_is_not_seen() -> None:
    limit = place_between(metric(), [*SIX, *faulty("gain", (0.5, 0.1), (1.0, 1.2)), *faulty("swap", (1.0, 0.8))], RULE)
    assert (limit.gates, limit.limit) == (False, None)
    assert "cannot see gain, swap here" in limit.why


def test_a_metric_that_sees_one_fault_gates_and_names_the_other() -> None:
    limit = place_between(metric(), [*SIX, *faulty("gain", (1.0, 1.2)), *faulty("swap", (0.5, 1.0), (1.0, 40.0))], RULE)
    assert limit.gates
    assert limit.parameters["cannot_tell"] == ["gain"]
    assert limit.margin_faulty == pytest.approx(40.0 - float(limit.limit or 0))


def test_frames_met_twice_count_once() -> None:
    same = [Sample(value=1.0, run=f"r{i}", side="benign", clip="a" * 64) for i in range(50)]
    assert len(distinct(same)) == 1
    assert place_limits([metric()], {"mad": same})[0].method == "repeats"
    assert "only 1 distinct healthy runs" in notes(place_limits([metric()], {"mad": same}), ())[0]


def test_a_drawn_sample_is_a_floor_and_no_run() -> None:
    drawn = Sample(value=1.9, run="rounding-noise", side="benign", drawn=True)
    limit = place_between(metric(), [*SIX, drawn], RULE)
    assert limit.limit == pytest.approx(3.8)
    assert limit.parameters["n"] == 6


def test_two_modes_are_bounded_apart() -> None:
    """The mean of both heaps lies where no run does; a bound from it would be 3.7 times the far heap."""
    runs = benign(*(0.01, 0.011, 0.012, 0.0105), *(1.0, 1.001, 1.002, 1.0015))
    limit = place_between(metric(), runs, RULE)
    modes = limit.parameters["modes"]
    assert isinstance(modes, list)
    assert [mode["runs"] for mode in modes if isinstance(mode, dict)] == [4, 4]
    assert float(str(limit.parameters["bound"])) == pytest.approx(1.005, abs=0.005)
    assert any("2 modes" in note and "--also" in note for note in notes([limit], ()))


def test_too_few_runs_for_the_promise_are_stated() -> None:
    heavy = benign(*([0.1] * 4), *(0.1001, 0.1002, 0.1003, 0.1004, 0.11, 5.0))
    limit = place_between(metric(), heavy, Rule(0.99, 0.95))
    assert "that takes 299" in promise(limit)
    flat = place_between(metric(), benign(*[0.0] * 8), Rule(0.99, 0.95))
    assert "8 distinct healthy runs all read the same" in promise(flat)
    assert notes([flat, flat], ())[0].startswith("mad, mad: 8 distinct")
    assert any("that takes 299" in note for note in notes([limit], ()))
    assert "95.00% of healthy runs" in promise(place_between(metric(), SIX, RULE))


def test_no_healthy_run_no_limit() -> None:
    with pytest.raises(ValueError, match="at least one healthy run"):
        place_between(metric(), faulty("gain", (1.0, 2.0)))


@given(
    st.lists(st.floats(0, 50), min_size=1, max_size=12),
    st.lists(st.floats(0, 255), max_size=4),
    st.sampled_from([("higher_is_better", "", 1.0), ("higher_is_better", "dB", 100.0), ("lower_is_better", "", 0.0)]),
)
def test_healthy_runs_pass_their_own_limit(
    rows: list[float], faults: list[float], kind: tuple[str, str, float]
) -> None:
    one = metric("m", *kind)
    samples = [*benign(*(value_at(one, row) for row in rows))]
    samples += [s for i, f in enumerate(faults) for s in faulty(f"f{i}", (1.0, value_at(one, f)))]
    limit = place_between(one, samples)
    for sample in samples[: len(rows)]:
        slack = 1e-9 * max(1.0, abs(sample.value)) * (1 if limit.direction == "lower_is_better" else -1)
        assert limit.admits(sample.value - slack)
    assert limit.gates or faults


def test_strengths_of_half_and_of_95_percent() -> None:
    runs = [(0.1, False)] * 4 + [(0.25, True), (0.25, False)] + [(0.5, True)] * 3 + [(1.0, True)] * 2
    found = detection("gain", runs)
    assert found.shares == ((0.1, 0.0, 4), (0.25, 0.5, 2), (0.5, 1.0, 3), (1.0, 1.0, 2))
    assert (found.strength_for(0.5), found.strength_for(0.95)) == (0.25, 0.5)


def test_a_stronger_fault_that_is_missed_undoes_the_weaker_ones_credit() -> None:
    found = detection("gain", [(0.1, True), (0.5, False), (1.0, True)])
    assert found.strength_for(0.5) == 1.0
    assert detection("gain", [(1.0, False)]).strength_for(0.5) is None


def test_a_fault_that_any_metric_finds_is_found() -> None:
    mad, order = metric(), metric("frame_order", unit="frames")
    samples = {
        "mad": [*SIX, *faulty("swap", (0.5, 9.0), (1.0, 30.0)), *faulty("order", (1.0, 0.5)),
                *faulty("none", (1.0, 0.2))],
        "frame_order": [*benign(*[0.0] * 6), *faulty("swap", (0.5, 0.0), (1.0, 0.0)), *faulty("order", (1.0, 3.0)),
                        *faulty("none", (1.0, 0.0))],
    }  # fmt: skip
    limits = place_limits([mad, order], samples, RULE)
    by_fault = {control.fault: control for control in control_results([*limits])}
    runs = {name: (c.strength_50, c.strength_95, c.metrics) for name, c in by_fault.items()}
    assert runs == {"swap": (0.5, 0.5, ("mad",)), "order": (1.0, 1.0, ("frame_order",)), "none": (None, None, ())}
    message = notes(limits, tuple(by_fault.values()))
    assert any("cannot see, even at full strength: none" in note for note in message)


def test_what_loosening_makes_undetectable() -> None:
    samples = {"mad": [*SIX, *faulty("swap", (0.5, 3.0), (1.0, 30.0))]}
    tight = place_limits([metric()], samples, RULE)
    loose = [limit.model_copy(update={"limit": 10.0}) for limit in tight]
    assert undetectable(tight, loose) == ("swap at 0.5",)
    assert undetectable(loose, tight) == ()
