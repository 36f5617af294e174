"""What a repeat of a failed run says: noise is measured by the limits and by distances, not by equality of bytes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness.records.attribution import Cause, ExperimentResult

LIKE_THE_FIRST = 0.5
"""Two failing runs are one failure if they are nearer to each other than this share of the way to the golden."""


def ruled_out(result: ExperimentResult | None) -> bool:
    """Whether a repeat rules noise out: it is bit-exact, or it fails as the first run does, at a like distance."""
    if result is None or not result.done:
        return False
    if result.data.get("equal") is True:
        return True
    return result.data.get("passes") is False and not _scattered(result)


def differs(result: ExperimentResult | None) -> bool:
    """Whether a repeat gives another result: other bytes where nothing was judged, another failure where it was."""
    if result is None or not result.done or result.data.get("equal") is not False:
        return False
    passes = result.data.get("passes")
    return passes is None or (passes is False and _scattered(result))


def unstable(results: Sequence[ExperimentResult]) -> Iterator[Cause]:
    """The first run fails and a repeat passes: the verdict depends on chance."""
    for result in results:
        if result.experiment.kind == "rerun_same" and result.done and result.data.get("passes") is True:
            text = (
                "the run is unstable: the first run fails and a repeat of the same request passes"
                f" ({_distances(result)}); both clips are kept"
            )
            yield Cause(code="unstable", where="engine", sentence=text, evidence=dict(result.data))


def _scattered(result: ExperimentResult) -> bool:
    apart, away = result.data.get("rms_between"), result.data.get("rms_first")
    if not isinstance(apart, int | float) or not isinstance(away, int | float):
        return False
    return apart > LIKE_THE_FIRST * away


def _distances(result: ExperimentResult) -> str:
    values = [result.data.get(name) for name in ("rms_first", "rms_repeat")]
    first, repeat = (f"{value:.2f}" if isinstance(value, int | float) else "unknown" for value in values)
    return f"{first} and {repeat} levels rms from the golden"
