"""Place the limits of a file again from its own samples, and find limits that were edited by hand."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from pathlib import Path

from harness.errors import QuantgateError
from harness.frames.compare import describe
from harness.limits.file import control_results, notes, place_limits
from harness.limits.probes import MEASURES, place_all
from harness.limits.stored import EditedLimitsError, load_limits
from harness.records.limits import Limit, LimitFile


def placed_again(old: LimitFile, author: str, reason: str) -> LimitFile:
    """Place the limits of a file again from its samples, by the present rule. Golden and samples stay.

    Used if the rule changed, the file has no seal yet, or its limits were changed by hand. If every limit already
    equals the result, the file is returned as it is, with author, reason and time.

    Raises:
        UnknownMetricError: no installed package provides a metric of the file.
    """
    measures = {measure.name for measure in MEASURES}
    frames = [limit for limit in old.limits if limit.metric not in measures]
    probes = {limit.metric: limit.samples for limit in old.limits if limit.metric in measures}
    limits = place_limits(
        [describe(limit.metric) for limit in frames], {limit.metric: limit.samples for limit in frames}
    )
    controls = control_results(limits)
    placed = {"limits": (*limits, *place_all(probes)), "controls": controls, "notes": notes(limits, controls)}
    if all(getattr(old, name) == value for name, value in placed.items()):
        return old
    return old.model_copy(
        update={
            **placed,
            "author": author,
            "reason": reason or old.reason,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
        }
    )


def load_explained(folder: Path, runner: str, case: str) -> LimitFile | None:
    """Read limits as `harness.limits.stored.load_limits` does, and name the limits that were edited by hand.

    Raises:
        InvalidCaseError: the file cannot be read or is invalid.
        EditedLimitsError: the file was changed; the message lists the limits that differ from those of its samples.
    """
    try:
        return load_limits(folder, runner, case)
    except EditedLimitsError as error:
        raise EditedLimitsError(error.limits, error.path, odd_limits(error.limits)) from None


def odd_limits(file: LimitFile, shown: int = 4) -> str:
    """Return the limits of ``file`` that differ from those that the rule places from its samples, with both values.

    Args:
        file: the file as read from disk.
        shown: largest number of limits to name.

    Returns:
        For example ``ssim 0.2 (higher is better), and its samples give 0.913 (higher is better)``; empty if all agree.
    """
    try:
        placed = placed_again(file, file.author, file.reason)
    except (QuantgateError, ValueError, ArithmeticError):
        return ""  # No limit can be placed from these samples, so only the seal shows that the file was edited.
    rows = [
        f"{limit.metric} {_limit_text(limit)}, and its samples give {_limit_text(expected)}"
        for limit in file.limits
        if (expected := placed.get(limit.metric)) is not None and not _same(limit, expected)
    ]
    return "; ".join(rows[:shown]) + (f"; and {len(rows) - shown} more" if len(rows) > shown else "")


def _same(limit: Limit, expected: Limit) -> bool:
    if limit.direction != expected.direction or (limit.limit is None) != (expected.limit is None):
        return False
    return limit.limit is None or expected.limit is None or math.isclose(limit.limit, expected.limit, rel_tol=1e-9)


def _limit_text(limit: Limit) -> str:
    return "does not gate" if limit.limit is None else f"{limit.limit:.4g} ({limit.direction.replace('_', ' ')})"
