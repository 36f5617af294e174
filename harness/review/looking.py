"""A look at limits that come with a candidate: nobody here measured them, and the seal on them is no signature."""

from __future__ import annotations

from pathlib import Path

from harness.errors import GoldenError
from harness.judge.limit_changes import loosened, of_frames
from harness.records.candidate import Candidate
from harness.records.limits import Limit
from harness.review.limits import read_committed


def refuse_loose(candidate: Candidate, path: Path) -> None:
    """Refuse limits that let more through than the committed ones, or in which a metric of the frames does not gate.

    Args:
        candidate: with the limits that came along, if any did.
        path: the committed limit file, if there is one.

    Raises:
        GoldenError: they do; or the committed ones cannot be read.
    """
    new = candidate.limits
    if new is None:
        return
    old = read_committed(path)
    known = {limit.metric for limit in old.limits} if old is not None else set()
    loose = list(loosened(old, new))
    loose += [
        f"{limit.metric}: does not gate ({limit.why})"
        for limit in of_frames(new)
        if not limit.gates and limit.metric not in known
    ]
    if not of_frames(new):
        loose.append("no metric of the frames has a limit")
    if loose:
        raise GoldenError(
            "limits came with the candidate, and let through what the committed ones do not:\n  " + "\n  ".join(loose),
            where=f"{candidate.runner}/{candidate.case}",
            remedy="quantgate regenerate, which measures them here; or add --loosen-limits, if they are right",
        )


def vouched(candidate: Candidate, author: str, reason: str) -> Candidate:
    """The candidate with its limits under the name and the reason of the person who takes them as they are."""
    limits = candidate.limits
    if limits is None:
        return candidate
    said = f"{reason} (measured elsewhere by {limits.author}: {limits.reason})"
    return candidate.model_copy(update={"limits": limits.model_copy(update={"author": author, "reason": said})})


def changes_of(candidate: Candidate, path: Path) -> tuple[str, ...]:
    """Every limit that came with the candidate, old and new, a line each; none where none came."""
    if candidate.limits is None:
        return ()
    old = read_committed(path)
    return tuple(
        f"{limit.metric}: {_value(old.get(limit.metric) if old is not None else None)} -> {_value(limit)}"
        for limit in candidate.limits.limits
    )


def _value(limit: Limit | None) -> str:
    if limit is None:
        return "none"
    return "does not gate" if limit.limit is None else f"{limit.limit:.4g}"
