"""What a limit file lets through that another one did not, and what it lets through at all."""

from __future__ import annotations

from collections.abc import Sequence

from harness.judge.calibration.file import undetectable
from harness.judge.probe_limits import MEASURES
from harness.records.limits import Limit, LimitFile

_MEASURES = frozenset(measure.name for measure in MEASURES)


def of_frames(file: LimitFile) -> tuple[Limit, ...]:
    """The limits of frame metrics: neither of probes nor of traces."""
    return tuple(limit for limit in file.limits if limit.metric not in _MEASURES)


def gates_nothing(frames: Sequence[Limit]) -> str:
    """Why no frame can fail under these limits, a sentence; empty where a metric gates."""
    if any(limit.gates for limit in frames):
        return ""
    whys = dict.fromkeys(limit.why for limit in frames)
    return f"no metric gates, so that any frames would pass ({'; '.join(whys) or 'none has a limit'})"


def loosened(old: LimitFile | None, new: LimitFile) -> tuple[str, ...]:
    """One sentence a limit that lets more through than before."""
    if old is None:
        return ()
    sentences = []
    for limit in new.limits:
        before = old.get(limit.metric)
        if before is None or before.limit is None:
            continue
        if limit.limit is None:
            sentences.append(f"{limit.metric}: {before.limit:.4g} -> does not gate")
        elif limit.direction != before.direction or not before.admits(limit.limit):
            sentences.append(f"{limit.metric}: {before.limit:.4g} -> {limit.limit:.4g}")
    gone = {limit.metric for limit in old.limits} - {limit.metric for limit in new.limits}
    sentences += [f"{name}: no longer measured" for name in sorted(gone)]
    lost = undetectable(old.limits, new.limits) if sentences else ()
    if lost:
        sentences.append(f"no longer found by frames: {', '.join(lost)}")
    return tuple(sentences)
