"""Write a trial as a case record: the report shows both clips of ``quantgate try`` like golden and candidate."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

from harness.definitions.case import Located
from harness.frames.clip import read_clip
from harness.frames.compare import compare
from harness.outcomes import Outcome
from harness.records.case_record import CaseRecord
from harness.records.frames import ComparisonEvidence
from harness.records.verdict import Finding, Verdict
from harness.session.context import SessionContext
from harness.trial.trying import Trial

CAUSE = "try_"
"""Prefix of a trial's cause. Records with it are left out of trends."""
_OUTCOMES = {
    "safe": Outcome.PASS,
    "safe_with_changes": Outcome.PASS,
    "unsafe": Outcome.REGRESSION,
    "inconclusive": Outcome.INCONCLUSIVE,
}
_SIDES = {"now": "golden", "then": "candidate"}


def write_record(context: SessionContext, located: Located, trial: Trial, folder: Path) -> CaseRecord:
    """Write ``record.json`` in the folder of a trial, with the present clip as golden and the candidate's as candidate.

    Args:
        context: session context of the trial.
        located: the case as it is written.
        trial: result of the trial.
        folder: folder of the record; it contains the trial's clips.
    """
    clips = {side: Path(trial.clips[label]) for label, side in _SIDES.items() if label in trial.clips}
    sentences = "; ".join(trial.reasons)
    record = CaseRecord(
        run=context.run,
        case=located.case.id,
        node=f"{located.path.as_posix()}::{located.case.id}",
        source=located.place,
        runner=context.runner.name,
        started=datetime.now(UTC).isoformat(timespec="seconds"),
        request=located.case.model_dump(mode="json"),
        verdict=Verdict(
            outcome=_OUTCOMES[trial.answer],
            cause=f"{CAUSE}{trial.answer}",
            summary=f"The candidate is {trial.answer.replace('_', ' ')}. Shown as golden: the present one. {sentences}",
            findings=tuple(
                Finding(stage="identity", code="must_change", gating=False, message=f"must change with it: {line}")
                for line in trial.must_change
            ),
        ),
        changes=trial.changes,
        inspection=trial.inspection,
        comparison=_comparison(clips),
        artifacts={side: str(path.resolve().relative_to(folder.resolve())) for side, path in clips.items()},
    ).redacted()
    record.write(folder / "record.json")
    return record


def _comparison(clips: dict[str, Path]) -> ComparisonEvidence | None:
    if len(clips) < len(_SIDES):
        return None
    golden, candidate = read_clip(clips["golden"]), read_clip(clips["candidate"])
    return compare(golden, candidate) if golden.shape == candidate.shape else None
