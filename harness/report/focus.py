"""Where to look first: the frame and the tile that decided."""

from __future__ import annotations

from dataclasses import dataclass

from harness.records.case_record import CaseRecord
from harness.records.frames import MetricResult, Tile
from harness.records.limits import LimitCheck
from harness.report.labels import is_red
from harness.report.text import number

MOST_KEY_FRAMES = 8
"""Of a case that is not green."""
GREEN_KEY_FRAMES = 2
"""Of a green one: a lane of 300 large cases must still be an artifact that can be uploaded."""
_PAST_ANY_LIMIT = 1e9


@dataclass(frozen=True)
class Focus:
    """The worst frame of a case."""

    frame: int
    tile: Tile | None
    why: str


def focus(record: CaseRecord) -> Focus | None:
    """The worst frame: of the failed sanity check, of the limit that the verdict names, of the one broken by most.

    Where everything passed, it is the frame that comes nearest to a limit.
    ``None`` where no measurement points at a frame: nothing was measured, or the clips are bit-exact.
    """
    tile = _tile(record)
    for failure in record.sanity.failures if record.sanity else ():
        if failure.frame is not None:
            return Focus(failure.frame, tile, failure.message)
    cause = record.verdict.cause
    ranked = sorted(
        (check for check in record.limits if check.frame is not None),
        key=lambda check: (cause.startswith(f"{check.metric}_") and not check.passed, _used(check)),
        reverse=True,
    )
    for check in ranked:
        if check.frame is not None and _used(check) > 0:
            return Focus(check.frame, tile, _sentence(check))
    metrics = record.comparison.metrics if record.comparison and not record.comparison.bit_exact else ()
    for metric in metrics:
        if metric.worst_frame is not None and metric.worst != metric.ideal:
            return Focus(metric.worst_frame, tile, f"{metric.name} is worst here: {number(metric.worst)}")
    return None


def key_frames(record: CaseRecord, count: int) -> tuple[int, ...]:
    """Frames that are kept without loss, once each: the worst ones, then first, middle and last."""
    first = focus(record)
    wanted = [first.frame] if first else []
    wanted += [check.frame for check in record.limits if check.frame is not None and not check.passed]
    wanted += [check.frame for check in record.sanity.failures if check.frame is not None] if record.sanity else []
    wanted += [metric.worst_frame for metric in _tiled(record) if metric.worst_frame is not None]
    wanted += [0, count // 2, count - 1]
    inside = dict.fromkeys(frame for frame in wanted if 0 <= frame < count)
    return tuple(inside)[: MOST_KEY_FRAMES if is_red(record) else GREEN_KEY_FRAMES]


def _used(check: LimitCheck) -> float:
    if not check.gates:
        return 0.0
    if check.value is None or (check.margin_consumed is None and not check.passed):
        return _PAST_ANY_LIMIT
    return check.margin_consumed or 0.0


def _sentence(check: LimitCheck) -> str:
    if check.passed:
        return f"{check.metric} comes nearest to its limit here: {number(check.value)}, limit {number(check.limit)}"
    side = "below" if check.direction == "higher_is_better" else "above"
    return f"{check.metric} is {number(check.value)} here, {side} its limit of {number(check.limit)}"


def _tiled(record: CaseRecord) -> tuple[MetricResult, ...]:
    metrics = record.comparison.metrics if record.comparison else ()
    return tuple(metric for metric in metrics if metric.worst_tile is not None)


def tile_frame(record: CaseRecord) -> int | None:
    """The frame in which the worst tile lies."""
    return next((metric.worst_frame for metric in _tiled(record) if metric.worst_frame is not None), None)


def _tile(record: CaseRecord) -> Tile | None:
    return next((metric.worst_tile for metric in _tiled(record)), None)
