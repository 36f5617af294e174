"""The limit file of one case, from what regeneration measured."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import QuantgateError
from harness.frames.compare import describe
from harness.limits.file import control_results, notes, place_limits
from harness.limits.probes import MEASURES, place_all
from harness.limits.stored import EditedLimitsError, load_limits
from harness.records.limits import Limit, LimitFile

if TYPE_CHECKING:
    pass


def placed_again(old: LimitFile, author: str, reason: str) -> LimitFile:
    """Place the limits of a file anew from the samples in it, by the rule as it is now. Golden and samples stay.

    For a rule that changed, a file that carries no seal yet, or one whose limits were changed by hand. If every limit
    is what the samples give already, author, reason and time stay too.

    Raises:
        UnknownMetricError: a metric that no package here provides.
    """
    measures = {measure.name for measure in MEASURES}
    frames = [limit for limit in old.limits if limit.metric not in measures]
    probes = {limit.metric: limit.samples for limit in old.limits if limit.metric in measures}
    limits = place_limits([describe(limit.metric) for limit in frames], {one.metric: one.samples for one in frames})
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
        InvalidCaseError: the file is wrong.
        EditedLimitsError: it was changed; the message has the limits that are not what the samples in the file give.
    """
    try:
        return load_limits(folder, runner, case)
    except EditedLimitsError as error:
        raise EditedLimitsError(error.limits, error.path, odd_limits(error.limits)) from None


def odd_limits(file: LimitFile, shown: int = 4) -> str:
    """Name the limits of ``file`` that are not what its own samples give by the rule, each with both values.

    Args:
        file: as it lies on disk.
        shown: how many are named.

    Returns:
        Such as ``ssim is 0.2, and its samples give 0.913``; empty if all are what the samples give.
    """
    try:
        placed = placed_again(file, file.author, file.reason)
    except (QuantgateError, ValueError, ArithmeticError):
        return ""  # samples of which no limit can be placed: the seal alone speaks
    rows = [
        f"{limit.metric} {_said(limit)}, and its samples give {_said(right)}"
        for limit in file.limits
        if (right := placed.get(limit.metric)) is not None and not _same(limit, right)
    ]
    return "; ".join(rows[:shown]) + (f"; and {len(rows) - shown} more" if len(rows) > shown else "")


def _same(limit: Limit, right: Limit) -> bool:
    if limit.direction != right.direction or (limit.limit is None) != (right.limit is None):
        return False
    return limit.limit is None or right.limit is None or math.isclose(limit.limit, right.limit, rel_tol=1e-9)


def _said(limit: Limit) -> str:
    return "does not gate" if limit.limit is None else f"{limit.limit:.4g} ({limit.direction.replace('_', ' ')})"
