"""Differences between limit files: which limits are listed, with whose reason, and which admit more."""

from __future__ import annotations

from typing import Any

import pytest

from harness.lane.coverage import Coverage, compare_limits
from harness.records.limits import LimitFile


def limits(created: str = "then", direction: str = "higher_is_better", **values: float | None) -> LimitFile:
    """A file with these limits; one that is ``None`` does not gate."""
    rows: list[dict[str, Any]] = [
        {
            "metric": name,
            "direction": direction,
            "gates": value is not None,
            "limit": value,
            "samples": [{"value": 0.9, "run": "repeat-1", "side": "benign"}],
            "method": "repeats",
            "why": "" if value is not None else "overlap",
        }
        for name, value in values.items()
    ]
    return LimitFile.model_validate(
        {
            "case": "a",
            "runner": "b200",
            "golden_digest": "0" * 64,
            "identity_digest": "0" * 64,
            "limits": rows,
            "repeats": 1,
            "author": "me",
            "reason": f"measured {created}",
            "created": created,
        }
    )


def test_a_limit_that_did_not_change_is_no_change() -> None:
    before, after = limits(ssim=0.9, psnr=30.0, mad=None), limits("now", ssim=0.8, psnr=30.0, mad=None)
    (change,) = compare_limits({"a": before, "b": before}, {"a": after, "b": before})
    assert (change.case, change.field, change.before, change.after) == ("a", "ssim", 0.9, 0.8)


def test_a_first_file_lists_its_limits_with_its_reason_and_loosens_nothing() -> None:
    found = compare_limits({}, {"a": limits(ssim=0.9, mad=None)})
    assert [(one.field, one.before, one.after) for one in found] == [
        ("mad", None, "does not gate"),
        ("ssim", None, 0.9),
    ]
    assert {one.reason for one in found} == {"measured then"}
    assert not any(one.looser for one in found)
    assert Coverage(against="main", changes=tuple(found)).without_reason() == ()


def test_the_old_reason_is_no_reason_for_a_new_limit() -> None:
    (edited,) = compare_limits({"a": limits(ssim=0.9)}, {"a": limits(ssim=0.8)})
    (measured,) = compare_limits({"a": limits(ssim=0.9)}, {"a": limits("now", ssim=0.8)})
    assert (edited.reason, measured.reason) == ("", "measured now")
    for change, unexplained in ((edited, (edited,)), (measured, ())):
        assert Coverage(against="main", changes=(change,)).without_reason() == unexplained


def test_a_new_metric_loosens_nothing_and_a_removed_one_does() -> None:
    (added,) = compare_limits({"a": limits(ssim=0.9)}, {"a": limits("now", ssim=0.9, psnr=30.0)})
    (gone,) = compare_limits({"a": limits(ssim=0.9, psnr=30.0)}, {"a": limits("now", ssim=0.9)})
    assert (added.field, added.looser) == ("psnr", False)
    assert (gone.field, gone.looser) == ("psnr", True)


@pytest.mark.parametrize(
    ("was", "now"), [("higher_is_better", "lower_is_better"), ("lower_is_better", "higher_is_better")]
)
@pytest.mark.parametrize("value", [0.8, 1.0])
def test_a_limit_that_points_the_other_way_is_looser_whatever_its_value(was: str, now: str, value: float) -> None:
    (change,) = compare_limits({"a": limits(direction=was, x=0.9)}, {"a": limits("now", now, x=value)})
    assert change.looser
