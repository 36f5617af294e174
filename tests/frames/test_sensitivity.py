"""The benchmark's own arithmetic: limits come from other scenes, and a blind set of metrics is found out."""

from __future__ import annotations

from benchmarks.sensitivity import MARGIN, Tally, limits, score_ours, within

MILD = {
    "one": {"grain": {"mad": 1.0, "flicker": 0.1}},
    "two": {"grain": {"mad": 2.0, "flicker": 0.1}},
    "three": {"grain": {"mad": 9.0, "flicker": 0.1}},
}


def test_limits_are_a_margin_beyond_the_worst_and_never_under_one_rounding_step() -> None:
    assert limits(MILD["one"].values(), ["mad", "flicker"]) == {"mad": MARGIN, "flicker": 1.0}


def test_the_scored_scene_does_not_set_its_own_limit() -> None:
    tally = score_ours(MILD, {name: {} for name in MILD}, ["mad"])
    assert tally.alarmed == {"grain": 1}  # scene three, whose own value would have excused it


def test_a_fault_that_no_metric_sees_is_a_miss() -> None:
    gross = {name: {"swap": {"mad": 0.0, "flicker": 0.0}, "noise": {"mad": 99.0, "flicker": 0.0}} for name in MILD}
    assert score_ours(MILD, gross, ["mad", "flicker"]).missed == {"swap": 3}


def test_one_metric_out_of_bounds_is_enough() -> None:
    assert within({"mad": 1.0, "flicker": 1.0}, {"mad": 1.0, "flicker": 1.0})
    assert not within({"mad": 1.0, "flicker": 1.1}, {"mad": 1.0, "flicker": 1.0})


def test_tally_counts_only_what_went_wrong() -> None:
    tally = Tally()
    for gross, passed in ((True, False), (False, True)):
        tally.note("fine", gross, passed)
    tally.note("missed", gross=True, passed=True)
    tally.note("alarm", gross=False, passed=False)
    assert (tally.missed, tally.alarmed) == ({"missed": 1}, {"alarm": 1})
