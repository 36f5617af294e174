"""Causes on finished frames: a simple change of the golden's frames that gives the candidate's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness.records.attribution import Cause, ExperimentResult
from harness.records.base import Json
from harness.records.case_record import CaseRecord


def comparable(record: CaseRecord) -> bool:
    """Whether frames or sanity fail and a golden of the same shape lies beside the candidate."""
    failed = any(finding.stage in ("frames", "sanity") and finding.gating for finding in record.verdict.findings)
    compared = record.comparison is not None and not record.comparison.bit_exact
    return failed and compared and record.golden is not None


def explained(results: Sequence[ExperimentResult], *, decoder: bool = False) -> Iterator[Cause]:
    """Name the change that explains the frames best, with the share of the error, and the runner-up.

    Args:
        results: of the experiments.
        decoder: no velocity on the way differs, so the change happened in the VAE or after it.
    """
    for result in results:
        rows = result.data.get("explanations")
        if result.experiment.kind != "frames" or not result.done or not isinstance(rows, list) or not rows:
            continue
        first, *others = [row for row in rows if isinstance(row, dict)]
        text = f"{first['sentence']}; explains {_percent(first['share'])} of the error in the frames"
        evidence: dict[str, Json] = {**first}
        if others:
            text += f" (next: {others[0]['code']}, {_percent(others[0]['share'])})"
            evidence["runner_up"] = others[0]
        if decoder:
            text += "; every velocity on the way is the golden's, so it happened in the VAE or after it"
        frames = first.get("frames")
        listed = frames if isinstance(frames, list) else []
        place = "frames " + ", ".join(str(frame) for frame in listed[:8]) if listed else ""
        yield Cause(code=str(first["code"]), where=place, sentence=text, evidence=evidence)


def _percent(share: Json) -> str:
    return f"{share:.0%}" if isinstance(share, int | float) else "?"
