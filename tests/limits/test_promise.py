"""How many healthy runs the rule asks for: its constants, by what they do."""

from __future__ import annotations

import pytest

from harness.limits.placing import keeps_promise, place_together, promise
from harness.records.frames import MetricResult
from harness.records.limits import Limit, Sample

MAD = MetricResult(
    name="mad", direction="lower_is_better", unit="levels of 255", ideal=0.0, worst=0.0, worst_frame=None, mean=0.0
)


def placed(runs: int) -> Limit:
    """The limit of a case's only metric after so many runs that all read the same, of which no law can be assumed."""
    samples = [Sample(value=1.0, run=f"r{index}", side="benign", clip=f"{index:064d}") for index in range(runs)]
    (limit,) = place_together([(MAD, samples)])
    return limit


@pytest.mark.parametrize(("runs", "kept"), [(100, False), (298, False), (299, True), (400, True)])
def test_99_percent_with_95_percent_confidence_takes_299_runs(runs: int, kept: bool) -> None:
    """S. S. Wilks (1941): the worst of 299 covers 99 % with 95 % confidence, that of 298 does not."""
    assert keeps_promise(placed(runs)) is kept


def test_what_is_missing_is_said_in_runs() -> None:
    assert promise(placed(298)).endswith("and not the 99.00% that was asked for: that takes 299")
    assert promise(placed(299)) == "99.00% of healthy runs with 95% confidence, by the worst of 299 runs"


def test_the_limit_takes_its_room_where_no_fault_is_near() -> None:
    assert placed(299).limit == pytest.approx(2.0)
